#pragma once

#include <string>
#include <vector>

namespace perceiver::spec_detail {

/// The entry of `known` with the smallest edit distance to `word`; empty when `known` is.
std::string nearest(const std::string& word, const std::vector<std::string>& known);

}  // namespace perceiver::spec_detail
