#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace perceiver {

/// How far long work has come. The library only calls back; showing it is the program's business.
struct Progress {
  std::string what;   ///< "decode", "tiles", "step"
  int64_t done = 0;   ///< finished units
  int64_t total = 0;  ///< 0 = unknown
  std::string note;   ///< short free text: "loss 1.234"
};
using ProgressFn = std::function<void(const Progress&)>;

}  // namespace perceiver
