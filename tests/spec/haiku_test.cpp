#include "perceiver/spec/haiku.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "perceiver/base/error.h"
#include "perceiver/io/haiku_checkpoint.h"
#include "perceiver/spec/hugging_face.h"
#include "perceiver/spec/parameters.h"
#include "perceiver/spec/presets.h"
#include "support/deepmind_spec.h"
#include "support/shared.h"

namespace perceiver {
namespace {

using testing::HasSubstr;

TEST(Switches, DeepMindAndTransformersDifferInEveryDocumentedPlace) {
  const ModelSpec learned = preset("vision-perceiver-learned");
  const ModelSpec deepmind = as_deepmind(learned);
  EXPECT_EQ(deepmind.compatibility.activation, Activation::kGeluTanh);
  EXPECT_EQ(deepmind.compatibility.conv_padding, ConvPadding::kSame);
  EXPECT_EQ(deepmind.compatibility.masked_rows, MaskedRows::kZero);
  EXPECT_TRUE(deepmind.compatibility.decoder_uses_query_mask);
  EXPECT_EQ(deepmind.compatibility.batch_norm_average, BatchNormAverage::kZeroDebiased);
  EXPECT_EQ(learned.compatibility.batch_norm_average, BatchNormAverage::kPlain);
  EXPECT_EQ(deepmind.compatibility.attention_dropout, 0);
  EXPECT_FALSE(deepmind.decoder.cross_attend.use_query_residual);
  const ModelSpec back = as_transformers(deepmind);
  EXPECT_TRUE(back.decoder.cross_attend.use_query_residual);
  EXPECT_TRUE(has_hugging_face_form(back));
  EXPECT_TRUE(
      as_deepmind(preset("vision-perceiver-fourier")).decoder.cross_attend.use_query_residual);
}

TEST(RecogniseHaiku, SaysWhatItLookedFor) {
  try {
    recognise_haiku({});
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kFormat);
    EXPECT_THAT(error.what(), HasSubstr("embedding_decoder/bias"));
  }
}

struct Folder {
  const char* name;
  const char* released;
};

class HaikuShared : public testing::TestWithParam<Folder> {};

TEST_P(HaikuShared, EveryTensorOfThePickleFindsItsPlace) {
  PERCEIVER_SHARED_OR_SKIP(folder, std::string("fixtures/deepmind/") + GetParam().name);
  const ModelSpec spec = test::deepmind_fixture_spec(folder);
  const io::HaikuCheckpoint checkpoint = io::read_haiku_checkpoint(folder / "params.pickle");
  if (*GetParam().released != '\0') {
    EXPECT_EQ(recognise_haiku(checkpoint.params), GetParam().released);
  }
  const ArrayMap ours = from_haiku(spec, checkpoint.params, checkpoint.state, "params.pickle");
  EXPECT_NO_THROW(check_parameters(spec, ours, "params.pickle"));

  // Linears are transposed: ours[o][i] is theirs[i][o].
  const std::string module =
      checkpoint.params.contains("encoder/~/cross_attention/attention/linear/w")
          ? "encoder"
          : "perceiver_encoder";
  const Array& theirs = checkpoint.params.at(module + "/~/cross_attention/attention/linear_1/w");
  const Array& mine = ours.at("encoder.cross_attend.0.key.weight");
  ASSERT_EQ(theirs.size(0), mine.size(1));
  EXPECT_EQ(mine.data<float>()[1], theirs.data<float>()[theirs.size(1)]);

  ArrayMap damaged = checkpoint.params;
  damaged.erase(module + "/~/self_attention_1/mlp/linear_1/w");
  damaged["stranger/w"] = Array::zeros(DType::kF32, {2});
  try {
    from_haiku(spec, damaged, checkpoint.state, "params.pickle");
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("params.pickle: "));
    EXPECT_THAT(error.what(),
                HasSubstr("missing: " + module + "/~/self_attention_1/mlp/linear_1/w"));
    EXPECT_THAT(error.what(), HasSubstr("surplus: stranger/w [2]"));
  }
}

INSTANTIATE_TEST_SUITE_P(Folders, HaikuShared,
                         testing::Values(Folder{"language", "language-perceiver"},
                                         Folder{"imagenet_learned", "vision-perceiver-learned"},
                                         Folder{"imagenet_fourier", "vision-perceiver-fourier"},
                                         Folder{"imagenet_conv", "vision-perceiver-conv"},
                                         Folder{"optical_flow", "optical-flow-perceiver"},
                                         Folder{"multimodal", "multimodal-perceiver"},
                                         Folder{"perceiver_projection", ""}),
                         [](const auto& folder) { return std::string(folder.param.name); });

TEST(HaikuConvShared, StemKernelIsPermutedNotReversed) {
  PERCEIVER_SHARED_OR_SKIP(folder, "fixtures/deepmind/imagenet_conv");
  const io::HaikuCheckpoint checkpoint = io::read_haiku_checkpoint(folder / "params.pickle");
  const ArrayMap ours = from_haiku(test::deepmind_fixture_spec(folder), checkpoint.params,
                                   checkpoint.state, "params.pickle");
  const Array& theirs =
      checkpoint.params.at("image_preprocessor/~/conv2_d_downsample/~/conv/w");  // [7, 7, 3, 8]
  const Array& mine = ours.at("inputs.inputs.conv.0.weight");                    // [8, 3, 7, 7]
  const int64_t h = 2, w = 5, i = 1, o = 6;
  EXPECT_EQ(mine.data<float>()[((o * 3 + i) * 7 + h) * 7 + w],
            theirs.data<float>()[((h * 7 + w) * 3 + i) * 8 + o]);
}

}  // namespace
}  // namespace perceiver
