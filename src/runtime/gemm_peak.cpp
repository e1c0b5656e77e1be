#include <algorithm>
#include <chrono>
#include <vector>

#include "perceiver/runtime/engine.h"
#include "runtime/linear.h"
#include "runtime/threads.h"

namespace perceiver::runtime {

double measure_gemm_peak(int num_threads) {
  const ThreadCount threads(num_threads);
  constexpr int64_t kSide = 1536;  // large enough for the peak, some 0.2 s on two slow cores
  const std::vector<float> a(kSide * kSide, 1.0F);
  // the faster of oneDNN's GEMM and of packed weights: which is, differs between CPUs
  const Linear packed({kSide, kSide, a, {}}, Precision::kF32);
  std::vector<float> product(kSide * kSide);
  const ConstMatrix square{a.data(), kSide, kSide, kSide};
  double best = 0;
  for (int round = 0; round < 5; ++round) {
    const auto start = std::chrono::steady_clock::now();
    multiply(square, square, {product.data(), kSide, kSide, kSide});
    const auto between = std::chrono::steady_clock::now();
    packed.apply(square, {product.data(), kSide, kSide, kSide});
    const auto end = std::chrono::steady_clock::now();
    for (const std::chrono::duration<double> taken : {between - start, end - between}) {
      best = std::max(best, 2.0 * kSide * kSide * kSide / taken.count());
    }
  }
  return best;
}

}  // namespace perceiver::runtime
