#include <exception>

#include "distributed/roll_call.h"

namespace perceiver::distributed {
namespace {

constexpr std::chrono::seconds kBeat{1};

}  // namespace

StoreLine::StoreLine(c10::intrusive_ptr<Store> store, std::function<void(Store&)> beat)
    : state_(std::make_shared<State>()) {
  state_->store = std::move(store);
  state_->beat = std::move(beat);
  thread_ = std::thread([state = state_] { run(*state); });
}

StoreLine::~StoreLine() {
  std::unique_lock lock(state_->mutex);
  state_->stop = true;
  state_->changed.notify_all();
  if (state_->changed.wait_for(lock, kAnswers, [this] { return state_->ended; })) {
    lock.unlock();
    thread_.join();
  } else {
    thread_.detach();  // waits for an answer that does not come; what it uses stays with it
  }
}

void StoreLine::run(State& state) {
  std::unique_lock lock(state.mutex);
  auto next_beat = std::chrono::steady_clock::now();
  while (!state.stop) {
    std::function<void(Store&)> next;
    if (std::chrono::steady_clock::now() >= next_beat) {
      next = state.beat;
      next_beat = std::chrono::steady_clock::now() + kBeat;
    } else if (!state.questions.empty()) {
      next = std::move(state.questions.front());
      state.questions.pop_front();
    } else {
      state.changed.wait_until(lock, next_beat);
      continue;
    }
    lock.unlock();
    bool failed = false;
    try {
      next(*state.store);
    } catch (const std::exception&) {
      failed = true;
    }
    next = nullptr;  // a question that failed tells its asker
    lock.lock();
    state.gone = state.gone || failed;
    state.stop = state.stop || state.gone;
  }
  state.questions.clear();
  state.ended = true;
  state.changed.notify_all();
}

void StoreLine::post(std::function<void(Store&)> question) {
  const std::lock_guard lock(state_->mutex);
  if (!state_->stop) {  // else the question is dropped, and its promise broken
    state_->questions.push_back(std::move(question));
    state_->changed.notify_all();
  }
}

bool StoreLine::is_gone() const {
  const std::lock_guard lock(state_->mutex);
  return state_->gone;
}

void StoreLine::give_up() {
  {
    const std::lock_guard lock(state_->mutex);
    state_->gone = true;
    state_->stop = true;
  }
  state_->changed.notify_all();
  throw Error(ErrorCode::kIo, "the store of rank 0, where the processes met, does not answer");
}

}  // namespace perceiver::distributed
