#include <algorithm>
#include <chrono>

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>

#include "perceiver/nn/engine.h"

namespace perceiver::nn {

double measure_gemm_peak(int num_threads) {
  if (num_threads > 0) {
    at::set_num_threads(num_threads);
  }
  constexpr int64_t kSide = 1536;  // large enough for the peak, some 0.1 s on two slow cores
  const at::Tensor a = at::ones({kSide, kSide});
  double best = 0;
  for (int round = 0; round < 5; ++round) {
    const auto start = std::chrono::steady_clock::now();
    const at::Tensor product = at::mm(a, a);
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    best = std::max(best, 2.0 * kSide * kSide * kSide / seconds);
  }
  return best;
}

}  // namespace perceiver::nn
