#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include <torch/csrc/distributed/c10d/Store.hpp>

namespace perceiver::distributed {

/// Who of a group is there, kept in the store where its processes met. Every process counts up a
/// number of its own there each second, from a thread, so that one that is busy can be told from
/// one that is gone; one that leaves because of an error says so. Costs one small request per
/// process and second.
class RollCall {
 public:
  /// @param store  a client of its own; nobody else may wait on it
  RollCall(c10::intrusive_ptr<c10d::Store> store, int rank, int size);
  ~RollCall();
  RollCall(const RollCall&) = delete;
  RollCall& operator=(const RollCall&) = delete;

  /// Waits until every process is here, then starts the counting.
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
  void count();
  bool listen();
  std::string said();
  std::string name_of(int rank);
  std::vector<int> silent();

  c10::intrusive_ptr<c10d::Store> store_;
  int rank_, size_;
  int64_t meetings_ = 0;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool stop_ = false;
  bool gone_ = false;    ///< the store does not answer
  std::string problem_;  ///< what others said when they left
  std::thread thread_;   ///< last: uses the rest
};

}  // namespace perceiver::distributed
