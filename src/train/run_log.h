#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "perceiver/train/train.h"
#include "train/event_file.h"

namespace perceiver::train {

/// The history of a run: log.jsonl, and the same curves for TensorBoard. Kept in memory and written
/// whole with each checkpoint, so that neither file ever says more or less than the checkpoint.
class RunLog {
 public:
  explicit RunLog(std::filesystem::path folder) : folder_(std::move(folder)) {}
  /// What an earlier part of the run logged, up to `step`: later lines belong to work that is about
  /// to be done again.
  void read(int64_t step);
  void add(const StepRecord& record);
  /// @throws Error(kIo)
  void write() const;

 private:
  std::filesystem::path folder_;
  std::string lines_;
  std::vector<ScalarEvent> events_;
};

}  // namespace perceiver::train
