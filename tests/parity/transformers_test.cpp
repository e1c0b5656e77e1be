#include <cstdlib>
#include <filesystem>
#include <set>

#include <gtest/gtest.h>

#include "parity/oracle.h"
#include "perceiver/tasks/bundle.h"

// Stage by stage against transformers at tiny sizes: tools/oracle/transformers_small.py writes the
// models and their results, ctest runs it first (tests/CMakeLists.txt).

namespace perceiver::parity {
namespace {

namespace fs = std::filesystem;

fs::path oracle_folder() {
  const char* given = std::getenv("PERCEIVER_ORACLE");
  return given != nullptr ? fs::path(given)
                          : fs::path(PERCEIVER_BINARY_DIR) / "oracle/transformers_small";
}

struct Case {
  const char* folder;
  std::vector<std::string> calls;
};

std::vector<Case> cases() {
  return {
      {"language", {"padded", "nothing_valid", "holes", "short", "one_token"}},
      {"language_defaults", {"main", "short"}},
      {"language_query_shape", {"main"}},
      {"language_relu", {"main"}},
      {"language_silu", {"main"}},
      {"sequence_classification", {"main", "short"}},
      {"sequence_classification_set_widths", {"main"}},
      {"vision_learned", {"main", "resized_wide", "resized_large"}},
      {"vision_learned_heads", {"main"}},
      {"vision_fourier", {"main", "row", "pixel", "larger", "masked"}},
      {"vision_fourier_heads", {"main"}},
      {"vision_conv", {"main", "odd", "other"}},
      {"optical_flow", {"main"}},
      {"multimodal", {"chunk", "points", "everything"}},
      {"multimodal_wide_label", {"points"}},
  };
}

class TransformersSmall : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    if (!fs::exists(oracle_folder())) {
      GTEST_SKIP() << "needs the transformers oracle: python tools/oracle/transformers_small.py "
                   << oracle_folder().string();
    }
  }
};

TEST_P(TransformersSmall, EveryStageIsTheirs) {
  const fs::path folder = oracle_folder() / GetParam().folder;
  const tasks::Bundle bundle = tasks::load_bundle(folder);
  const auto oracle = read_oracle(folder / "io.safetensors", GetParam().calls);
  ASSERT_EQ(oracle.size(), GetParam().calls.size());
  Bars bars;
  bars.peer = peer_errors(oracle);
  for (const auto& [name, call] : oracle) {
    SCOPED_TRACE(name);
    ASSERT_FALSE(call.f64.empty());
    expect_same_stages(call, run_ours(bundle.spec, bundle.weights, call.inputs), bars);
  }
}

INSTANTIATE_TEST_SUITE_P(Models, TransformersSmall, ::testing::ValuesIn(cases()),
                         [](const auto& each) { return std::string(each.param.folder); });

TEST(TransformersSmallOracle, HoldsNoCaseWithoutATest) {
  if (!fs::exists(oracle_folder())) {
    GTEST_SKIP() << "needs the transformers oracle";
  }
  std::set<std::string> tested;
  for (const Case& each : cases()) {
    tested.insert(each.folder);
  }
  for (const fs::directory_entry& entry : fs::directory_iterator(oracle_folder())) {
    EXPECT_EQ(tested.count(entry.path().filename().string()), 1U) << entry.path().filename();
  }
}

}  // namespace
}  // namespace perceiver::parity
