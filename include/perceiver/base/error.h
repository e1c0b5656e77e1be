#pragma once

#include <stdexcept>
#include <string>
#include <utility>

namespace perceiver {

/// What went wrong, as a number a caller can switch on. Values are stable.
enum class ErrorCode : int {
  kArgument = 1,     ///< a value the caller chose is impossible (flag, option, spec field)
  kShape = 2,        ///< an array has another shape or dtype than the model needs
  kFormat = 3,       ///< a file is not what it says it is: truncated, mislabelled, hostile
  kUnsupported = 4,  ///< well-formed, but nothing here implements it
  kIo = 5,           ///< the operating system refused: missing, unreadable, disk full
  kInternal = 6,     ///< a bug of ours; never reachable from user input
};

/// The one exception the library throws. `what()` is a single line that names the file, field or
/// tensor and, where two values disagree, both.
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ErrorCode code() const noexcept { return code_; }

 private:
  ErrorCode code_;
};

}  // namespace perceiver
