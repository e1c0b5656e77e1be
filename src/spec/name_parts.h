#pragma once

#include <string>
#include <string_view>

// Taking a dotted tensor name apart, for the maps to other layouts.

namespace perceiver::spec_detail {

/// Removes `prefix` from the front of `name`; false, and `name` untouched, if it is not there.
inline bool take_prefix(std::string_view& name, std::string_view prefix) {
  if (!name.starts_with(prefix)) {
    return false;
  }
  name.remove_prefix(prefix.size());
  return true;
}

/// Everything up to the next dot, which is removed with it.
inline std::string take_word(std::string_view& name) {
  const size_t dot = name.find('.');
  const std::string word(name.substr(0, dot));
  name.remove_prefix(dot == std::string_view::npos ? name.size() : dot + 1);
  return word;
}

}  // namespace perceiver::spec_detail
