#pragma once

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

#include "train/task.h"

namespace perceiver::train {

/// Makes batches ahead of the trainer on background threads. Batches are functions of their index,
/// so order and content do not depend on how many threads there are or which is faster.
class Loader {
 public:
  /// @param first    index of the first batch that will be asked for
  /// @param stride   distance between the batches this process uses (its world size)
  /// @param threads  0 = make each batch when it is asked for
  /// @param keep     applied to each batch where it is made: leaves what this process needs
  Loader(Task& task, int64_t first, int64_t stride, int threads,
         std::function<void(Batch&)> keep = {});
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  /// The batches in order: first, first + stride, ... @throws what making the batch threw
  Batch next();
  /// Seconds spent in next() waiting for data.
  double waited_seconds() const { return waited_; }

 private:
  struct Made {
    Batch batch;
    std::exception_ptr problem;
  };
  void work();
  Batch make(int64_t index);

  Task& task_;
  int64_t stride_;
  std::function<void(Batch&)> keep_;
  int64_t next_wanted_, next_made_;
  int64_t ahead_ = 0;  // how many batches may wait: bounds memory
  std::map<int64_t, Made> made_;
  bool stop_ = false;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::thread> threads_;
  double waited_ = 0;
};

}  // namespace perceiver::train
