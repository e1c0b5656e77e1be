#include "train/fields.h"

#include <algorithm>
#include <cmath>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"

namespace perceiver::train {
namespace {

const Json& empty_object() {
  static const Json empty = Json::object();
  return empty;
}

size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) {
    row[j] = j;
  }
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t change = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, change});
    }
  }
  return row[b.size()];
}

std::string list(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) {
    text += (text.empty() ? "" : ", ") + word;
  }
  return text;
}

}  // namespace

std::string nearest_word(const std::string& wrong, const std::vector<std::string>& words) {
  std::string best;
  size_t fewest = std::max<size_t>(2, wrong.size() / 2) + 1;
  if (wrong.size() > 64) {
    return best;
  }
  for (const std::string& word : words) {
    const size_t edits = edit_distance(wrong, word);
    if (edits < fewest) {
      fewest = edits;
      best = word;
    }
  }
  return best;
}

Fields::Fields(const Json& object, std::string where) : object_(object), where_(std::move(where)) {
  if (!object.is_object()) {
    throw Error(ErrorCode::kFormat,
                cat(where_, ": needs an object {...}, is ", object.type_name()));
  }
}

bool Fields::has(const std::string& key) {
  known_.insert(key);
  return object_.contains(key);
}

const Json& Fields::at(const std::string& key) {
  if (!has(key)) {
    throw Error(ErrorCode::kFormat, cat(where(key), " is missing"));
  }
  return object_.at(key);
}

void Fields::wrong_type(const std::string& key, const char* wanted) const {
  throw Error(ErrorCode::kFormat,
              cat(where(key), " must be ", wanted, ", is ", printable(object_.at(key).dump(), 60)));
}

double Fields::number(const std::string& key, double fallback, double minimum, double maximum) {
  if (!has(key)) {
    return fallback;
  }
  if (!object_.at(key).is_number()) {
    wrong_type(key, "a number");
  }
  const double value = object_.at(key).get<double>();
  if (!(value >= minimum && value <= maximum)) {
    throw Error(ErrorCode::kArgument,
                cat(where(key), " is ", value, ", must be between ", minimum, " and ", maximum));
  }
  return value;
}

int64_t Fields::integer(const std::string& key, int64_t fallback, int64_t minimum,
                        int64_t maximum) {
  if (!has(key)) {
    return fallback;
  }
  // Also 1e4, which JSON reads as a float. Beyond 2^53 a float is not exact.
  const Json& json = object_.at(key);
  const bool whole = json.is_number_float() &&
                     std::floor(json.get<double>()) == json.get<double>() &&
                     std::fabs(json.get<double>()) < 0x1p53;
  if (!json.is_number_integer() && !whole) {
    wrong_type(key, "a whole number");
  }
  const bool too_large = json.is_number_unsigned() && json.get<uint64_t>() > uint64_t{INT64_MAX};
  const int64_t value = too_large ? INT64_MAX : json.get<int64_t>();
  if (too_large || value < minimum || value > maximum) {
    throw Error(ErrorCode::kArgument, cat(where(key), " is ", json.dump(), ", must be between ",
                                          minimum, " and ", maximum));
  }
  return value;
}

bool Fields::boolean(const std::string& key, bool fallback) {
  if (!has(key)) {
    return fallback;
  }
  if (!object_.at(key).is_boolean()) {
    wrong_type(key, "true or false");
  }
  return object_.at(key).get<bool>();
}

std::string Fields::text(const std::string& key, const std::string& fallback) {
  if (!has(key)) {
    return fallback;
  }
  if (!object_.at(key).is_string()) {
    wrong_type(key, "a text");
  }
  return object_.at(key).get<std::string>();
}

size_t Fields::choice(const std::string& key, size_t fallback,
                      const std::vector<std::string>& words) {
  if (!has(key)) {
    return fallback;
  }
  const std::string word = text(key, "");
  const auto found = std::find(words.begin(), words.end(), word);
  if (found == words.end()) {
    throw Error(ErrorCode::kFormat,
                cat(where(key), " is '", printable(word, 40), "', must be one of: ", list(words)));
  }
  return static_cast<size_t>(found - words.begin());
}

Fields Fields::object(const std::string& key) {
  return Fields(has(key) ? object_.at(key) : empty_object(), where(key));
}

void Fields::finish() const {
  for (const auto& [key, value] : object_.items()) {
    if (known_.count(key) != 0) {
      continue;
    }
    const std::vector<std::string> known(known_.begin(), known_.end());
    const std::string near = nearest_word(key, known);
    throw Error(ErrorCode::kFormat, cat(where_, ": unknown key '", printable(key, 40), "'",
                                        near.empty() ? cat("; known: ", list(known))
                                                     : cat("; did you mean '", near, "'?")));
  }
}

std::filesystem::path resolve_path(const std::filesystem::path& given,
                                   const std::filesystem::path& folder) {
  return given.is_absolute() ? given : folder / given;
}

std::filesystem::path existing_file(Fields& fields, const std::string& key,
                                    const std::filesystem::path& folder) {
  fields.at(key);
  const std::filesystem::path path = resolve_path(fields.text(key, ""), folder);
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(path, ignored)) {
    throw Error(ErrorCode::kIo, cat(fields.where(key), ": no file ", printable(path.string()),
                                    " (relative paths start at --data DIR)"));
  }
  return path;
}

std::filesystem::path existing_folder(Fields& fields, const std::string& key,
                                      const std::filesystem::path& folder) {
  fields.at(key);
  const std::filesystem::path path = resolve_path(fields.text(key, ""), folder);
  std::error_code ignored;
  if (!std::filesystem::is_directory(path, ignored)) {
    throw Error(ErrorCode::kIo, cat(fields.where(key), ": no folder ", printable(path.string()),
                                    " (relative paths start at --data DIR)"));
  }
  return path;
}

}  // namespace perceiver::train
