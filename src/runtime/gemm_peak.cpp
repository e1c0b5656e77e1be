#include <algorithm>
#include <chrono>
#include <vector>

#include "perceiver/runtime/engine.h"
#include "runtime/linear.h"
#include "runtime/threads.h"

namespace perceiver::runtime {

double measure_gemm_peak(int num_threads) {
  const ThreadCount threads(num_threads);
  constexpr int64_t kSide = 1536;  // large enough for the peak, some 0.1 s on two slow cores
  const std::vector<float> a(kSide * kSide, 1.0F);
  std::vector<float> product(kSide * kSide);
  const ConstMatrix square{a.data(), kSide, kSide, kSide};
  double best = 0;
  for (int round = 0; round < 5; ++round) {
    const auto start = std::chrono::steady_clock::now();
    multiply(square, square, {product.data(), kSide, kSide, kSide});
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    best = std::max(best, 2.0 * kSide * kSide * kSide / seconds);
  }
  return best;
}

}  // namespace perceiver::runtime
