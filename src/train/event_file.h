#pragma once

#include <cstdint>
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

/// How TensorBoard's event file of scalars begins (TFRecord frames of Event messages), as bytes:
/// the record that says its version.
std::string event_file_start(double wall_time);
/// The record that follows for `event`.
std::string event_record(const ScalarEvent& event);

}  // namespace perceiver::train
