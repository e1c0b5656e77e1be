#include "kernels/attend_bench.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <thread>

#include "kernels/attend_case.h"
#include "perceiver/kernels/dispatch.h"

namespace perceiver::kernels {
namespace {

constexpr int64_t kCheckedQueries = 4;

/// Largest difference to the formulas over the first queries of the first head, in units of the
/// largest value.
double difference(const AttendCase& attend_case, AttendResults& actual) {
  AttendResults expected = attend_case.make_results();
  AttendForward<float> args = attend_case.call(expected);
  args.shape.batch = args.shape.heads = 1;
  args.shape.queries = std::min(args.shape.queries, kCheckedQueries);
  attend_reference(args);
  double largest = 0, worst = 0;
  for (int64_t i = 0; i < args.shape.queries; ++i) {
    for (int64_t c = 0; c < args.shape.v_dim; ++c) {
      const double value = static_cast<double>(expected.out.at(0, 0, i, c));
      largest = std::max(largest, std::abs(value));
      worst = std::max(worst, std::abs(value - static_cast<double>(actual.out.at(0, 0, i, c))));
    }
  }
  return worst / largest;
}

void run(benchmark::State& state, const AttendCase& attend_case, const std::string& kernels) {
  const int threads = static_cast<int>(state.range(0));
  use_kernels(kernels);
  AttendResults results = attend_case.make_results();
  const AttendForward<float> args = attend_case.call(results);
  attend(args, threads);
  if (!(difference(attend_case, results) < 1e-4)) {
    state.SkipWithError("differs from the formulas");
    return;
  }
  for (auto _ : state) {
    attend(args, threads);
  }
  const AttendShape& shape = args.shape;
  const double flops = 2e-9 * static_cast<double>(shape.batch * shape.heads * shape.queries) *
                       static_cast<double>(shape.keys * (shape.qk_dim + shape.v_dim));
  state.counters["GFLOP/s"] =
      benchmark::Counter(flops, benchmark::Counter::kIsIterationInvariantRate);
}

}  // namespace

void register_attend(const std::string& name, const std::string& line) {
  const auto attend_case = std::make_shared<AttendCase>(parse_line(line));
  for (const KernelSet& set : kernel_sets()) {
    if (!set.runs_here || set.name == "reference") {
      continue;
    }
    auto* registered =
        benchmark::RegisterBenchmark((name + "/" + set.name).c_str(),
                                     [attend_case, kernels = set.name](benchmark::State& state) {
                                       run(state, *attend_case, kernels);
                                     });
    registered->ArgName("threads")->Unit(benchmark::kMillisecond)->UseRealTime();
    for (int threads = 1; threads <= static_cast<int>(std::thread::hardware_concurrency());
         threads *= 2) {
      registered->Arg(threads);
    }
  }
}

}  // namespace perceiver::kernels
