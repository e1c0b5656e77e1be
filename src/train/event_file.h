#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

namespace perceiver::train {

/// One row of a curve file: values by tag at a step.
struct ScalarEvent {
  double wall_time = 0;  ///< seconds since 1970
  int64_t step = 0;
  std::vector<std::pair<std::string, double>> values;
};

/// TensorBoard's event file of scalars (TFRecord frames of Event messages), as bytes: the version
/// record and one record per event.
std::string event_file(const std::vector<ScalarEvent>& events, double start_time);

/// CRC-32C (Castagnoli) of `bytes`.
uint32_t crc32c(std::string_view bytes);

}  // namespace perceiver::train
