#pragma once

#include <atomic>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "perceiver/base/file.h"
#include "perceiver/train/train.h"
#include "train/checkpoint.h"
#include "train/tiny.h"

namespace perceiver::train::test {

/// A folder with tiny data sets for the recipes of tiny.h, and runs in it.
class Training : public ::testing::Test {
 protected:
  static constexpr uint64_t kAnySize = uint64_t{1} << 30;

  Training() {
    write_pictures(folder_, "train", 40);
    write_pictures(folder_, "test", 20);
    std::string text;
    for (int i = 0; i < 300; ++i) {
      text += "the cat sat on the mat.\n";
    }
    write_bytes(folder_ / "text", text);
  }

  Recipe read(const Json& json) { return recipe_from_json(json, folder_ / "r.json", {}); }

  TrainResult run(const Json& json, const std::string& out, int64_t stop_after = 0,
                  bool resume = false, int loaders = 1) {
    const Recipe recipe = read(json);
    std::atomic<bool> stop{false};
    TrainOptions options;
    options.out = folder_ / out;
    options.resume = resume;
    options.num_threads = 1;
    options.num_loaders = loaders;
    options.stop = &stop;
    options.on_note = [&](const std::string& line) { notes_.push_back(line); };
    options.on_step = [&](const StepRecord& record) {
      losses_.push_back(record.loss);
      stop = stop || record.step == stop_after;
    };
    return train(recipe, options);
  }

  std::string bytes_of(const std::string& name) { return read_file(folder_ / name, kAnySize); }

  std::string checkpoint_of(const std::string& out) {
    return read_file(newest_checkpoint(folder_ / out / "training"), kAnySize);
  }

  TemporaryFolder folder_;
  std::vector<double> losses_;
  std::vector<std::string> notes_;
};

}  // namespace perceiver::train::test
