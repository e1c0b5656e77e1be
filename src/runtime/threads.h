#pragma once

#include <omp.h>

namespace perceiver::runtime {

/// Runs what follows in its scope on so many threads: oneDNN, the kernels and our own loops all ask
/// OpenMP. The caller's setting comes back afterwards.
class ThreadCount {
 public:
  /// @param count  0 = leave OpenMP's setting
  explicit ThreadCount(int count) : before_(omp_get_max_threads()) {
    if (count > 0) {
      omp_set_num_threads(count);
    }
  }
  ~ThreadCount() { omp_set_num_threads(before_); }
  ThreadCount(const ThreadCount&) = delete;
  ThreadCount& operator=(const ThreadCount&) = delete;

 private:
  int before_;
};

}  // namespace perceiver::runtime
