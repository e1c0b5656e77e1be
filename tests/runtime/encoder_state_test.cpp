#include "runtime/encoder_state.h"

#include <algorithm>
#include <random>

#include <gtest/gtest.h>

#include "perceiver/base/error.h"
#include "plan_fixture.h"

namespace perceiver::runtime::test {
namespace {

constexpr Plan kPlans[] = {Plan::kTextbook, Plan::kAbsorbed, Plan::kFactored};
constexpr int64_t kHeight = 12, kWidth = 10, kFrames = 30;

/// A picture and a series side by side, two heads.
ModelSpec two_inputs(int64_t latent_channels = 10) {
  ModelSpec spec;
  InputSpec picture;
  picture.name = "picture";
  picture.index_dims = {kHeight, kWidth};
  picture.channels = 3;
  picture.stem = Stem::kPatches;
  picture.downsample = {2, 2};
  picture.position.kind = PositionKind::kFourier;
  picture.position.num_bands = 3;
  InputSpec series;
  series.name = "series";
  series.index_dims = {kFrames};
  series.channels = 4;
  series.position.kind = PositionKind::kFourier;
  series.position.num_bands = 5;
  spec.inputs = {picture, series};
  spec.pad_inputs = true;
  spec.encoder.num_latents = 6;
  spec.encoder.latent_channels = latent_channels;
  spec.encoder.cross_attend = {.num_heads = 2, .qk_channels = 8, .v_channels = 12};
  spec.encoder.num_self_attends_per_block = 1;
  OutputSpec output;
  output.name = "out";
  output.index_dims = {1};
  output.channels = 4;
  spec.outputs = {output};
  spec.decoder.output_channels = 3;
  return spec;
}

Array random_array(std::vector<int64_t> shape, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  Array array = Array::zeros(DType::kF32, std::move(shape));
  for (int64_t i = 0; i < array.numel(); ++i) {
    array.mutable_data<float>()[i] = normal(random);
  }
  return array;
}

/// Slices [begin, end) of axis 1.
Array slices(const Array& array, int64_t begin, int64_t end) {
  std::vector<int64_t> shape = array.shape();
  const int64_t inner = array.numel() / (shape[0] * shape[1]), whole = shape[1];
  shape[1] = end - begin;
  Array part = Array::zeros(array.dtype(), shape);
  const int64_t bytes = inner * dtype_size(array.dtype());
  for (int64_t b = 0; b < shape[0]; ++b) {
    std::copy_n(array.bytes() + (b * whole + begin) * bytes, (end - begin) * bytes,
                part.mutable_bytes() + b * (end - begin) * bytes);
  }
  return part;
}

class Model {
 public:
  explicit Model(const ModelSpec& spec, uint32_t seed = 7)
      : spec_(spec),
        shape_(resolve(spec)),
        arrays_(random_weights(spec, seed)),
        weights_(spec, arrays_),
        cross_(weights_, "encoder.cross_attend.0", spec, shape_, Precision::kF32) {}

  StreamedState state(Plan plan, int64_t batch = 2,
                      std::map<std::string, std::vector<int64_t>> extents = {}) {
    const Array& latents = arrays_.at("latents");
    return {
        {spec_, shape_, weights_, cross_, workspace_, &cache_, {}},
        cross_.prepare({latents.data<float>(), latents.size(0), latents.size(1), latents.size(1)},
                       batch, true, plan, workspace_),
        batch,
        std::move(extents)};
  }

  /// The state of one read of everything.
  ReadState whole(const StreamedState& like, const ModelInputs& inputs) {
    ReadState state;
    for (const auto& source : read_inputs(spec_, shape_, weights_, inputs, workspace_, &cache_)) {
      cross_.read(like.queries(), *source, 0, source->count(), 0, state, workspace_);
    }
    return state;
  }

 private:
  ModelSpec spec_;
  ModelShape shape_;
  ArrayMap arrays_;
  Weights weights_;
  CrossAttendIn cross_;
  Workspace workspace_;
  SourceCache cache_;
};

void expect_same(const ReadState& got, const ReadState& wanted) {
  EXPECT_EQ(got.tokens, wanted.tokens);
  ASSERT_EQ(got.lse.size(), wanted.lse.size());
  ASSERT_EQ(got.mean.size(), wanted.mean.size());
  for (size_t i = 0; i < got.lse.size(); ++i) {
    ASSERT_NEAR(got.lse[i], wanted.lse[i], 1e-5F) << "lse " << i;
  }
  for (size_t i = 0; i < got.mean.size(); ++i) {
    ASSERT_NEAR(got.mean[i], wanted.mean[i], 5e-6F) << "mean " << i;
  }
}

struct Inputs {
  Array picture = random_array({2, kHeight, kWidth, 3}, 1);
  Array series = random_array({2, kFrames, 4}, 2);
};

TEST(EncoderState, BlocksInAnyOrderAddUpToOneRead) {
  Model model(two_inputs());
  const Inputs in;
  for (const Plan plan : kPlans) {
    StreamedState state = model.state(plan);
    state.push("series", slices(in.series, 20, 30), 20);
    state.push("picture", slices(in.picture, 6, 12), 6);
    state.push("series", slices(in.series, 0, 7), 0);
    state.push("picture", slices(in.picture, 0, 2), 0);
    state.push("picture", slices(in.picture, 2, 6), 2);
    state.push("series", slices(in.series, 7, 20), 7);
    ModelInputs inputs;
    inputs.arrays = {{"picture", in.picture}, {"series", in.series}};
    SCOPED_TRACE(plan_name(plan));
    EXPECT_EQ(state.tokens(), kHeight * kWidth / 4 + kFrames);
    expect_same(state.read_state(), model.whole(state, inputs));
  }
}

TEST(EncoderState, TwoStatesOverDisjointTokensMerge) {
  Model model(two_inputs());
  const Inputs in;
  for (const Plan plan : kPlans) {
    StreamedState left = model.state(plan), right = model.state(plan);
    left.push("picture", in.picture, 0);
    right.push("series", in.series, 0);
    left.merge(right);
    ModelInputs inputs;
    inputs.arrays = {{"picture", in.picture}, {"series", in.series}};
    SCOPED_TRACE(plan_name(plan));
    expect_same(left.read_state(), model.whole(left, inputs));
    EXPECT_THROW(left.merge(left), Error);
  }
}

TEST(EncoderState, MasksGoWithTheirBlocks) {
  Model model(two_inputs());
  const Inputs in;
  Array mask = Array::zeros(DType::kBool, {2, kFrames});
  for (int64_t i = 0; i < mask.numel(); ++i) {
    // example 1: nothing valid after its first ten
    mask.mutable_bytes()[i] = std::byte{static_cast<uint8_t>(i < 40 && i % 3 != 0 ? 1 : 0)};
  }
  ModelInputs inputs;
  inputs.arrays = {{"picture", in.picture}, {"series", in.series}};
  inputs.masks = {{"series", mask}};
  for (const Plan plan : kPlans) {
    StreamedState state = model.state(plan);
    state.push("picture", in.picture, 0);
    state.push("series", slices(in.series, 13, 30), 13, slices(mask, 13, 30));
    state.push("series", slices(in.series, 0, 13), 0, slices(mask, 0, 13));
    SCOPED_TRACE(plan_name(plan));
    expect_same(state.read_state(), model.whole(state, inputs));
  }
}

TEST(EncoderState, ItsSizeIsIndependentOfTheTokens) {
  Model model(two_inputs());
  StreamedState state = model.state(Plan::kFactored, 1, {{"series", {4000}}});
  const auto bytes = [&] {
    int64_t sum = 0;
    for (const auto& [name, array] : state.save()) {
      sum += array.nbytes();
    }
    return sum;
  };
  const int64_t empty = bytes();
  const Array block = random_array({1, 1000, 4}, 3);
  for (int64_t begin = 0; begin < 4000; begin += 1000) {
    state.push("series", block, begin);
  }
  EXPECT_EQ(bytes(), empty);
  EXPECT_EQ(state.tokens(), 4000);
}

TEST(EncoderState, GoesOnAfterSavingAndLoading) {
  for (const MaskedRows masked_rows : {MaskedRows::kZero, MaskedRows::kMean}) {
    ModelSpec spec = two_inputs();
    spec.compatibility.masked_rows = masked_rows;
    Model model(spec);
    const Inputs in;
    StreamedState first = model.state(Plan::kFactored), second = model.state(Plan::kFactored);
    first.push("picture", slices(in.picture, 0, 4), 0);
    const ArrayMap saved = first.save();
    first.push("picture", slices(in.picture, 4, 12), 4);
    second.load(saved);
    EXPECT_EQ(second.tokens(), 2 * kWidth / 2);
    second.push("picture", slices(in.picture, 4, 12), 4);
    EXPECT_EQ(second.read_state().mean, first.read_state().mean);
    EXPECT_EQ(second.read_state().lse, first.read_state().lse);
  }
}

std::string refusal(StreamedState& state, const ArrayMap& saved) {
  try {
    state.load(saved);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kArgument);
    return error.what();
  }
  return "";
}

TEST(EncoderState, AnotherModelsStateIsRefusedByName) {
  Model model(two_inputs()), other_weights(two_inputs(), 8);
  ModelSpec more_latents = two_inputs();
  more_latents.encoder.num_latents = 5;
  Model other_size(more_latents);
  StreamedState state = model.state(Plan::kFactored);
  const auto expect_refused = [&](const ArrayMap& saved, const std::string& word) {
    const std::string message = refusal(state, saved);
    EXPECT_NE(message.find(word), std::string::npos) << "'" << message << "' without " << word;
  };
  expect_refused(other_weights.state(Plan::kFactored).save(), "weights");
  expect_refused(other_size.state(Plan::kFactored).save(), "latents 5, here 6");
  expect_refused(model.state(Plan::kTextbook).save(), "plan");
  expect_refused(model.state(Plan::kFactored, 1).save(), "lse");
  ArrayMap damaged = model.state(Plan::kFactored).save();
  damaged.erase("mean");
  expect_refused(damaged, "mean");
  damaged["mean"] = Array::zeros(DType::kF32, {3});
  expect_refused(damaged, "mean");
  StreamedState other = other_weights.state(Plan::kFactored);
  EXPECT_THROW(state.merge(other), Error);
  // the absorbed plans keep the same state
  EXPECT_EQ(refusal(state, model.state(Plan::kAbsorbed).save()), "");
}

TEST(EncoderState, ABlockOfAnotherBatchOrNameIsRefused) {
  Model model(two_inputs());
  StreamedState state = model.state(Plan::kFactored);
  EXPECT_THROW(state.push("picture", random_array({1, 2, kWidth, 3}, 1), 0), Error);
  EXPECT_THROW(state.push("sound", random_array({2, 2, kWidth, 3}, 1), 0), Error);
  EXPECT_THROW(state.push("picture", random_array({2, 3, kWidth, 3}, 1), 0), Error)
      << "half a patch";
  EXPECT_EQ(state.tokens(), 0);
}

}  // namespace
}  // namespace perceiver::runtime::test
