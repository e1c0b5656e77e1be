#pragma once

#include <cstdint>
#include <mutex>
#include <set>

#include "perceiver/base/error.h"

namespace perceiver::train {

/// What happens when a sample cannot be read: the run stops with the reader's message, or, up to a
/// limit, the next sample that can be read takes its place and the bad one is counted. Which one
/// that is depends on the samples alone, so runs stay the same whatever the number of threads.
/// May be used from several threads at once.
class BadSamples {
 public:
  /// @param limit  how many different samples may be bad (Recipe::skip_bad)
  explicit BadSamples(int64_t limit) : limit_(limit) {}

  /// read(i) for i = index, index + 1, ... modulo `count`, until one returns.
  /// @throws the reader's error once more than `limit` samples are bad, or all are; errors of other
  ///         codes than kIo, kFormat and kUnsupported at once
  template <typename Read>
  auto read(int64_t index, int64_t count, const Read& read) {
    for (int64_t tried = 0;; ++tried) {
      const int64_t at = (index + tried) % count;
      try {
        return read(at);
      } catch (const Error& error) {
        if (!may_skip(at, error.code()) || tried + 1 == count) {
          throw;
        }
      }
    }
  }

  /// Different samples that were left out so far.
  int64_t skipped() const {
    const std::lock_guard lock(mutex_);
    return static_cast<int64_t>(bad_.size());
  }

 private:
  bool may_skip(int64_t index, ErrorCode code) {
    if (code != ErrorCode::kIo && code != ErrorCode::kFormat && code != ErrorCode::kUnsupported) {
      return false;
    }
    const std::lock_guard lock(mutex_);
    if (bad_.count(index) == 0 && static_cast<int64_t>(bad_.size()) >= limit_) {
      return false;
    }
    bad_.insert(index);
    return true;
  }

  int64_t limit_;
  mutable std::mutex mutex_;
  std::set<int64_t> bad_;
};

}  // namespace perceiver::train
