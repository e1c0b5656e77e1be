#include "distributed/roll_call.h"

#include <algorithm>
#include <array>
#include <exception>
#include <unistd.h>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"

namespace perceiver::distributed {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr milliseconds kBeat{1000};
constexpr milliseconds kSilence{4000};   // four beats missed in a row
constexpr milliseconds kFarewell{5000};  // how long the others may take to hear why rank 0 leaves
constexpr milliseconds kShortNap{2};     // between looks at the store, growing ...
constexpr milliseconds kLongNap{100};    // ... to this: 512 processes ask 5000 times a second
constexpr const char* kLeft = "left";    // somebody left because of an error
constexpr const char* kHeard = "heard";  // how many know why
constexpr const char* kStoreIsGone =
    "the store of rank 0, where the processes met, does not answer";

std::string key(const char* kind, int64_t number) {
  return cat(kind, "/", number);
}

std::string own_name() {
  std::array<char, 256> host{};
  if (::gethostname(host.data(), host.size() - 1) != 0) {
    return cat("process ", ::getpid());
  }
  return cat(host.data(), ", process ", ::getpid());
}

void nap(milliseconds& length) {
  std::this_thread::sleep_for(length);
  length = std::min(length * 2, kLongNap);
}

std::string list(const std::vector<int>& ranks) {
  constexpr size_t kMost = 16;
  std::string text;
  for (size_t i = 0; i < std::min(ranks.size(), kMost); ++i) {
    text += cat(i == 0 ? "" : ", ", ranks[i]);
  }
  return ranks.size() > kMost ? cat(text, " and ", ranks.size() - kMost, " more") : text;
}

}  // namespace

RollCall::RollCall(c10::intrusive_ptr<c10d::Store> store, int rank, int size)
    : store_(std::move(store)), rank_(rank), size_(size) {}

RollCall::~RollCall() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) {
    thread_.join();
  }
}

void RollCall::arrive(milliseconds patience) {
  store_->set(key("here", rank_), own_name());
  std::vector<std::string> all;
  for (int rank = 0; rank < size_; ++rank) {
    all.push_back(key("here", rank));
  }
  milliseconds pause = kShortNap;
  for (const auto end = Clock::now() + patience; !store_->check(all); nap(pause)) {
    if (Clock::now() < end) {
      continue;
    }
    std::vector<int> absent;
    for (int rank = 0; rank < size_; ++rank) {
      if (!store_->check({all[static_cast<size_t>(rank)]})) {
        absent.push_back(rank);
      }
    }
    throw Error(ErrorCode::kIo,
                cat("rank ", rank_, " waited ",
                    std::chrono::duration_cast<std::chrono::seconds>(patience).count(), " s for ",
                    size_, " processes; missing: rank ", list(absent)));
  }
  thread_ = std::thread([this] { count(); });
}

// The thread: counts, and hears why somebody leaves while rank 0's store is still there.
void RollCall::count() {
  std::unique_lock lock(mutex_);
  while (!stop_) {
    lock.unlock();
    const bool answers = listen();
    lock.lock();
    gone_ = gone_ || !answers;
    if (gone_) {
      return;
    }
    changed_.wait_for(lock, kBeat, [this] { return stop_; });
  }
}

bool RollCall::listen() try {
  store_->add(key("beat", rank_), 1);
  if (!store_->check({kLeft})) {
    return true;
  }
  {
    const std::lock_guard lock(mutex_);
    if (!problem_.empty()) {
      return true;
    }
  }
  std::string heard;
  for (int rank = 0; rank < size_ && heard.empty(); ++rank) {
    if (store_->check({key(kLeft, rank)})) {
      heard = cat(name_of(rank), " stopped: ", store_->get_to_str(key(kLeft, rank)));
    }
  }
  const std::lock_guard lock(mutex_);
  problem_ = heard;
  store_->add(kHeard, 1);
  return true;
} catch (const std::exception&) {
  return false;
}

std::string RollCall::name_of(int rank) {
  return cat("rank ", rank, " (", printable(store_->get_to_str(key("here", rank))), ")");
}

std::vector<int> RollCall::silent() {
  std::vector<std::pair<int, int64_t>> waiting;  // rank, its count at first
  for (int rank = 0; rank < size_; ++rank) {
    if (rank != rank_) {
      waiting.emplace_back(rank, store_->add(key("beat", rank), 0));
    }
  }
  for (const auto end = Clock::now() + kSilence;
       !waiting.empty() && Clock::now() < end && said().empty();) {
    std::this_thread::sleep_for(kBeat / 4);
    std::erase_if(waiting, [this](const auto& of) {
      return store_->add(key("beat", of.first), 0) != of.second;
    });
  }
  std::vector<int> ranks;
  for (const auto& [rank, unused] : waiting) {
    ranks.push_back(rank);
  }
  return ranks;
}

std::string RollCall::said() {
  const std::lock_guard lock(mutex_);
  return !problem_.empty() ? problem_ : gone_ ? std::string(kStoreIsGone) : std::string();
}

std::string RollCall::missing() {
  if (std::string text = said(); !text.empty()) {
    return text;
  }
  try {
    const std::vector<int> ranks = silent();
    if (std::string text = said(); !text.empty()) {
      return text;
    }
    std::string text;
    for (const int rank : ranks) {
      text += cat(text.empty() ? "" : ", ", name_of(rank), " is silent");
      if (text.size() > 400) {
        return cat(text, " and others of ", ranks.size());
      }
    }
    return text;
  } catch (const std::exception&) {
    return kStoreIsGone;
  }
}

void RollCall::meet(const std::string& what, milliseconds timeout) {
  const std::string all_here = cat(key("meet", meetings_), "/all");
  std::string gone;
  try {
    if (store_->add(key("meet", meetings_), 1) == size_) {
      store_->set(all_here, "");
    }
    ++meetings_;
    milliseconds pause = kShortNap;
    for (auto patience = Clock::now() + timeout; !store_->check({all_here}); nap(pause)) {
      gone = said();
      if (gone.empty() && Clock::now() >= patience) {
        patience = Clock::now() + timeout;
        gone = missing();
      }
      if (!gone.empty()) {
        break;
      }
    }
  } catch (const std::exception&) {
    gone = kStoreIsGone;
  }
  if (!gone.empty()) {
    throw Error(ErrorCode::kIo, cat("rank ", rank_, " of ", size_, " waited for the others after ",
                                    what, ": ", gone));
  }
}

void RollCall::leave(const std::string& problem) {
  {
    const std::lock_guard lock(mutex_);
    if (gone_ || !problem_.empty()) {
      return;  // the others know that something is wrong
    }
  }
  store_->set(key(kLeft, rank_), problem);
  store_->set(kLeft, "");
  if (rank_ == 0) {  // the store goes with this process
    milliseconds pause = kShortNap;
    for (const auto end = Clock::now() + kFarewell;
         Clock::now() < end && store_->add(kHeard, 0) < size_; nap(pause)) {
    }
  }
}

}  // namespace perceiver::distributed
