#include <string>
#include <vector>

#include <benchmark/benchmark.h>

#include "runtime/linear.h"
#include "runtime/threads.h"
#include "runtime/workspace.h"

// How much longer is a product of latents as defined, by oneDNN, than by seven products of
// quarters? GFLOP/s count both as defined. Weights are eight, so that they come from memory as a
// model's do.

namespace perceiver::runtime {
namespace {

struct Shape {
  const char* name;
  int64_t rows, in, out;
};

void run(benchmark::State& state, const Shape& shape, ProductOrder order) {
  const ThreadCount threads(static_cast<int>(state.range(0)));
  const std::vector<float> weight(static_cast<size_t>(shape.in * shape.out), 0.01F);
  std::vector<Linear> layers;
  for (int layer = 0; layer < 8; ++layer) {
    layers.emplace_back(Affine{shape.out, shape.in, weight, {}}, Precision::kF32, 0, order);
  }
  const bool gaps = layers[0].order() == ProductOrder::kSeven;
  if (gaps != (order == ProductOrder::kSeven)) {
    state.SkipWithError("too narrow for seven products");
    return;
  }
  Workspace workspace;
  const int64_t part = layers[0].in_part();
  const auto x = layers[0].room(shape.rows, workspace);
  const Matrix y =
      gaps ? workspace.matrix(shape.rows, shape.out) : workspace.dense(shape.rows, shape.out);
  for (int64_t c = 0; c < shape.in; ++c) {
    for (int64_t r = 0; r < shape.rows; ++r) {
      x.part(c / part).row(r)[c % part] = 1;
    }
  }
  size_t next = 0;
  for (auto _ : state) {
    layers[next++ % layers.size()].apply(x, side_by_side(y, y.columns));
  }
  const double flops = 2e-9 * static_cast<double>(shape.rows * shape.in * shape.out);
  state.counters["GFLOP/s"] =
      benchmark::Counter(flops, benchmark::Counter::kIsIterationInvariantRate);
}

const bool kRegistered = [] {
  for (const Shape& shape : {Shape{"language, output and MLP", 256, 1280, 1280},
                             Shape{"language, queries, keys, values", 256, 1280, 1792},
                             Shape{"vision, output and MLP", 512, 1024, 1024},
                             Shape{"vision, queries, keys, values", 512, 1024, 3072}}) {
    for (const ProductOrder order : {ProductOrder::kPlain, ProductOrder::kSeven}) {
      const std::string name =
          std::string(shape.name) + (order == ProductOrder::kSeven ? "/seven" : "/as defined");
      benchmark::RegisterBenchmark(
          name.c_str(), [shape, order](benchmark::State& state) { run(state, shape, order); })
          ->Arg(1)
          ->Arg(2)
          ->UseRealTime();
    }
  }
  return true;
}();

}  // namespace
}  // namespace perceiver::runtime
