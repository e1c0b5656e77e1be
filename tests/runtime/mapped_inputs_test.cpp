#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <unistd.h>

#include <gtest/gtest.h>

#include "perceiver/io/safetensors.h"
#include "perceiver/runtime/engine.h"
#include "small_models.h"

namespace perceiver::runtime {
namespace {

// Bytes in memory of the mapping that holds `address`.
int64_t resident(const void* address) {
  const auto wanted = reinterpret_cast<uintptr_t>(address);
  std::ifstream mappings("/proc/self/smaps");
  bool inside = false;
  for (std::string line; std::getline(mappings, line);) {
    std::istringstream words(line);
    uintptr_t begin = 0, end = 0;
    char dash = 0;
    if (words >> std::hex >> begin >> dash >> end && dash == '-') {
      inside = begin <= wanted && wanted < end;
    } else if (inside && line.starts_with("Rss:")) {
      return std::stoll(line.substr(4)) * 1024;
    }
  }
  return -1;
}

ModelSpec reader_of(int64_t rows, int64_t channels) {
  ModelSpec spec;
  InputSpec input;
  input.name = "x";
  input.index_dims = {rows};
  input.channels = channels;
  input.position.kind = PositionKind::kFourier;
  input.position.num_bands = 4;
  spec.inputs = {input};
  spec.encoder.num_latents = 4;
  spec.encoder.latent_channels = 16;
  spec.encoder.num_self_attends_per_block = 1;
  OutputSpec output;
  output.name = "y";
  output.index_dims = {1};
  output.channels = 4;
  spec.outputs = {output};
  spec.decoder.output_channels = 2;
  return spec;
}

TEST(MappedInputs, LeaveMemoryAsTheyAreReadWhenMemoryIsBounded) {
  constexpr int64_t kRows = 40000, kChannels = 64, kBudget = int64_t{1} << 20;
  const ModelSpec spec = reader_of(kRows, kChannels);
  const ArrayMap weights = lively_weights(spec);
  const std::filesystem::path file =
      ::testing::TempDir() + "perceiver-mapped-" + std::to_string(::getpid());
  io::write_safetensors(file, {{"x", random_inputs(spec, 1).arrays.at("x")}});
  for (const Plan plan : {Plan::kTextbook, Plan::kAbsorbed, Plan::kFactored}) {
    ModelInputs inputs;
    inputs.arrays = io::read_safetensors(file);
    const Array& input = inputs.arrays.at("x");
    const auto bounded = make_engine(spec, weights, {.plan = plan, .memory_budget = kBudget});
    const Array answer = bounded->forward(inputs).at("y");
    EXPECT_LT(resident(input.bytes()), 2 * kBudget) << plan_name(plan);
    const auto unbounded = make_engine(spec, weights, {.plan = plan});
    unbounded->forward(inputs);
    EXPECT_GT(resident(input.bytes()), input.nbytes() / 2) << plan_name(plan);
    const Array again = bounded->forward(inputs).at("y");  // from the file once more
    EXPECT_EQ(std::memcmp(again.bytes(), answer.bytes(), static_cast<size_t>(answer.nbytes())), 0);
  }
  std::filesystem::remove(file);
}

}  // namespace
}  // namespace perceiver::runtime
