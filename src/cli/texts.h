#pragma once

#include <string>
#include <vector>

namespace perceiver::cli {

/// `given` with every "-" replaced by the lines of standard input; a final newline adds no text.
/// @throws Error(kFormat) for a line over 1 MiB, Error(kArgument) when nothing is left
std::vector<std::string> read_texts(const std::vector<std::string>& given);

}  // namespace perceiver::cli
