#pragma once

#include <cstdint>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "perceiver/base/json.h"

namespace perceiver::train {

/// One JSON object of a recipe, read field by field. finish() refuses whatever was never asked for,
/// naming the nearest key that was.
class Fields {
 public:
  /// @param where  what to call the object in messages: "mnist.json: optimiser"
  /// @throws Error(kFormat) if it is not an object
  Fields(const Json& object, std::string where);

  bool has(const std::string& key);
  const Json& at(const std::string& key);  ///< @throws Error(kFormat) if absent

  /// Each returns `fallback` for an absent key. @throws Error(kFormat) for another JSON type,
  /// Error(kArgument) for a number out of range
  double number(const std::string& key, double fallback, double minimum, double maximum);
  int64_t integer(const std::string& key, int64_t fallback, int64_t minimum, int64_t maximum);
  bool boolean(const std::string& key, bool fallback);
  std::string text(const std::string& key, const std::string& fallback);
  /// One of `words`, as an index.
  size_t choice(const std::string& key, size_t fallback, const std::vector<std::string>& words);

  /// The nested object, or an empty one.
  Fields object(const std::string& key);
  std::string where(const std::string& key) const { return where_ + "." + key; }
  /// @throws Error(kFormat) for an unknown key
  void finish() const;

 private:
  [[noreturn]] void wrong_type(const std::string& key, const char* wanted) const;

  const Json& object_;
  std::string where_;
  std::set<std::string> known_;
};

/// `given`, from `folder` on if it is relative.
std::filesystem::path resolve_path(const std::filesystem::path& given,
                                   const std::filesystem::path& folder);
/// The path that `key` names; it must be there. @throws Error(kFormat), Error(kIo)
std::filesystem::path existing_file(Fields& fields, const std::string& key,
                                    const std::filesystem::path& folder);
std::filesystem::path existing_folder(Fields& fields, const std::string& key,
                                      const std::filesystem::path& folder);

/// The entry of `words` that takes the fewest edits to reach; empty if none is near.
std::string nearest_word(const std::string& wrong, const std::vector<std::string>& words);

}  // namespace perceiver::train
