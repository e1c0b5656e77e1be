#include "perceiver/runtime/engine.h"

#include <algorithm>
#include <cstring>

#include <gtest/gtest.h>

#include "perceiver/base/error.h"
#include "perceiver/kernels/dispatch.h"
#include "perceiver/nn/engine.h"
#include "perceiver/spec/presets.h"
#include "perceiver/tokens/encoder_state.h"
#include "runtime/small_models.h"
#include "support/compare.h"

// The reference engine is the oracle: in float64 of the values, in float32 of how far rounding may
// carry.

namespace perceiver::runtime {
namespace {

/// Outputs and every traced stage of one forward.
ArrayMap stages_of(Engine& engine, const ModelInputs& inputs, const OutputRequest& request) {
  Trace trace;
  trace.attention = true;
  ArrayMap stages = engine.forward(inputs, request, &trace);
  for (auto& [name, array] : trace.arrays) {
    stages["trace." + name] = array;
  }
  return stages;
}

/// What the reference engine makes of one forward.
struct Expected {
  ArrayMap f64, f32;
};

Expected expected_of(const ModelSpec& spec, const ArrayMap& weights, const ModelInputs& inputs,
                     const OutputRequest& request) {
  // Both with float32 tables: what is compared is the arithmetic after them.
  const auto f64 = nn::make_engine(spec, weights, {.dtype = DType::kF64});
  const auto f32 = nn::make_engine(spec, weights, {.dtype = DType::kF32});
  return {stages_of(*f64, inputs, request), stages_of(*f32, inputs, request)};
}

/// Every stage, its error no more than a small multiple of the float32 reference's own.
void expect_same(const ArrayMap& got, const Expected& expected) {
  for (const auto& [name, wanted] : expected.f64) {
    ASSERT_EQ(got.count(name), 1U) << name << " is missing";
    const test::Difference ours = test::difference(got.at(name), wanted);
    const test::Difference theirs = test::difference(expected.f32.at(name), wanted);
    // Below the floor a ratio of errors is chance: a few last bits of the values, or of what a few
    // answers were summed from.
    const double size = std::max(test::max_abs(wanted), wanted.numel() < 64 ? 1.0 : 0.0);
    const double floor = 5e-7 * size;
    EXPECT_LE(ours.rms, 2 * theirs.rms + floor) << name << " " << ours.text;
    EXPECT_LE(ours.max_abs, 4 * theirs.max_abs + 4 * floor) << name << " " << ours.text;
  }
  for (const auto& [name, unused] : got) {
    EXPECT_EQ(expected.f64.count(name), 1U) << name << " is not the reference's";
  }
}

constexpr Plan kPlans[] = {Plan::kAuto, Plan::kTextbook, Plan::kAbsorbed, Plan::kFactored};

void expect_every_plan(const ModelSpec& spec, const ModelInputs& inputs,
                       const OutputRequest& request) {
  const ArrayMap weights = lively_weights(spec);
  const Expected expected = expected_of(spec, weights, inputs, request);
  for (const Plan plan : kPlans) {
    SCOPED_TRACE(plan_name(plan));
    const auto engine = make_engine(spec, weights, {.plan = plan});
    expect_same(stages_of(*engine, inputs, request), expected);
  }
}

class EveryPreset : public ::testing::TestWithParam<std::string> {};

TEST_P(EveryPreset, IsTheReferenceUnderEveryPlan) {
  const ModelSpec spec = small_preset(GetParam());
  expect_every_plan(spec, random_inputs(spec, 2), request_of(spec, 2));
}

TEST_P(EveryPreset, IsTheReferenceWithMaskedTokens) {
  const ModelSpec spec = small_preset(GetParam());
  ModelInputs inputs = random_inputs(spec, 2);
  mask_some(spec, inputs);
  expect_every_plan(spec, inputs, request_of(spec, 2));
}

std::vector<std::string> preset_names() {
  std::vector<std::string> names;
  for (const PresetInfo& info : preset_list()) {
    names.push_back(info.name);
  }
  return names;
}

std::string test_name(std::string name) {
  for (char& c : name) {
    c = std::isalnum(static_cast<unsigned char>(c)) != 0 ? c : '_';
  }
  return name;
}

INSTANTIATE_TEST_SUITE_P(Runtime, EveryPreset, ::testing::ValuesIn(preset_names()),
                         [](const auto& each) { return test_name(each.param); });

ModelSpec odd(const std::string& name) {
  for (const ModelSpec& spec : odd_models()) {
    if (spec.name == name) {
      return spec;
    }
  }
  throw std::runtime_error(name);
}

class OddModel : public ::testing::TestWithParam<std::string> {};

TEST_P(OddModel, IsTheReferenceUnderEveryPlan) {
  const ModelSpec spec = odd(GetParam());
  ModelInputs inputs = random_inputs(spec, 3);
  expect_every_plan(spec, inputs, request_of(spec, 3));
  mask_some(spec, inputs);
  expect_every_plan(spec, inputs, request_of(spec, 3));
}

std::vector<std::string> odd_names() {
  std::vector<std::string> names;
  for (const ModelSpec& spec : odd_models()) {
    names.push_back(spec.name);
  }
  return names;
}

INSTANTIATE_TEST_SUITE_P(Runtime, OddModel, ::testing::ValuesIn(odd_names()),
                         [](const auto& each) { return each.param; });

TEST(RuntimeEngine, ReadsOtherGridsThanTheSpecs) {
  ModelSpec spec = odd("heads");
  for (const std::vector<int64_t>& extents : {std::vector<int64_t>{9, 4}, {6, 10}, {1, 30}}) {
    spec.inputs[0].index_dims = extents;
    const ModelInputs other = random_inputs(spec, 1);
    spec.inputs[0].index_dims = {6, 10};
    expect_every_plan(spec, other, {});
  }
}

TEST(RuntimeEngine, ExamplesWithoutAnyValidTokenFollowTheSwitch) {
  for (const MaskedRows rows : {MaskedRows::kZero, MaskedRows::kMean}) {
    ModelSpec spec = odd("heads");
    spec.compatibility.masked_rows = rows;
    ModelInputs inputs = random_inputs(spec, 2);
    mask_some(spec, inputs);
    Array& mask = inputs.masks.at("inputs");
    std::fill_n(mask.mutable_data<bool>() + mask.size(1), mask.size(1), false);
    expect_every_plan(spec, inputs, {});
  }
}

TEST(RuntimeEngine, QueriesMaskedOutGetNoAttention) {
  ModelSpec spec = odd("heads");
  for (const bool used : {true, false}) {
    spec.compatibility.decoder_uses_query_mask = used;
    OutputRequest request;
    Array mask = Array::zeros(DType::kBool, {2, 35});
    for (int64_t i = 0; i < mask.numel(); ++i) {
      mask.mutable_data<bool>()[i] = i % 3 != 1;
    }
    request.query_masks["logits"] = mask;
    expect_every_plan(spec, random_inputs(spec, 2), request);
  }
}

TEST(RuntimeEngine, AskedPointsInAnyOrderAndRepeated) {
  for (const ModelSpec& spec :
       {odd("heads"), odd("input_with_positions"), small_preset("optical-flow-perceiver"),
        small_preset("multimodal-perceiver"), small_preset("language-perceiver")}) {
    SCOPED_TRACE(spec.name);
    OutputRequest request;
    request.only = {spec.outputs[0].name};
    request.points[spec.outputs[0].name] = {13, 0, 7, 7, 2};
    expect_every_plan(spec, random_inputs(spec, 2), request);
  }
}

TEST(RuntimeEngine, EveryBlockOfRowsGivesTheSameRows) {
  for (const ModelSpec& spec :
       {odd("heads"), odd("input_with_positions"), small_preset("multimodal-perceiver"),
        small_preset("language-perceiver")}) {
    SCOPED_TRACE(spec.name);
    for (const Plan plan : kPlans) {
      const auto engine = make_engine(spec, lively_weights(spec), {.plan = plan});
      const auto encoded = engine->encode(random_inputs(spec, 2));
      const ArrayMap whole = engine->decode(*encoded, {});
      for (const int64_t rows : {1, 7, 1000000}) {
        OutputRequest request;
        request.rows_per_block = rows;
        std::map<std::string, std::vector<int64_t>> told;
        request.progress = [&](const Progress& progress) {
          told[progress.what].push_back(progress.done);
          told[progress.what].push_back(progress.total);
        };
        const ArrayMap blocks = engine->decode(*encoded, request);
        for (const auto& [name, wanted] : whole) {
          EXPECT_LE(test::difference(blocks.at(name), wanted).max_abs, 2e-5 * test::max_abs(wanted))
              << name << " in blocks of " << rows << " " << plan_name(plan);
          ASSERT_FALSE(told[name].empty());
          EXPECT_EQ(told[name].back(), *(told[name].end() - 2)) << "the last block is the end";
        }
      }
    }
  }
}

TEST(RuntimeEngine, AnyNumberOfThreadsGivesTheReferencesValues) {
  for (const char* name : {"multimodal-perceiver", "language-perceiver"}) {
    const ModelSpec spec = small_preset(name);
    const ArrayMap weights = lively_weights(spec);
    const ModelInputs inputs = random_inputs(spec, 2);
    const Expected expected = expected_of(spec, weights, inputs, {});
    for (const int threads : {1, 2, 3, 8}) {
      SCOPED_TRACE(testing::Message() << name << " on " << threads << " threads");
      const auto engine = make_engine(spec, weights, {.num_threads = threads});
      expect_same(stages_of(*engine, inputs, {}), expected);
    }
  }
}

TEST(RuntimeEngine, TheSameCallGivesTheSameBytes) {
  for (const char* name : {"multimodal-perceiver", "optical-flow-perceiver"}) {
    const ModelSpec spec = small_preset(name);
    const ArrayMap weights = lively_weights(spec);
    const ModelInputs inputs = random_inputs(spec, 2);
    const auto first = make_engine(spec, weights), second = make_engine(spec, weights);
    const ArrayMap once = first->forward(inputs);
    first->forward(random_inputs(spec, 1, 99));  // other shapes between
    for (const ArrayMap& again : {first->forward(inputs), second->forward(inputs)}) {
      for (const auto& [output, array] : once) {
        ASSERT_EQ(std::memcmp(array.bytes(), again.at(output).bytes(),
                              static_cast<size_t>(array.nbytes())),
                  0)
            << name << " " << output;
      }
    }
  }
}

TEST(RuntimeEngine, TracesOnlyWhatIsAskedFor) {
  const ModelSpec spec = odd("heads");
  const auto engine = make_engine(spec, lively_weights(spec));
  Trace trace{.attention = true, .only = {"attention.encoder", "latents.0"}, .arrays = {}};
  engine->forward(random_inputs(spec, 1), {}, &trace);
  ASSERT_EQ(trace.arrays.size(), 2U);
  EXPECT_TRUE(trace.arrays.contains("attention.encoder"));
  Trace plain;
  engine->forward(random_inputs(spec, 1), {}, &plain);
  EXPECT_FALSE(plain.arrays.contains("attention.encoder"));
  EXPECT_TRUE(plain.arrays.contains("tokens") && plain.arrays.contains("decoder_output"));
}

TEST(RuntimeEngine, SaysWhichPlansItUsed) {
  const ModelSpec spec = odd("heads");
  const auto engine = make_engine(spec, lively_weights(spec), {.plan = Plan::kFactored});
  EXPECT_TRUE(engine->plans().empty());
  engine->forward(random_inputs(spec, 1));
  const std::vector<UsedPlan> plans = engine->plans();
  ASSERT_EQ(plans.size(), 3U);
  EXPECT_EQ(plans[0].attention, "encoder.cross_attend.0");
  EXPECT_EQ(plans[0].plan, "factored");
  EXPECT_EQ(plans[1].attention, "encoder.self_attend");
  EXPECT_EQ(plans[2].attention, "decoder.cross_attend");
  EXPECT_EQ(plans[2].plan, "factored");
  for (const UsedPlan& plan : plans) {
    EXPECT_FALSE(plan.reason.empty());
    EXPECT_GT(plan.flops, 0);
  }
}

TEST(RuntimeEngine, BF16IsNearFloat32) {
  for (const char* name : {"language-perceiver", "vision-perceiver-conv"}) {
    const ModelSpec spec = small_preset(name);
    const ArrayMap weights = lively_weights(spec);
    const ModelInputs inputs = random_inputs(spec, 2);
    const Array exact = make_engine(spec, weights)->forward(inputs).at("logits");
    const Array rounded =
        make_engine(spec, weights, {.dtype = DType::kBF16})->forward(inputs).at("logits");
    const double apart = test::difference(rounded, exact).max_abs;
    EXPECT_LT(apart, 0.05 * test::max_abs(exact)) << name;
    EXPECT_GT(apart, 0) << name;
  }
}

TEST(RuntimeEngine, ReadsWeightsOfOtherFloatTypes) {
  const ModelSpec spec = small_preset("language-perceiver");
  ArrayMap wide = lively_weights(spec), narrow;
  for (auto& [name, array] : wide) {
    narrow[name] = array.to(DType::kBF16);
    array = narrow[name].to(DType::kF64);
  }
  const ModelInputs inputs = random_inputs(spec, 1);
  const Array a = make_engine(spec, wide)->forward(inputs).at("logits");
  const Array b = make_engine(spec, narrow)->forward(inputs).at("logits");
  EXPECT_EQ(test::difference(a, b).max_abs, 0);
}

ErrorCode code_of(const std::function<void()>& action, std::string* message = nullptr) {
  try {
    action();
  } catch (const Error& error) {
    if (message != nullptr) {
      *message = error.what();
    }
    return error.code();
  }
  return ErrorCode{};
}

TEST(RuntimeEngine, RefusesWhatItCannotDo) {
  const ModelSpec spec = odd("heads");
  ArrayMap weights = lively_weights(spec);
  EXPECT_EQ(code_of([&] { make_engine(spec, weights, {.dtype = DType::kF64}); }),
            ErrorCode::kUnsupported);
  const auto engine = make_engine(spec, weights), other = make_engine(spec, weights);
  const auto encoded = other->encode(random_inputs(spec, 1));
  EXPECT_EQ(code_of([&] { engine->decode(*encoded, {}); }), ErrorCode::kArgument);
  OutputRequest unknown;
  unknown.only = {"nothing"};
  EXPECT_EQ(code_of([&] { other->decode(*encoded, unknown); }), ErrorCode::kArgument);
  weights.erase("latents");
  EXPECT_EQ(code_of([&] { make_engine(spec, weights); }), ErrorCode::kFormat);
}

TEST(RuntimeEngine, WrongInputsFailInTheReferencesWords) {
  const ModelSpec spec = odd("heads");
  const ArrayMap weights = lively_weights(spec);
  const auto ours = make_engine(spec, weights);
  const auto reference = nn::make_engine(spec, weights);
  ModelInputs narrow, nothing, unknown = random_inputs(spec, 1), bad_mask = random_inputs(spec, 1);
  narrow.arrays["inputs"] = Array::zeros(DType::kF32, {1, 6, 10, 2});
  unknown.arrays["sound"] = Array::zeros(DType::kF32, {1});
  bad_mask.masks["inputs"] = Array::zeros(DType::kBool, {1, 23});
  for (const ModelInputs* inputs : {&narrow, &nothing, &unknown, &bad_mask}) {
    std::string our_words, their_words;
    const ErrorCode code = code_of([&] { ours->forward(*inputs); }, &our_words);
    EXPECT_EQ(code, code_of([&] { reference->forward(*inputs); }, &their_words));
    EXPECT_EQ(our_words, their_words);
    EXPECT_NE(our_words, "");
  }
  // and the engine goes on working
  EXPECT_EQ(ours->forward(random_inputs(spec, 1)).count("logits"), 1U);
}

TEST(RuntimeEngine, InputsInBlocksGiveTheSameLatents) {
  const ModelSpec spec = odd("heads");
  const ArrayMap weights = lively_weights(spec);
  const ModelInputs inputs = random_inputs(spec, 2);
  const Array& picture = inputs.arrays.at("inputs");  // [2, 6, 10, 3]
  const auto rows = [&](int64_t begin, int64_t end) {
    Array part = Array::zeros(DType::kF32, {2, end - begin, 10, 3});
    for (int64_t b = 0; b < 2; ++b) {
      std::copy_n(picture.data<float>() + (b * 6 + begin) * 30, (end - begin) * 30,
                  part.mutable_data<float>() + b * (end - begin) * 30);
    }
    return part;
  };
  for (const Plan plan : kPlans) {
    const auto engine = make_engine(spec, weights, {.plan = plan});
    const Array whole = engine->encode(inputs)->latents();
    const auto first = engine->start_encoding(2), second = engine->start_encoding(2);
    first->push("inputs", rows(4, 6), 4);
    second->push("inputs", rows(0, 1), 0);
    second->push("inputs", rows(1, 4), 1);
    const auto loaded = engine->start_encoding(2);
    loaded->load(second->save());
    first->merge(*loaded);
    EXPECT_EQ(first->tokens(), 60);
    const auto encoded = engine->finish_encoding(*first);
    EXPECT_LE(test::difference(encoded->latents(), whole).max_abs, 2e-5 * test::max_abs(whole))
        << plan_name(plan);
    EXPECT_EQ(engine->decode(*encoded, {}).count("logits"), 1U);
  }
  const auto twice = make_engine(odd("shared_crosses"), lively_weights(odd("shared_crosses")));
  EXPECT_EQ(code_of([&] { twice->start_encoding(1); }), ErrorCode::kUnsupported);
}

}  // namespace
}  // namespace perceiver::runtime
