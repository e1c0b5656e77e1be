#include <gtest/gtest.h>

#include "parity/oracle.h"
#include "perceiver/spec/model_shape.h"
#include "perceiver/tasks/bundle.h"
#include "support/shared.h"

// The recorded transformers models beside the checkout (other sizes, bfloat16, float16 and .bin
// weights, a hub-style config) than those made at test time.

namespace perceiver::parity {
namespace {

struct Case {
  const char* folder;
  std::vector<std::string> calls;
  bool fourier = false;
};

/// transformers keeps a hidden state before every layer and after every block, so the state at an
/// inner block boundary appears twice: k -> latents.<k - blocks already finished>.
std::map<std::string, std::string> stage_names(const ModelSpec& spec) {
  std::map<std::string, std::string> names{{"preprocessed", "tokens"},
                                           {"cross_attentions.0", "attention.encoder"},
                                           {"cross_attentions.1", "attention.decoder"}};
  const int64_t layers = spec.encoder.num_self_attends_per_block;
  int64_t state = 0;
  for (int64_t block = 0; block < spec.encoder.num_blocks; ++block) {
    for (int64_t layer = 0; layer <= layers; ++layer) {
      names["hidden_states." + std::to_string(state++)] =
          "latents." + std::to_string(block * layers + layer);
    }
  }
  for (int64_t k = 0; k < spec.encoder.num_blocks * layers; ++k) {
    names["attentions." + std::to_string(k)] = "attention.self." + std::to_string(k);
  }
  return names;
}

class TransformersFixtureShared : public ::testing::TestWithParam<Case> {};

TEST_P(TransformersFixtureShared, EveryStageIsTheirs) {
  PERCEIVER_SHARED_OR_SKIP(folder, std::string("fixtures/transformers/") + GetParam().folder);
  const tasks::Bundle bundle = tasks::load_bundle(folder);
  auto oracle = read_oracle(folder / "io.safetensors", GetParam().calls);
  for (auto& [name, call] : oracle) {
    SCOPED_TRACE(name.empty() ? "main call" : name);
    for (const char* trainers : {"labels", "loss"}) {
      call.inputs.erase(trainers);
      call.f32.erase(trainers);
      call.f64.erase(trainers);
    }
    rename_stages(call, stage_names(bundle.spec));
    Bars bars;
    bars.like_f32 = GetParam().fourier ? 3e-5 : 3e-6;
    expect_same_stages(call, run_ours(bundle.spec, bundle.weights, call.inputs), bars);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Models, TransformersFixtureShared,
    ::testing::Values(Case{"language", {"short", "all_masked"}},
                      Case{"sequence_classification", {}}, Case{"vision_learned", {"interpolated"}},
                      Case{"vision_fourier", {"labelled"}, true},
                      Case{"vision_conv", {"odd"}, true}, Case{"hub_style_vision_conv", {}, true},
                      Case{"optical_flow", {}, true}, Case{"multimodal", {"points"}, true}),
    [](const auto& each) { return std::string(each.param.folder); });

}  // namespace
}  // namespace perceiver::parity
