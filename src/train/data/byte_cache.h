#pragma once

#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

namespace perceiver::train {

/// Values that are expensive to make, kept while they fit a number of bytes; the ones not asked for
/// longest go first. What get() returns must be a function of the key alone, then it never matters
/// what is in the cache. May be used from several threads; while one makes a value others go on.
template <typename Value>
class ByteCache {
 public:
  /// @param budget  bytes of all values together; 0 = nothing is kept
  explicit ByteCache(int64_t budget) : budget_(budget) {}

  /// The value of `key`, made by make() when it is not kept. What make() throws passes through.
  /// @param bytes_of  its size in bytes
  template <typename Make, typename BytesOf>
  std::shared_ptr<const Value> get(int64_t key, const Make& make, const BytesOf& bytes_of) {
    if (auto kept = find(key)) {
      return kept;
    }
    auto made = std::make_shared<const Value>(make());
    keep(key, made, bytes_of(*made));
    return made;
  }

  int64_t bytes() const {
    const std::lock_guard lock(mutex_);
    return bytes_;
  }

 private:
  struct Entry {
    int64_t key;
    std::shared_ptr<const Value> value;
    int64_t bytes;
  };
  using Entries = std::list<Entry>;

  std::shared_ptr<const Value> find(int64_t key) {
    const std::lock_guard lock(mutex_);
    const auto found = by_key_.find(key);
    if (found == by_key_.end()) {
      return nullptr;
    }
    recent_.splice(recent_.begin(), recent_, found->second);
    return found->second->value;
  }

  void keep(int64_t key, const std::shared_ptr<const Value>& value, int64_t bytes) {
    const std::lock_guard lock(mutex_);
    if (bytes > budget_ || by_key_.count(key) != 0) {  // another thread may have been faster
      return;
    }
    recent_.push_front({key, value, bytes});
    by_key_.emplace(key, recent_.begin());
    bytes_ += bytes;
    while (bytes_ > budget_) {
      bytes_ -= recent_.back().bytes;
      by_key_.erase(recent_.back().key);
      recent_.pop_back();
    }
  }

  int64_t budget_;
  mutable std::mutex mutex_;
  Entries recent_;  // the latest first
  std::map<int64_t, typename Entries::iterator> by_key_;
  int64_t bytes_ = 0;
};

}  // namespace perceiver::train
