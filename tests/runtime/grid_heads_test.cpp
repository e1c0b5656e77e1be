#include "runtime/grid_heads.h"

#include <cmath>

#include <gtest/gtest.h>

#include <ATen/core/grad_mode.h>

#include "runtime/source_fixture.h"
#include "support/compare.h"

// What follows the decoded rows, against the nn engine: the same model with and without its head.

namespace perceiver::runtime {
namespace {

using fixture::Both;
using fixture::Numbers;
using fixture::thrown_by;
using perceiver::test::difference;
using perceiver::test::max_abs;

struct Case {
  std::string name;
  OutputSpec output;
  int64_t decoder_channels = 4;
};

void PrintTo(const Case& example, std::ostream* out) {
  *out << example.name;
}

OutputSpec on_grid(const std::vector<int64_t>& grid) {
  OutputSpec output;
  output.name = "answer";
  output.query = QueryKind::kFourier;
  output.index_dims = grid;
  output.position.kind = PositionKind::kFourier;
  output.position.num_bands = 2;
  return output;
}

OutputSpec head(const std::vector<int64_t>& grid, HeadKind kind, int64_t channels,
                const std::vector<int64_t>& factors) {
  OutputSpec output = on_grid(grid);
  output.head = kind;
  output.head_channels = channels;
  output.head_factors = factors;
  return output;
}

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  cases.push_back({"rows", on_grid({3, 4})});
  cases.push_back({"grid", on_grid({3, 4})});
  cases.back().output.keep_grid = true;
  cases.push_back({"divided", on_grid({3, 4})});
  cases.back().output.divide_by = 7;
  cases.push_back({"flat", on_grid({6})});
  cases.back().output.flatten_channels = true;
  cases.push_back({"single", on_grid({1})});
  cases.back().output.single_row = true;
  cases.push_back({"depth_to_space", head({3, 4}, HeadKind::kDepthToSpace, 2, {2, 3}), 12});
  cases.push_back({"sound_blocks", head({5}, HeadKind::kDepthToSpace, 1, {4}), 4});
  cases.push_back({"upsample", head({3, 5}, HeadKind::kConvUpsample, 3, {4, 4})});
  cases.push_back({"upsample_one_axis", head({3, 5}, HeadKind::kConvUpsample, 3, {1, 2})});
  cases.push_back({"upsample_unequally", head({3, 2}, HeadKind::kConvUpsample, 2, {8, 2})});
  cases.push_back({"upsample_video", head({2, 3, 4}, HeadKind::kConvUpsample, 2, {1, 4, 4})});
  cases.push_back({"upsample_frames", head({2, 3, 2}, HeadKind::kConvUpsample, 2, {4, 2, 1})});
  cases.push_back({"upsample_nothing", head({3, 5}, HeadKind::kConvUpsample, 4, {1, 1})});
  cases.push_back({"convex", head({3, 5}, HeadKind::kConvexUpsample, 2, {4, 2})});
  cases.push_back({"convex_one_point", head({1, 1}, HeadKind::kConvexUpsample, 3, {2, 2})});
  const size_t plain = cases.size();
  for (size_t i = 5; i < plain; ++i) {
    Case kept = cases[i];
    kept.name += "_on_its_grid";
    kept.output.keep_grid = true;
    kept.output.divide_by = 100;
    cases.push_back(kept);
  }
  return cases;
}

ModelSpec spec_of(const Case& example) {
  ModelSpec spec = fixture::spec_around();
  spec.inputs = {fixture::picture({4}, 3)};
  spec.outputs = {example.output};
  spec.decoder.output_channels = example.decoder_channels;
  return spec;
}

/// The rows before everything shape_output() does.
ModelSpec bare(ModelSpec spec) {
  OutputSpec& output = spec.outputs[0];
  output.head = HeadKind::kNone;
  output.head_channels = 0;
  output.head_factors = {};
  output.divide_by = 1;
  output.single_row = output.flatten_channels = output.keep_grid = false;
  return spec;
}

Array reference(const ModelSpec& spec, const ArrayMap& weights, const ModelInputs& inputs) {
  const at::NoGradGuard no_grad;
  ArrayMap own;
  for (const ParameterInfo& info : parameter_table(spec)) {
    own[info.name] = weights.at(info.name);
  }
  nn::Model model(spec, own);
  return nn::to_array(model.forward(Both::tensors(inputs)).at("answer"));
}

class GridHeadsTest : public testing::TestWithParam<Case> {};

TEST_P(GridHeadsTest, ShapeTheRowsAsTheReferenceEngineDoes) {
  const ModelSpec spec = spec_of(GetParam());
  const ArrayMap arrays = fixture::random_weights(spec);
  ModelInputs inputs;
  inputs.arrays["picture"] = Numbers(1).floats({2, 4, 3});
  const Array rows = reference(bare(spec), arrays, inputs);
  const Array wanted = reference(spec, arrays, inputs);
  const Weights weights(spec, arrays);
  const Array before = rows.clone();
  const Array got = shape_output(weights, spec.outputs[0], spec.outputs[0].index_dims, true, rows);
  const auto apart = difference(got, wanted);
  EXPECT_LE(apart.max_abs, 2e-6 * (1 + max_abs(wanted))) << apart.text;
  EXPECT_EQ(difference(rows, before).max_abs, 0) << "the caller's rows were written to";
}

INSTANTIATE_TEST_SUITE_P(Heads, GridHeadsTest, testing::ValuesIn(all_cases()),
                         [](const auto& parameter) { return parameter.param.name; });

TEST(GridHeads, KeepTheRowsOfAnIncompleteGrid) {
  for (const Case& example : all_cases()) {
    const ModelSpec spec = spec_of(example);
    const Weights weights(spec, fixture::random_weights(spec));
    const Array rows = Numbers(3).floats({2, 5, example.decoder_channels});
    const OutputSpec& output = spec.outputs[0];
    const auto shape = [&] { return shape_output(weights, output, {5}, false, rows); };
    if (!output.head_factors.empty()) {
      EXPECT_EQ(thrown_by(shape),
                "1: [output answer] its upsampling head needs every row, but only 5 were asked "
                "for");
    } else if (!output.single_row && !output.flatten_channels) {
      EXPECT_EQ(shape().shape(), rows.shape());
    }
  }
}

TEST(GridHeads, ASingleRowIsTheFirstOfThoseAskedFor) {
  OutputSpec output = on_grid({1});
  output.single_row = true;
  const ModelSpec spec = spec_of({"single", output});
  const Weights weights(spec, fixture::random_weights(spec));
  const Array rows = Numbers(3).floats({2, 3, 4});
  const Array got = shape_output(weights, spec.outputs[0], {3}, false, rows);
  ASSERT_EQ(got.shape(), (std::vector<int64_t>{2, 4}));
  for (int64_t i = 0; i < 8; ++i) {
    EXPECT_EQ(got.data<float>()[i], rows.data<float>()[i / 4 * 12 + i % 4]);
  }
  EXPECT_EQ(thrown_by([&] {
              shape_output(weights, spec.outputs[0], {0}, false, Numbers(3).floats({2, 0, 4}));
            }),
            "1: [output answer] no row was asked for");
}

/// A convex combination of equal neighbours is their value; the border mixes in zeros.
TEST(GridHeads, ConvexUpsamplingOfAConstantFieldIsThatConstantInside) {
  Case example{"convex", head({3, 3}, HeadKind::kConvexUpsample, 2, {2, 2})};
  const ModelSpec spec = spec_of(example);
  ArrayMap arrays = fixture::random_weights(spec);
  arrays["outputs.answer.head.0.weight"] = Array::zeros(DType::kF32, {2, 4});
  arrays["outputs.answer.head.0.bias"] = Array::of<float>({2}, {3, -5});
  const Weights weights(spec, arrays);
  const Array rows = Numbers(3).floats({1, 9, 4});
  const Array fine = shape_output(weights, spec.outputs[0], {3, 3}, true, rows);
  ASSERT_EQ(fine.shape(), (std::vector<int64_t>{1, 36, 2}));
  for (int64_t y = 0; y < 6; ++y) {
    for (int64_t x = 0; x < 6; ++x) {
      const float* value = fine.data<float>() + (y * 6 + x) * 2;
      const bool inside = y > 1 && y < 4 && x > 1 && x < 4;
      EXPECT_EQ(std::abs(value[0] - 3) < 1e-5F, inside) << y << ", " << x;
      EXPECT_NEAR(value[1] / value[0], -5.0 / 3, 1e-5);
    }
  }
}

}  // namespace
}  // namespace perceiver::runtime
