#pragma once

#include <cstdint>
#include <random>
#include <vector>

namespace perceiver {

/// Numbers of the standard normal distribution, the same for a seed.
inline std::vector<float> normal_floats(int64_t count, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) {
    value = normal(generator);
  }
  return values;
}

}  // namespace perceiver
