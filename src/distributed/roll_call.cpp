#include "distributed/roll_call.h"

#include <algorithm>
#include <array>
#include <unistd.h>

#include "perceiver/base/str.h"

namespace perceiver::distributed {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;
using Store = c10d::Store;

constexpr milliseconds kLook{250};
constexpr milliseconds kSilence{3000};   // three beats missed in a row
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

std::string name_of(Store& store, int rank) {
  return cat("rank ", rank, " (", printable(store.get_to_str(key("here", rank))), ")");
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

RollCall::RollCall(c10::intrusive_ptr<Store> store, int rank, int size)
    : rank_(rank),
      size_(size),
      heard_(std::make_shared<Heard>()),
      line_(std::move(store), [rank, size, heard = heard_](Store& of_group) {
        listen(of_group, rank, size, *heard);
      }) {}

std::string RollCall::Heard::get() {
  const std::lock_guard lock(mutex);
  return problem;
}

// Each second: counts, and hears why somebody leaves while rank 0's store is still there.
void RollCall::listen(Store& store, int rank, int size, Heard& heard) {
  store.add(key("beat", rank), 1);
  const bool leaves = store.check({key(kLeft, rank)});
  if (leaves || !heard.get().empty() || !store.check({kLeft})) {
    return;
  }
  for (int other = 0; other < size; ++other) {
    if (store.check({key(kLeft, other)})) {
      const std::lock_guard lock(heard.mutex);
      heard.problem = cat(name_of(store, other), " stopped: ", store.get_to_str(key(kLeft, other)));
      break;
    }
  }
  count_as_knowing(store, heard);
}

void RollCall::count_as_knowing(Store& store, Heard& heard) {
  if (!heard.counted) {
    heard.counted = true;
    store.add(kHeard, 1);
  }
}

bool RollCall::check(const std::string& name) {
  return line_.ask([name](Store& store) { return store.check({name}); });
}

int64_t RollCall::count_of(int rank) {
  return line_.ask([rank](Store& store) { return store.add(key("beat", rank), 0); });
}

void RollCall::arrive(milliseconds patience) {
  std::vector<std::string> all;
  for (int rank = 0; rank < size_; ++rank) {
    all.push_back(key("here", rank));
  }
  line_.ask([rank = rank_](Store& store) { store.set(key("here", rank), own_name()); });
  const auto end = Clock::now() + patience;
  milliseconds pause = kShortNap;
  while (!line_.ask([all](Store& store) { return store.check(all); })) {
    if (Clock::now() >= end) {
      std::vector<int> absent;
      for (int rank = 0; rank < size_; ++rank) {
        if (!check(all[static_cast<size_t>(rank)])) {
          absent.push_back(rank);
        }
      }
      throw Error(ErrorCode::kIo,
                  cat("rank ", rank_, " waited ", static_cast<double>(patience.count()) / 1000,
                      " s for ", size_, " processes; missing: rank ", list(absent)));
    }
    nap(pause);
  }
}

std::string RollCall::said() {
  const std::string problem = heard_->get();
  return !problem.empty() ? problem : line_.is_gone() ? std::string(kStoreIsGone) : std::string();
}

std::vector<int> RollCall::silent() {
  std::vector<std::pair<int, int64_t>> waiting;  // rank, its count at first
  for (int rank = 0; rank < size_; ++rank) {
    if (rank != rank_) {
      waiting.emplace_back(rank, count_of(rank));
    }
  }
  const auto end = Clock::now() + kSilence;
  while (!waiting.empty() && Clock::now() < end && said().empty()) {
    std::this_thread::sleep_for(kLook);
    std::erase_if(waiting, [this](const auto& of) { return count_of(of.first) != of.second; });
  }
  std::vector<int> ranks;
  for (const auto& [rank, unused] : waiting) {
    ranks.push_back(rank);
  }
  return ranks;
}

std::string RollCall::missing() {
  constexpr size_t kMost = 4;
  if (std::string text = said(); !text.empty()) {
    return text;
  }
  try {
    const std::vector<int> ranks = silent();
    if (std::string text = said(); !text.empty()) {
      return text;
    }
    std::string text;
    for (size_t i = 0; i < std::min(ranks.size(), kMost); ++i) {
      const int rank = ranks[i];
      text += cat(i == 0 ? "" : ", ",
                  line_.ask([rank](Store& store) { return name_of(store, rank); }), " is silent");
    }
    if (!ranks.empty()) {
      silent_ = static_cast<int>(ranks.size());
      line_.ask([heard = heard_](Store& store) { count_as_knowing(store, *heard); });
    }
    return ranks.size() > kMost ? cat(text, " and ", ranks.size() - kMost, " more") : text;
  } catch (const Error& error) {
    return error.what();
  }
}

void RollCall::meet(const std::string& what, milliseconds timeout) {
  const std::string meeting = key("meet", meetings_++);
  const std::string all_here = meeting + "/all";
  std::string gone;
  try {
    line_.ask([meeting, all_here, size = size_](Store& store) {
      if (store.add(meeting, 1) == size) {
        store.set(all_here, "");
      }
    });
    milliseconds pause = kShortNap;
    for (auto patience = Clock::now() + timeout; gone.empty() && !check(all_here); nap(pause)) {
      gone = said();
      if (gone.empty() && Clock::now() >= patience) {
        patience = Clock::now() + timeout;
        gone = missing();
      }
    }
  } catch (const Error& error) {
    gone = error.what();
  }
  if (!gone.empty()) {
    throw Error(ErrorCode::kIo, cat("rank ", rank_, " of ", size_, " waited for the others after ",
                                    what, ": ", gone));
  }
}

void RollCall::leave(const std::string& problem) {
  if (said().empty() && silent_ == 0) {  // else the others notice what this process has noticed
    line_.ask([rank = rank_, problem](Store& store) {
      store.set(key(kLeft, rank), problem);
      store.set(kLeft, "");
    });
  }
  if (rank_ != 0 || line_.is_gone()) {
    return;
  }
  // The store goes with this process, so it stays until all who live know.
  const int64_t alive = size_ - std::max(1, silent_);
  const auto end = Clock::now() + kFarewell;
  milliseconds pause = kShortNap;
  while (Clock::now() < end &&
         line_.ask([](Store& store) { return store.add(kHeard, 0); }) < alive) {
    nap(pause);
  }
}

}  // namespace perceiver::distributed
