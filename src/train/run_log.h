#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "perceiver/base/file.h"
#include "perceiver/train/train.h"

namespace perceiver::train {

/// The history of a run: log.jsonl, and the same curves for TensorBoard. Both grow line by line, so
/// that a run can be watched, and may be ahead of the last checkpoint: read() drops what is.
class RunLog {
 public:
  explicit RunLog(std::filesystem::path folder) : folder_(std::move(folder)) {}
  /// What an earlier part of the run logged, up to `step`: later lines belong to work that is about
  /// to be done again, as does the measurement of a finished model.
  void read(int64_t step);
  /// Writes both files anew with what was read. @throws Error(kIo)
  void open();
  void add(const StepRecord& record);  ///< @throws Error(kIo)
  /// Puts what was added on the disk; before the checkpoint it belongs to. @throws Error(kIo)
  void sync();

 private:
  std::filesystem::path folder_;
  std::string lines_, events_;  // of earlier parts, until open()
  double start_time_ = 0;       // of the first line, seconds since 1970
  std::optional<AppendedFile> lines_file_, events_file_;
};

}  // namespace perceiver::train
