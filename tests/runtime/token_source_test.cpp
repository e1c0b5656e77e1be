#include "runtime/token_source.h"

#include <algorithm>
#include <cmath>
#include <sys/mman.h>

#include <gtest/gtest.h>

#include <ATen/core/grad_mode.h>

#include "runtime/source_fixture.h"
#include "support/compare.h"

// Every kind of input, dense rows against the nn engine's, in blocks of any size.

namespace perceiver::runtime {
namespace {

using fixture::all_rows;
using fixture::Both;
using fixture::Numbers;
using fixture::picture;
using fixture::thrown_by;
using perceiver::test::difference;
using perceiver::test::max_abs;

/// Of the largest value: sums of up to 300 products in another order.
constexpr double kTolerance = 2e-6;

double tolerance(const Array& wanted) {
  return kTolerance * (1 + max_abs(wanted));
}

struct Case {
  std::string name;
  ModelSpec spec;
  ModelInputs inputs;
  bool factors = false;
};

void PrintTo(const Case& example, std::ostream* out) {
  *out << example.name;
}

PositionSpec fourier(int64_t bands, std::vector<int64_t> resolution = {}) {
  PositionSpec position;
  position.kind = PositionKind::kFourier;
  position.num_bands = bands;
  position.max_resolution = std::move(resolution);
  return position;
}

PositionSpec table(int64_t channels) {
  PositionSpec position;
  position.kind = PositionKind::kTrainable;
  position.num_channels = channels;
  return position;
}

Case case_of(const std::string& name, InputSpec input, const Array& raw, bool factors) {
  Case example;
  example.name = name;
  example.spec = fixture::spec_around();
  example.inputs.arrays[input.name] = raw;
  example.spec.inputs = {std::move(input)};
  example.factors = factors;
  return example;
}

std::vector<Case> grid_cases() {
  Numbers numbers(1);
  std::vector<Case> cases;
  InputSpec input = picture({5, 6}, 3);
  input.position = fourier(3);
  cases.push_back(case_of("pixels", input, numbers.floats({2, 5, 6, 3}), true));
  cases.push_back(case_of("pixels_of_another_size", input, numbers.floats({2, 4, 9, 3}), true));
  input.downsample = {2, 3};
  cases.push_back(case_of("strided_pixels", input, numbers.floats({2, 5, 8, 3}), true));
  input.stem = Stem::kLinear;
  input.out_channels = 7;
  cases.push_back(case_of("strided_linear", input, numbers.floats({2, 5, 8, 3}), true));
  input.downsample = {};
  input.position.sine_only = true;
  cases.push_back(case_of("linear", input, numbers.floats({2, 5, 6, 3}), true));
  input.stem = Stem::kConv1x1;
  input.position = fourier(2, {7, 9});
  input.position.concat_pos = false;
  cases.push_back(case_of("conv1x1", input, numbers.floats({2, 5, 6, 3}), true));
  input.position = fourier(2);
  input.position.num_extra_linears = 2;
  cases.push_back(case_of("extra_linears", input, numbers.floats({2, 5, 6, 3}), false));
  input.position.project_channels = 7;
  input.position.use = PositionUse::kAdd;
  cases.push_back(case_of("projected_and_added", input, numbers.floats({2, 5, 6, 3}), false));
  input.position = table(7);
  input.position.use = PositionUse::kAdd;
  cases.push_back(case_of("added_table", input, numbers.floats({2, 5, 6, 3}), false));
  input.position.use = PositionUse::kConcat;
  input.position.project_channels = 4;
  cases.push_back(case_of("projected_table", input, numbers.floats({2, 5, 6, 3}), false));
  cases.push_back(case_of("resized_table", input, numbers.floats({2, 9, 4, 3}), false));
  input.position = {};
  cases.push_back(case_of("no_positions", input, numbers.floats({2, 5, 6, 3}), false));
  return cases;
}

std::vector<Case> patch_cases() {
  Numbers numbers(2);
  std::vector<Case> cases;
  InputSpec input = picture({4, 6}, 3);
  input.stem = Stem::kPatches;
  input.downsample = {2, 3};
  input.position = fourier(2);
  cases.push_back(case_of("bare_patches", input, numbers.floats({2, 4, 9, 3}), true));
  input.out_channels = 5;
  cases.push_back(case_of("patches", input, numbers.floats({2, 6, 9, 3}), true));
  input.index_dims = {2, 4, 6};
  input.downsample = {2, 1, 2};
  cases.push_back(case_of("frames_into_a_plane", input, numbers.floats({2, 2, 4, 6, 3}), true));
  input.index_dims = {4, 4, 6};
  cases.push_back(case_of("video_patches", input, numbers.floats({2, 4, 4, 6, 3}), true));
  input.index_dims = {12};
  input.channels = 1;
  input.downsample = {4};
  cases.push_back(case_of("sound", input, numbers.floats({2, 12, 1}), true));
  input.downsample = {};
  cases.push_back(case_of("patches_of_one", input, numbers.floats({2, 12, 1}), true));
  return cases;
}

std::vector<Case> conv_cases() {
  Numbers numbers(3);
  std::vector<Case> cases;
  for (const ConvPadding padding : {ConvPadding::kSame, ConvPadding::kTransformers}) {
    const std::string name = padding == ConvPadding::kSame ? "_same" : "_transformers";
    InputSpec input = picture({22, 31}, 3);
    input.stem = Stem::kConv;
    input.out_channels = 6;
    input.position = fourier(2);
    cases.push_back(case_of("conv" + name, input, numbers.floats({2, 22, 31, 3}), true));
    cases.push_back(case_of("odd_conv" + name, input, numbers.floats({1, 17, 20, 3}), true));
    input.batch_norm = false;
    input.num_conv_layers = 2;
    cases.push_back(case_of("two_convs" + name, input, numbers.floats({2, 38, 41, 3}), true));
    input.batch_norm = true;
    input.index_dims = {3, 22, 31};
    cases.push_back(case_of("video_convs" + name, input, numbers.floats({2, 3, 25, 31, 3}), true));
    for (size_t i = cases.size() - 4; i < cases.size(); ++i) {
      cases[i].spec.compatibility.conv_padding = padding;
    }
  }
  return cases;
}

std::vector<Case> other_cases() {
  Numbers numbers(4);
  std::vector<Case> cases;
  InputSpec text;
  text.name = "text";
  text.kind = InputKind::kText;
  text.index_dims = {9};
  text.vocab_size = 13;
  text.embedding_channels = 6;
  text.position = table(6);
  text.position.use = PositionUse::kAdd;
  cases.push_back(case_of("text", text, numbers.ids({2, 7}, 13), false));
  cases.push_back(case_of("text_of_bytes", text, numbers.ids({2, 7}, 13).to(DType::kU8), false));
  text.position.num_channels = 4;
  text.position.project_channels = 6;
  cases.push_back(case_of("text_projected", text, numbers.ids({2, 9}, 13), false));
  text.position = fourier(3);
  text.position.concat_pos = false;
  text.position.use = PositionUse::kAdd;
  cases.push_back(case_of("text_fourier", text, numbers.ids({2, 8}, 13).to(DType::kI32), false));
  InputSpec label;
  label.name = "label";
  label.kind = InputKind::kLabel;
  label.channels = 5;
  cases.push_back(case_of("label", label, numbers.floats({3, 5}), false));
  InputSpec set;
  set.name = "set";
  set.kind = InputKind::kSet;
  set.index_dims = {20};
  set.coordinates = 2;
  set.channels = 3;
  set.position = fourier(2, {8, 10});
  cases.push_back(case_of("set", set, numbers.floats({2, 11, 5}), false));
  set.stem = Stem::kLinear;
  set.out_channels = 10;
  set.position.use = PositionUse::kAdd;
  cases.push_back(case_of("set_linear_added", set, numbers.floats({2, 11, 5}), false));
  set.stem = Stem::kPixels;
  set.out_channels = set.channels = 0;
  set.position.use = PositionUse::kConcat;
  cases.push_back(case_of("set_of_points", set, numbers.floats({2, 11, 2}), false));
  set.position.project_channels = 4;
  cases.push_back(case_of("set_projected", set, numbers.floats({2, 11, 2}), false));
  return cases;
}

/// Three modalities of different widths, one replaced as a whole, one in part.
Case mixed_case() {
  Numbers numbers(6);
  Case example;
  example.name = "mixed";
  example.spec = fixture::spec_around();
  example.spec.pad_inputs = true;
  InputSpec label;
  label.name = "label";
  label.kind = InputKind::kLabel;
  label.channels = 5;
  label.mask_probability = 1;
  InputSpec sound = picture({12}, 1);
  sound.name = "audio";
  sound.stem = Stem::kPatches;
  sound.downsample = {3};
  sound.position = fourier(4);
  sound.mask_probability = 0;
  InputSpec image = picture({2, 4, 4}, 2);
  image.position = fourier(2);
  image.mask_probability = 0.5;
  example.spec.inputs = {label, sound, image};
  example.inputs.arrays["label"] = numbers.floats({2, 5});
  example.inputs.arrays["audio"] = numbers.floats({2, 12, 1});
  example.inputs.arrays["picture"] = numbers.floats({2, 2, 4, 4, 2});
  example.inputs.replaced["picture"] = numbers.flags({2, 32});
  example.inputs.masks["audio"] = numbers.flags({2, 4});
  return example;
}

std::vector<Case> all_cases() {
  std::vector<Case> cases = grid_cases();
  for (const auto& more : {patch_cases(), conv_cases(), other_cases()}) {
    cases.insert(cases.end(), more.begin(), more.end());
  }
  return cases;
}

class TokenSourceTest : public testing::TestWithParam<Case> {};

TEST_P(TokenSourceTest, MakesTheTokensOfTheReferenceEngineBlockByBlock) {
  const at::NoGradGuard no_grad;
  Both both(GetParam().spec);
  const nn::TokenArray tokens = both.model.preprocess(Both::tensors(GetParam().inputs));
  const Array wanted = nn::to_array(both.model.dense(tokens));
  const auto sources = both.sources(GetParam().inputs);
  ASSERT_EQ(sources.size(), 1U);
  TokenSource& source = *sources[0];
  EXPECT_EQ(source.factors(), GetParam().factors);
  EXPECT_EQ(source.grid(), tokens.segments[0].index_dims);
  for (const int64_t block : {int64_t{1}, int64_t{3}, source.count()}) {
    const auto got = difference(all_rows(source, block), wanted);
    EXPECT_LE(got.max_abs, tolerance(wanted)) << block << ": " << got.text;
  }
  if (tokens.segments[0].content.defined()) {
    const auto got =
        difference(all_rows(source, 4, true), nn::to_array(tokens.segments[0].content));
    EXPECT_LE(got.max_abs, tolerance(wanted)) << got.text;
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, TokenSourceTest, testing::ValuesIn(all_cases()),
                         [](const auto& parameter) { return parameter.param.name; });

TEST(TokenSources, ModalitiesOfOneModelWithPaddingMasksAndReplacedTokens) {
  const at::NoGradGuard no_grad;
  const Case mixed = mixed_case();
  Both both(mixed.spec);
  const Array wanted =
      nn::to_array(both.model.dense(both.model.preprocess(Both::tensors(mixed.inputs))));
  SourceCache cache;
  for (int round = 0; round < 2; ++round) {  // the second reads from the cache
    const auto sources = both.sources(mixed.inputs, &cache);
    ASSERT_EQ(sources.size(), 3U);
    EXPECT_EQ(sources[0]->name(), "audio");
    EXPECT_TRUE(sources[0]->factors());
    EXPECT_GT(sources[0]->constant_channels(), 0);
    EXPECT_FALSE(sources[1]->factors());
    EXPECT_FALSE(sources[2]->factors());
    int64_t first = 0;
    for (const auto& source : sources) {
      const Array rows = all_rows(*source, 5);
      for (int64_t b = 0; b < 2; ++b) {
        const Array here = rows.reshape({2 * source->count(), source->channels()})
                               .rows(b * source->count(), (b + 1) * source->count());
        const Array there =
            wanted.reshape({wanted.size(0) * wanted.size(1), wanted.size(2)})
                .rows(b * wanted.size(1) + first, b * wanted.size(1) + first + source->count());
        EXPECT_LE(difference(here, there).max_abs, tolerance(there)) << source->name();
      }
      first += source->count();
    }
    EXPECT_EQ(first, wanted.size(1));
    const auto* mask = reinterpret_cast<const uint8_t*>(mixed.inputs.masks.at("audio").bytes());
    EXPECT_TRUE(std::equal(mask + 4, mask + 8, sources[0]->mask(1)));
    EXPECT_EQ(sources[1]->mask(0), nullptr);
  }
}

TEST(TokenSources, NothingReplacedFactorsAgain) {
  Case mixed = mixed_case();
  mixed.inputs.replaced["picture"] = Array::zeros(DType::kBool, {2, 32});
  Both both(mixed.spec);
  EXPECT_TRUE(both.sources(mixed.inputs)[2]->factors());
}

TEST(TokenSources, DrawsTheMaskTokenWithItsProbabilityAndAlikeInEveryBlock) {
  ModelSpec spec = fixture::spec_around();
  InputSpec input = picture({4000}, 1);
  input.mask_probability = 0.25;
  spec.inputs = {input};
  Both both(spec);
  ModelInputs inputs;
  inputs.arrays["picture"] = Numbers(3).floats({2, 4000, 1});
  const auto sources = both.sources(inputs);
  const Array rows = all_rows(*sources[0], 4000);
  const float token = both.weights.data("inputs.picture.mask_token")[0];
  const float* values = rows.data<float>();
  int64_t replaced[2] = {};
  bool same = true;
  for (int64_t i = 0; i < 8000; ++i) {
    replaced[i / 4000] += values[i] == token ? 1 : 0;
    same = same && (values[i] == token) == (values[(i + 4000) % 8000] == token);
  }
  // 1000 expected, standard deviation 27
  EXPECT_NEAR(static_cast<double>(replaced[0]), 1000, 140);
  EXPECT_NEAR(static_cast<double>(replaced[1]), 1000, 140);
  EXPECT_FALSE(same) << "examples draw on their own";
  EXPECT_EQ(difference(all_rows(*sources[0], 7), rows).max_abs, 0);
  const Array tail = Array::of<float>({1, 100, 1}, {values + 700, values + 800});
  const InputBlock block =
      read_block(spec, both.shape, both.weights, "picture", tail, {}, {4000}, 700, both.workspace);
  EXPECT_EQ(difference(all_rows(*block.source, 9), tail).max_abs, 0);
}

TEST(TokenSources, ACacheServesGridsInAnyOrder) {
  Numbers numbers(12);
  for (const Case& example : grid_cases()) {
    Both both(example.spec);
    SourceCache cache;
    for (const std::vector<int64_t>& extents :
         {std::vector<int64_t>{5, 6}, {7, 4}, {5, 6}, {4, 7}}) {
      ModelInputs inputs;
      inputs.arrays["picture"] = numbers.floats({1, extents[0], extents[1], 3});
      const Array wanted = all_rows(*both.sources(inputs)[0], 50);
      EXPECT_EQ(difference(all_rows(*both.sources(inputs, &cache)[0], 50), wanted).max_abs, 0)
          << example.name;
    }
  }
}

TEST(TokenSources, ASecondCallComputesNoTables) {
  const Case example = grid_cases()[0];
  Both both(example.spec);
  SourceCache cache;
  const auto first = both.sources(example.inputs, &cache);
  const auto second = both.sources(example.inputs, &cache);
  for (size_t axis = 0; axis < 2; ++axis) {
    EXPECT_EQ(first[0]->positions().axes[axis].bytes(), second[0]->positions().axes[axis].bytes());
  }
}

/// An input larger than memory, as a mapped file may be: read where it is asked for only.
class LargeInputs : public testing::TestWithParam<Case> {};

TEST_P(LargeInputs, AreNeverCopiedWhole) {
  constexpr int64_t kSide = 65536;
  constexpr int64_t kBytes = kSide * kSide * 2 * 8;  // 64 GiB of address space, no memory
  void* memory =
      mmap(nullptr, kBytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  const std::shared_ptr<const void> owner(memory, [](void* mapped) { munmap(mapped, kBytes); });
  Both both(GetParam().spec);
  ModelInputs inputs;
  inputs.arrays["picture"] = Array::view(DType::kF64, {1, kSide, kSide, 2}, memory, owner);
  const auto sources = both.sources(inputs);
  TokenSource& source = *sources[0];
  std::vector<float> rows(static_cast<size_t>(40 * source.channels()));
  const Matrix out{rows.data(), 40, source.channels(), source.channels()};
  source.dense(0, source.count() - 40, source.count(), out);
  const int64_t last = source.content_channels() + 1;  // the coordinates come first
  EXPECT_EQ(out.row(39)[last - 1], 1);
  EXPECT_EQ(out.row(39)[last], 1);
  const InputBlock block = read_block(both.spec, both.shape, both.weights, "picture",
                                      inputs.arrays["picture"], {}, {}, 0, both.workspace);
  EXPECT_EQ(block.source->count(), source.count());
}

std::vector<Case> large_cases() {
  std::vector<Case> cases;
  InputSpec input = picture({16, 16}, 2);
  input.position = fourier(2);
  cases.push_back(case_of("pixels", input, {}, true));
  input.stem = Stem::kLinear;
  input.out_channels = 4;
  cases.push_back(case_of("linear", input, {}, true));
  input.stem = Stem::kPatches;
  input.downsample = {8, 8};
  cases.push_back(case_of("patches", input, {}, true));
  return cases;
}

INSTANTIATE_TEST_SUITE_P(Stems, LargeInputs, testing::ValuesIn(large_cases()),
                         [](const auto& parameter) { return parameter.param.name; });

TEST(TokenSources, TakeOtherDtypesBlockByBlock) {
  ModelSpec spec = fixture::spec_around();
  InputSpec input = picture({5, 6}, 3);
  input.downsample = {1, 2};
  spec.inputs = {input};
  Both both(spec);
  const Array bytes = Numbers(9).ids({2, 5, 6, 3}, 100);
  ModelInputs inputs;
  inputs.arrays["picture"] = bytes.to(DType::kF32);
  const Array wanted = all_rows(*both.sources(inputs)[0], 4);
  for (const DType dtype : {DType::kF64, DType::kF16, DType::kBF16, DType::kU8, DType::kI16}) {
    inputs.arrays["picture"] = bytes.to(dtype);
    EXPECT_EQ(difference(all_rows(*both.sources(inputs)[0], 4), wanted).max_abs, 0)
        << dtype_name(dtype);
  }
  for (const Case& more : {grid_cases()[4], patch_cases()[1], conv_cases()[0], other_cases()[5]}) {
    Both other(more.spec);
    ModelInputs wide;
    const auto& [name, raw] = *more.inputs.arrays.begin();
    wide.arrays[name] = raw.to(DType::kF64);
    EXPECT_EQ(difference(all_rows(*other.sources(wide)[0], 4),
                         all_rows(*other.sources(more.inputs)[0], 4))
                  .max_abs,
              0)
        << more.name;
  }
  inputs.arrays["picture"] = bytes.to(DType::kU32);
  EXPECT_EQ(thrown_by([&] { all_rows(*both.sources(inputs)[0], 4); }),
            "4: tensors of dtype U32 are not supported");
}

/// Axis tables put where axis_columns() says give the dense positions.
TEST(TokenSources, AxisColumnsPlaceTheTables) {
  for (const Case& example : grid_cases()) {
    Both both(example.spec);
    const auto sources = both.sources(example.inputs);
    TokenSource& source = *sources[0];
    if (!source.factors()) {
      continue;
    }
    const Array dense = all_rows(source, source.count());
    for (size_t axis = 0; axis < source.grid().size(); ++axis) {
      const std::vector<int64_t> columns = axis_columns(source.positions(), axis);
      const Array& axis_table = source.positions().axes[axis];
      ASSERT_EQ(static_cast<int64_t>(columns.size()), axis_table.size(1)) << example.name;
      for (int64_t token = 0; token < source.count(); ++token) {
        const int64_t place = axis == 0 ? token / source.grid()[1] : token % source.grid()[1];
        for (size_t k = 0; k < columns.size(); ++k) {
          ASSERT_EQ(dense.data<float>()[token * source.channels() + source.content_channels() +
                                        columns[k]],
                    axis_table.data<float>()[place * axis_table.size(1) + static_cast<int64_t>(k)])
              << example.name;
        }
      }
    }
  }
}

TEST(TokenSources, RefuseInTheWordsOfTheReferenceEngine) {
  const at::NoGradGuard no_grad;
  const auto same_words = [](const ModelSpec& spec, const ModelInputs& inputs) {
    Both both(spec);
    const std::string wanted = thrown_by([&] { both.model.preprocess(Both::tensors(inputs)); });
    EXPECT_EQ(thrown_by([&] { both.sources(inputs); }), wanted);
    EXPECT_NE(wanted, "nothing");
  };
  Numbers numbers(8);
  for (Case example : all_cases()) {
    const std::string name = example.spec.inputs[0].name;
    const Array good = example.inputs.arrays.at(name);
    example.inputs.arrays[name] = numbers.floats({2});
    same_words(example.spec, example.inputs);
    example.inputs.arrays[name] = good;
    example.inputs.masks[name] = numbers.flags({2, 1, 1});
    same_words(example.spec, example.inputs);
    example.inputs.masks.clear();
    example.inputs.arrays.clear();
    same_words(example.spec, example.inputs);
    example.inputs.arrays["nobody"] = good;
    same_words(example.spec, example.inputs);
  }
  Case text = other_cases()[0];
  text.inputs.arrays["text"] = Array::of<int64_t>({1, 2}, {3, 13});
  same_words(text.spec, text.inputs);
  text.inputs.arrays["text"] = Array::of<int64_t>({1, 2}, {-3, 13});
  same_words(text.spec, text.inputs);
  text.inputs.arrays["text"] = Array::of<float>({1, 2}, {3, 1});
  same_words(text.spec, text.inputs);
  text.inputs.arrays["text"] = numbers.ids({1, 10}, 13);
  same_words(text.spec, text.inputs);
  Case patch = patch_cases()[1];
  patch.inputs.arrays["picture"] = numbers.floats({2, 4, 7, 3});
  same_words(patch.spec, patch.inputs);
  Case mixed = mixed_case();
  mixed.inputs.replaced["picture"] = numbers.flags({2, 31});
  same_words(mixed.spec, mixed.inputs);
  mixed = mixed_case();
  mixed.inputs.arrays["picture"] = numbers.floats({3, 2, 4, 4, 2});
  mixed.inputs.replaced.clear();
  same_words(mixed.spec, mixed.inputs);
}

TEST(TokenSources, LearnedPositionsOfOtherGridsThanPlanesDoNotResize) {
  ModelSpec spec = fixture::spec_around();
  InputSpec input = picture({6}, 2);
  input.position = table(3);
  spec.inputs = {input};
  Both both(spec);
  ModelInputs inputs;
  inputs.arrays["picture"] = Numbers(1).floats({1, 5, 2});
  const std::string wanted = thrown_by([&] { both.model.preprocess(Both::tensors(inputs)); });
  EXPECT_EQ(thrown_by([&] { both.sources(inputs); }), wanted);
  EXPECT_NE(wanted, "nothing");

  InputSpec frames = picture({2, 4, 6}, 3);  // two frames make a plane, four don't
  frames.stem = Stem::kPatches;
  frames.downsample = {2, 2, 2};
  frames.position = table(3);
  spec.inputs = {frames};
  Both planes(spec);
  inputs.arrays["picture"] = Numbers(1).floats({1, 4, 4, 6, 3});
  EXPECT_EQ(thrown_by([&] { planes.sources(inputs); }),
            "2: [input picture] learned positions for a grid of [2, 3] can't be resized to "
            "[2, 2, 3]: only planes can");
}

// Blocks

struct Cut {
  int64_t begin;
  int64_t end;
};

/// Slices [begin, end) of the first raw axis.
Array slices(const Array& raw, const Cut& cut) {
  std::vector<int64_t> shape = raw.shape();
  const int64_t slice = raw.numel() / (shape[0] * shape[1]) * dtype_size(raw.dtype());
  const int64_t whole = shape[1] * slice;
  shape[1] = cut.end - cut.begin;
  Array block = Array::zeros(raw.dtype(), shape);
  for (int64_t b = 0; b < shape[0]; ++b) {
    std::copy_n(raw.bytes() + b * whole + cut.begin * slice, shape[1] * slice,
                block.mutable_bytes() + b * shape[1] * slice);
  }
  return block;
}

/// Reads an input in blocks of `step` slices and compares with the source of the whole.
void expect_blocks(const Case& example, int64_t step) {
  Both both(example.spec);
  SourceCache cache;
  const std::string name = example.spec.inputs[0].name;
  const Array& raw = example.inputs.arrays.at(name);
  const auto whole = both.sources(example.inputs);
  const Array wanted = all_rows(*whole[0], 100);
  const double allowed = tolerance(wanted);
  const std::vector<int64_t> extents(raw.shape().begin() + 1, raw.shape().end() - 1);
  const bool grid = example.spec.inputs[0].kind == InputKind::kGrid;
  std::vector<bool> seen(static_cast<size_t>(whole[0]->count()), false);
  for (int64_t begin = 0; begin < raw.size(1); begin += step) {
    const Cut cut{begin, std::min(begin + step, raw.size(1))};
    const InputBlock block = read_block(both.spec, both.shape, both.weights, name, slices(raw, cut),
                                        {}, grid ? extents : std::vector<int64_t>{raw.size(1)},
                                        begin, both.workspace, &cache);
    EXPECT_EQ(block.source->factors(), whole[0]->factors());
    EXPECT_EQ(block.source->grid(), whole[0]->grid());
    const Array rows = all_rows(*block.source, 4);
    const int64_t width = block.source->channels();
    for (int64_t b = 0; b < raw.size(0); ++b) {
      for (int64_t i = 0; i < block.source->count(); ++i) {
        const int64_t token = block.first_token + i;
        ASSERT_LT(token, whole[0]->count()) << example.name;
        seen[static_cast<size_t>(token)] = true;
        for (int64_t c = 0; c < width; ++c) {
          ASSERT_NEAR(rows.data<float>()[(b * block.source->count() + i) * width + c],
                      wanted.data<float>()[(b * whole[0]->count() + token) * width + c], allowed)
              << example.name << " from " << begin << ", token " << token << ", channel " << c;
        }
      }
    }
  }
  EXPECT_EQ(std::count(seen.begin(), seen.end(), true), whole[0]->count()) << example.name;
}

TEST(InputBlocks, AreTheTokensOfTheWhole) {
  for (const auto& cases : {grid_cases(), other_cases()}) {
    for (const Case& example : cases) {
      if (example.spec.inputs[0].kind != InputKind::kLabel) {
        expect_blocks(example, 1);
        expect_blocks(example, 3);
        expect_blocks(example, 1000);
      }
    }
  }
  for (const Case& example : patch_cases()) {
    const std::vector<int64_t>& patch = example.spec.inputs[0].downsample;
    expect_blocks(example, patch.empty() ? 1 : patch[0]);
    expect_blocks(example, 1000);
  }
}

TEST(InputBlocks, MasksAreThoseOfTheBlock) {
  const Case example = grid_cases()[0];
  Both both(example.spec);
  Numbers numbers(2);
  const Array raw = numbers.floats({2, 2, 6, 3});
  const Array mask = numbers.flags({2, 12});
  const InputBlock block = read_block(both.spec, both.shape, both.weights, "picture", raw, mask,
                                      {5, 6}, 3, both.workspace);
  EXPECT_EQ(block.first_token, 18);
  EXPECT_EQ(block.source->mask(1), reinterpret_cast<const uint8_t*>(mask.bytes()) + 12);
}

TEST(InputBlocks, RefuseHalfPatchesForeignPlacesAndConvolutions) {
  Numbers numbers(2);
  const auto words = [&](const Case& example, const std::vector<int64_t>& raw,
                         const std::vector<int64_t>& extents, int64_t begin) {
    Both both(example.spec);
    return thrown_by([&] {
      read_block(both.spec, both.shape, both.weights, "picture", numbers.floats(raw), {}, extents,
                 begin, both.workspace);
    });
  };
  const Case patches = patch_cases()[1];
  EXPECT_EQ(words(patches, {1, 1, 6, 3}, {4, 6}, 0),
            "2: [input picture] extents of [1, 1, 6, 3] must be divisible by the patch [2, 3]");
  EXPECT_EQ(words(patches, {1, 2, 6, 3}, {4, 6}, 1),
            "2: [input picture] a block from 1 of 4 does not hold whole patches of 2");
  EXPECT_EQ(words(patches, {1, 2, 6, 3}, {4, 9}, 2),
            "2: [input picture] a block of extents [2, 6] from 2 does not lie in [4, 9]");
  EXPECT_EQ(words(patches, {1, 4, 6, 3}, {4, 6}, 2),
            "2: [input picture] a block of extents [4, 6] from 2 does not lie in [4, 6]");
  EXPECT_EQ(words(patches, {1, 2, 6, 3}, {4, 6}, -2),
            "2: [input picture] a block can't begin at -2");
  EXPECT_EQ(words(patches, {1, 2, 6, 3}, {}, INT64_MAX - 1),
            "2: [input picture] a block can't begin at 9223372036854775806");
  EXPECT_EQ(words(patches, {1, 2, 6, 3}, {4}, 0),
            "2: [input picture] extents [4] must have as many axes as [4, 6]");
  EXPECT_EQ(words(conv_cases()[0], {1, 22, 31, 3}, {22, 31}, 0),
            "4: [input picture] a conv stem can't read blocks: each would need its neighbours' "
            "edges");
}

}  // namespace
}  // namespace perceiver::runtime
