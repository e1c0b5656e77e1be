#include "train/loader.h"

#include <chrono>
#include <utility>

namespace perceiver::train {

Loader::Loader(Task& task, int64_t first, int64_t stride, int threads,
               std::function<void(Batch&)> keep)
    : task_(task),
      stride_(stride),
      keep_(std::move(keep)),
      next_wanted_(first),
      next_made_(first),
      ahead_(threads + 1) {
  for (int i = 0; i < threads; ++i) {
    threads_.emplace_back([this] { work(); });
  }
}

Loader::~Loader() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  for (std::thread& thread : threads_) {
    thread.join();
  }
}

Batch Loader::make(int64_t index) {
  Batch batch = task_.training_batch(index);
  if (keep_) {
    keep_(batch);
  }
  return batch;
}

void Loader::work() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return stop_ || next_made_ < next_wanted_ + ahead_ * stride_; });
    if (stop_) {
      return;
    }
    const int64_t index = std::exchange(next_made_, next_made_ + stride_);
    lock.unlock();
    Made made;
    try {
      made.batch = make(index);
    } catch (...) {
      made.problem = std::current_exception();
    }
    lock.lock();
    made_.emplace(index, std::move(made));
    changed_.notify_all();
  }
}

Batch Loader::next() {
  const auto start = std::chrono::steady_clock::now();
  Made made;
  if (threads_.empty()) {
    made.batch = make(next_wanted_);
  } else {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return made_.count(next_wanted_) != 0; });
    made = std::move(made_.extract(next_wanted_).mapped());
  }
  {
    const std::lock_guard lock(mutex_);
    next_wanted_ += stride_;
  }
  changed_.notify_all();
  waited_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (made.problem) {
    std::rethrow_exception(made.problem);
  }
  return std::move(made.batch);
}

}  // namespace perceiver::train
