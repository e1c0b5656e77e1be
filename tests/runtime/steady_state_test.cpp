#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "perceiver/kernels/dispatch.h"
#include "perceiver/runtime/engine.h"
#include "perceiver/spec/presets.h"
#include "runtime/counted_new.h"
#include "runtime/linear.h"
#include "runtime/small_models.h"
#include "runtime/walk.h"

// What a forward allocates once it has seen a shape. Counted is operator new of everything in the
// process; oneDNN and OpenMP take what they need inside their calls from malloc.

namespace perceiver::runtime {
namespace {

std::vector<ModelSpec> all_models() {
  std::vector<ModelSpec> specs = odd_models();
  for (const PresetInfo& info : preset_list()) {
    specs.push_back(small_preset(info.name));
  }
  return specs;
}

/// The reference kernels are plain loops that keep no scratch.
bool kernels_allocate() {
  return std::string(kernels::active_kernels()) == "reference";
}

/// Whether oneDNN's products themselves make objects in every call, as they do on AVX-512 (2.6).
bool products_allocate() {
  constexpr int64_t kSide = 96;
  const std::vector<float> values(kSide * kSide, 0.1F);
  const Linear linear({kSide, kSide, values, {}}, Precision::kF32);
  const ConstMatrix x{values.data(), kSide, kSide, kSide};
  std::vector<float> result(kSide * kSide);
  int64_t made = 0;
  for (int call = 0; call < 3; ++call) {
    const int64_t before = allocations();
    linear.apply(x, {result.data(), kSide, kSide, kSide});
    multiply(x, x, {result.data(), kSide, kSide, kSide});
    made = allocations() - before;
  }
  return made > 0;
}

/// tokens::fourier_features() makes the features of coordinates, an array for each block.
bool reads_coordinates(const ModelSpec& spec) {
  return std::any_of(spec.inputs.begin(), spec.inputs.end(), [](const InputSpec& input) {
    return input.kind == InputKind::kSet && input.position.kind == PositionKind::kFourier;
  });
}

bool asks_at_coordinates(const ModelSpec& spec) {
  return std::any_of(spec.outputs.begin(), spec.outputs.end(), [](const OutputSpec& output) {
    return output.query == QueryKind::kCoordinates;
  });
}

struct Allocations {
  int64_t encode = 0, decode = 0;
};

/// Those of one walk: not of its sources and queries, which describe the call, nor of its results.
Allocations walk(const std::shared_ptr<RuntimeModel>& model, const ModelInputs& inputs,
                 const OutputRequest& request) {
  Allocations made;
  const Workspace::Scope scope(model->workspace);
  Sources sources = read_inputs(model->spec, model->shape, model->weights, inputs, model->workspace,
                                &model->cache);
  const int64_t batch = sources.at(0)->batch();
  const auto& plans = model->encode_plans(batch, count_of(sources));
  Array latents = model->initial_latents(batch);
  int64_t before = allocations();
  Encoding(*model, nullptr).run(sources, plans, latents);
  made.encode = allocations() - before;
  if (model->projection != nullptr) {
    return made;
  }
  const RuntimeEncoded encoded(model, std::move(latents), std::move(sources));
  std::vector<OutputChoice> choices;
  Decoding decoding(*model, encoded, request, nullptr, choices);
  std::vector<Array> rows;
  for (size_t i = 0; i < decoding.outputs(); ++i) {
    rows.push_back(decoding.room(i));
  }
  before = allocations();
  for (size_t i = 0; i < decoding.outputs(); ++i) {
    decoding.fill(i, rows[i]);
  }
  made.decode = allocations() - before;
  return made;
}

TEST(SteadyState, TheWalkAllocatesNothing) {
  if (kernels_allocate()) {
    GTEST_SKIP() << "the plain loops allocate as they go";
  }
  if (products_allocate()) {
    GTEST_SKIP() << "oneDNN allocates in its own products on this CPU";
  }
  for (const ModelSpec& spec : all_models()) {
    for (const Plan plan : {Plan::kAuto, Plan::kTextbook, Plan::kAbsorbed, Plan::kFactored}) {
      const auto model =
          std::make_shared<RuntimeModel>(spec, lively_weights(spec), EngineOptions{.plan = plan});
      ModelInputs inputs = random_inputs(spec, 2);
      mask_some(spec, inputs);
      const OutputRequest request = request_of(spec, 2);
      walk(model, inputs, request);
      walk(model, inputs, request);
      const Allocations third = walk(model, inputs, request);
      if (!reads_coordinates(spec)) {
        EXPECT_EQ(third.encode, 0) << spec.name << " " << plan_name(plan);
      }
      if (!asks_at_coordinates(spec)) {
        EXPECT_EQ(third.decode, 0) << spec.name << " " << plan_name(plan);
      }
    }
  }
}

// Beside the results: the sources of inputs and the queries of outputs, made anew for each call,
// with names, grids and layouts of a few hundred bytes; and the primitives of an upsampling head.
TEST(SteadyState, AForwardAllocatesItsResultsAndDescriptions) {
  if (kernels_allocate()) {
    GTEST_SKIP() << "the plain loops allocate as they go";
  }
  const int64_t most = int64_t{products_allocate() ? 60 : 20} << 10;
  for (const ModelSpec& spec : all_models()) {
    const auto engine = make_engine(spec, lively_weights(spec));
    const ModelInputs inputs = random_inputs(spec, 1);
    const OutputRequest request = request_of(spec, 1);
    const auto forward = [&] {
      const int64_t before = bytes_allocated();
      engine->forward(inputs, request);
      return bytes_allocated() - before;
    };
    forward();
    forward();
    const int64_t third = forward();
    RecordProperty(spec.name, std::to_string(third));
    EXPECT_LE(third, most) << spec.name;
    EXPECT_EQ(forward(), third) << spec.name;
  }
}

}  // namespace
}  // namespace perceiver::runtime
