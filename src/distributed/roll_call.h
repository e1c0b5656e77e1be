#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include <torch/csrc/distributed/c10d/Store.hpp>

#include "perceiver/base/error.h"

namespace perceiver::distributed {

/// A client of the store that never waits longer than it is told to: LibTorch's waits for an answer
/// for ever when the network is gone. One thread talks to the store, and counts up a number there
/// each second so that others see that this process lives.
class StoreLine {
 public:
  using Store = c10d::Store;

  /// @param store  a client of its own
  /// @param beat   what to do each second
  StoreLine(c10::intrusive_ptr<Store> store, std::function<void(Store&)> beat);
  /// Leaves the thread alone if the store does not answer.
  ~StoreLine();
  StoreLine(const StoreLine&) = delete;
  StoreLine& operator=(const StoreLine&) = delete;

  /// What `question` makes of the store. @throws Error(kIo) when it does not answer in time
  template <typename Question>
  auto ask(Question question) {
    using Answer = std::invoke_result_t<Question, Store&>;
    auto promise = std::make_shared<std::promise<Answer>>();
    std::future<Answer> answer = promise->get_future();
    post([promise, question = std::move(question)](Store& store) {
      if constexpr (std::is_void_v<Answer>) {
        question(store);
        promise->set_value();
      } else {
        promise->set_value(question(store));
      }
    });
    if (answer.wait_for(kAnswers) != std::future_status::ready) {
      give_up();
    }
    try {
      return answer.get();
    } catch (const std::future_error&) {  // dropped: the store failed
      give_up();
    }
  }
  bool is_gone() const;

 private:
  static constexpr std::chrono::seconds kAnswers{5};
  /// What the thread uses, and keeps when it is left alone.
  struct State {
    c10::intrusive_ptr<Store> store;
    std::function<void(Store&)> beat;
    std::mutex mutex;
    std::condition_variable changed;
    std::deque<std::function<void(Store&)>> questions;
    bool stop = false, gone = false, ended = false;
  };
  static void run(State& state);
  void post(std::function<void(Store&)> question);
  [[noreturn]] void give_up();

  std::shared_ptr<State> state_;
  std::thread thread_;
};

/// Who of a group is there, kept in the store where its processes met. Every process counts up a
/// number of its own there, so that one that is busy can be told from one that is gone; one that
/// leaves because of an error says so. Costs two small requests per process and second.
class RollCall {
 public:
  /// @param store  a client of its own
  RollCall(c10::intrusive_ptr<c10d::Store> store, int rank, int size);

  /// Waits until every process is here.
  /// @throws Error(kIo) naming the ranks that did not come in time
  void arrive(std::chrono::milliseconds patience);
  /// Waits until every process has called this equally often, as long as all of them are alive.
  /// @throws Error(kIo) with missing()'s text
  void meet(const std::string& what, std::chrono::milliseconds timeout);
  /// Who is gone, and why if it is known: "rank 1 (node2, process 77) is silent". Takes a few
  /// seconds when nobody has said anything. @return empty when all are alive
  std::string missing();
  /// Tells the others why this process leaves, and gives them the time to hear it.
  void leave(const std::string& problem);

 private:
  /// What others said when they left; written by the line's thread.
  struct Heard {
    std::mutex mutex;
    std::string problem;
    bool counted = false;  ///< this process is among those that know; the thread's own
    std::string get();
  };
  static void count_as_knowing(c10d::Store& store, Heard& heard);
  static void listen(c10d::Store& store, int rank, int size, Heard& heard);
  std::string said();
  std::vector<int> silent();
  int64_t count_of(int rank);
  bool check(const std::string& key);

  int rank_, size_;
  int64_t meetings_ = 0;
  int silent_ = 0;  ///< processes that were gone when it was last asked
  std::shared_ptr<Heard> heard_;
  StoreLine line_;
};

}  // namespace perceiver::distributed
