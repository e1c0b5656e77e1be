#include "perceiver/io/checkpoint.h"

#include <cmath>
#include <limits>
#include <unistd.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "io/bytes_of.h"
#include "perceiver/base/file.h"
#include "perceiver/io/safetensors.h"
#include "perceiver/io/torch_checkpoint.h"
#include "support/shared.h"

namespace perceiver::io {
namespace {

namespace fs = std::filesystem;
using test::expect_same;
using test::refusal;
using ::testing::AllOf;
using ::testing::HasSubstr;

class CheckpointFolder : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    folder_ = fs::path(::testing::TempDir()) /
              ("perceiver_checkpoint_" + std::string(test->name()) + std::to_string(::getpid()));
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  void write(const std::string& name, std::string_view contents) {
    write_file_atomically(folder_ / name, contents);
  }
  void write_arrays(const std::string& name, const ArrayMap& arrays) {
    write_safetensors(folder_ / name, arrays);
  }
  std::string sniffed(std::string_view contents) {
    write("unknown", contents);
    return refusal(ErrorCode::kFormat, [&] { sniff_checkpoint(folder_ / "unknown"); });
  }
  std::string weights_refused(ErrorCode code = ErrorCode::kFormat) {
    return refusal(code, [&] { read_hugging_face_weights(folder_); });
  }

  fs::path folder_;
  const Array one_ = Array::of<float>({1}, {1});
  const Array two_ = Array::of<float>({1}, {2});
};

TEST_F(CheckpointFolder, SniffSaysWhatElseAFileIs) {
  EXPECT_THAT(sniffed(""), HasSubstr("an empty file"));
  EXPECT_THAT(sniffed("<!DOCTYPE html><html></html>"), HasSubstr("an HTML page"));
  EXPECT_THAT(sniffed("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
              HasSubstr("git lfs pull"));
  EXPECT_THAT(sniffed(std::string_view("\x89PNG\r\n\x1a\n\0\0\0\0", 12)), HasSubstr("PNG"));
  EXPECT_THAT(sniffed("{\"model_type\": \"perceiver\"}"), HasSubstr("JSON"));
  EXPECT_THAT(sniffed("a text of some length."), HasSubstr("text"));
}

TEST_F(CheckpointFolder, SniffGoesByContentNotName) {
  write_arrays("weights.bin", {{"a", one_}});
  EXPECT_EQ(sniff_checkpoint(folder_ / "weights.bin"), CheckpointKind::kSafetensors);
  expect_same(read_checkpoint(folder_ / "weights.bin"), {{"a", one_}});
  write("old", "(dp0\n.");
  EXPECT_EQ(sniff_checkpoint(folder_ / "old"), CheckpointKind::kHaiku);
  EXPECT_THAT(refusal(ErrorCode::kFormat, [&] { read_checkpoint(folder_ / "old"); }),
              HasSubstr("Haiku pickle"));
}

TEST(Sniff, KnowsEveryFixture) {
  PERCEIVER_SHARED_OR_SKIP(fixtures, "fixtures");
  const fs::path bins = fixtures / "transformers" / "bin_containers";
  EXPECT_EQ(sniff_checkpoint(bins / "zip.bin"), CheckpointKind::kTorch);
  EXPECT_EQ(sniff_checkpoint(bins / "legacy_not_zip.bin"), CheckpointKind::kTorch);
  EXPECT_EQ(sniff_checkpoint(bins / "zip.expected.safetensors"), CheckpointKind::kSafetensors);
  for (const auto& entry : fs::directory_iterator(fixtures / "deepmind" / "pickle_variants")) {
    const std::string name = entry.path().filename().string();
    if (entry.path().extension() == ".pickle" && !name.starts_with("refuse_")) {
      EXPECT_EQ(sniff_checkpoint(entry.path()), CheckpointKind::kHaiku) << name;
    }
  }
}

TEST_F(CheckpointFolder, WeightsComeFromTheSafetensorsFileFirst) {
  write_arrays("model.safetensors", {{"a", one_}});
  write("pytorch_model.bin", "not looked at");
  expect_same(read_hugging_face_weights(folder_), {{"a", one_}});
}

TEST_F(CheckpointFolder, WeightsComeFromShards) {
  write_arrays("part-1.safetensors", {{"a", one_}});
  write_arrays("part-2.safetensors", {{"b", two_}});
  write("model.safetensors.index.json",
        R"({"metadata": {},
            "weight_map": {"a": "part-1.safetensors", "b": "part-2.safetensors"}})");
  expect_same(read_hugging_face_weights(folder_), {{"a", one_}, {"b", two_}});
}

TEST_F(CheckpointFolder, ShardsMustHoldWhatTheIndexSays) {
  write_arrays("part", {{"a", one_}, {"c", two_}});
  write("model.safetensors.index.json", R"({"weight_map": {"a": "part", "b": "part"}})");
  EXPECT_THAT(weights_refused(), HasSubstr("tensor \"b\" is missing"));
  write("model.safetensors.index.json", R"({"weight_map": {"a": "part"}})");
  EXPECT_THAT(weights_refused(), HasSubstr("tensor \"c\" is here"));
  write("model.safetensors.index.json", R"({"weight_map": {"a": "gone"}})");
  EXPECT_THAT(weights_refused(ErrorCode::kIo), HasSubstr("gone: No such file"));
}

TEST_F(CheckpointFolder, ShardsMayNotLeaveTheFolder) {
  for (const char* shard : {"../x", "/etc/passwd", "a/b", "..", "", "a\\\\b", "a\\u0000b"}) {
    write("model.safetensors.index.json",
          std::string(R"({"weight_map": {"a": ")") + shard + "\"}}");
    EXPECT_THAT(weights_refused(), HasSubstr("not a file of this folder"));
  }
  for (const char* index : {"[]", "{}", R"({"weight_map": {}})", R"({"weight_map": 3})",
                            R"({"weight_map": {"a": 1}})"}) {
    write("model.safetensors.index.json", index);
    weights_refused();
  }
}

TEST_F(CheckpointFolder, AFolderWithoutWeightsSaysWhatWasLookedFor) {
  EXPECT_THAT(weights_refused(ErrorCode::kIo),
              AllOf(HasSubstr("model.safetensors, model.safetensors.index.json"),
                    HasSubstr("pytorch_model.bin")));
  EXPECT_THAT(refusal(ErrorCode::kIo, [&] { read_hugging_face_weights(folder_ / "none"); }),
              HasSubstr("No such file"));
}

TEST(HuggingFaceFolder, ReadsPytorchModelBin) {
  PERCEIVER_SHARED_OR_SKIP(folder, "fixtures/transformers/hub_style_vision_conv");
  const ArrayMap weights = read_hugging_face_weights(folder);
  EXPECT_EQ(weights.count("perceiver.embeddings.latents"), 1u);
  EXPECT_NO_THROW(require_finite(weights, "hub"));
}

TEST(RequireFinite, NamesTheFirstBadElement) {
  const float nan = std::nanf("");
  const float infinity = std::numeric_limits<float>::infinity();
  std::vector<float> values(10000, 1.0F);
  values[9001] = -infinity;
  values[9500] = nan;
  const ArrayMap arrays = {{"a", Array::of<float>({3}, {0, -0.0F, 3e38F})},
                           {"b", Array::of<float>({100, 100}, values)}};
  EXPECT_THAT(refusal(ErrorCode::kFormat, [&] { require_finite(arrays, "model"); }),
              AllOf(HasSubstr("model: tensor \"b\" of shape [100, 100]"),
                    HasSubstr("-inf at flat index 9001")));
  for (const DType dtype : {DType::kF64, DType::kF32, DType::kF16, DType::kBF16}) {
    const Array bad = Array::of<float>({2}, {1, nan}).to(dtype);
    EXPECT_THAT(refusal(ErrorCode::kFormat,
                        [&] {
                          require_finite({{"x", bad}}, "m");
                        }),
                HasSubstr("nan at flat index 1"));
    EXPECT_NO_THROW(require_finite({{"x", bad.rows(0, 1)}}, "m"));
  }
  EXPECT_NO_THROW(require_finite({{"i", Array::of<int32_t>({1}, {0x7F800000})}}, "m"));
}

}  // namespace
}  // namespace perceiver::io
