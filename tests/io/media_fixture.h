#pragma once

#include <cmath>
#include <filesystem>
#include <fstream>
#include <string>
#include <unistd.h>

#include <gtest/gtest.h>

#include "perceiver/base/error.h"
#include "perceiver/io/audio.h"

namespace perceiver::test {

/// A folder of the test's own, removed afterwards.
class MediaTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    folder_ = std::filesystem::path(::testing::TempDir()) /
              (std::string("perceiver_") + test->test_suite_name() + "_" + test->name() +
               std::to_string(::getpid()));
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::filesystem::path file(const std::string& name, std::string_view contents) const {
    const std::filesystem::path path = folder_ / name;
    std::ofstream(path, std::ios::binary)
        .write(contents.data(), static_cast<std::streamsize>(contents.size()));
    return path;
  }
  static std::string contents(const std::filesystem::path& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  size_t entries() const {
    return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(folder_), {}));
  }

  std::filesystem::path folder_;
};

/// Code and message of the Error `call` throws, as "3 message"; "nothing" when it does not.
template <typename Call>
std::string failure(const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    return std::to_string(static_cast<int>(error.code())) + " " + error.what();
  }
  return "nothing";
}

/// `channels` sines of 440, 880, ... Hz.
inline io::Audio sine(int sample_rate, int64_t length, int64_t channels, double amplitude = 0.5) {
  io::Audio audio{Array::zeros(DType::kF32, {length, channels}), sample_rate};
  for (int64_t t = 0; t < length; ++t) {
    for (int64_t c = 0; c < channels; ++c) {
      audio.samples.mutable_data<float>()[t * channels + c] =
          static_cast<float>(amplitude * std::sin(2.0 * 3.14159265358979 * 440.0 *
                                                  static_cast<double>((c + 1) * t) / sample_rate));
    }
  }
  return audio;
}

}  // namespace perceiver::test
