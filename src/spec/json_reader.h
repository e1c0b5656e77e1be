#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "perceiver/base/json.h"

namespace perceiver::spec_detail {

/// Reads the members of one JSON object strictly. Every message starts with the file and the path
/// of the value. Absent members leave the target as it is.
class ObjectReader {
 public:
  /// @throws Error(kFormat) if `value` is not an object
  ObjectReader(const Json& value, std::string where, std::string path);

  /// The member, or nullptr. Marks `key` as known.
  const Json* find(const std::string& key);

  void read(const std::string& key, int64_t& target);
  void read(const std::string& key, double& target);
  void read(const std::string& key, bool& target);
  void read(const std::string& key, std::string& target);
  void read(const std::string& key, std::vector<int64_t>& target);
  void read(const std::string& key, std::vector<std::string>& target);

  /// @throws Error(kFormat) naming the first member never asked for and the nearest known key
  void finish() const;

  /// `where`: path.key must be `wanted`, is <excerpt of value>
  [[noreturn]] void fail(const std::string& key, const Json& value,
                         const std::string& wanted) const;
  std::string path_of(const std::string& key) const;
  const std::string& where() const { return where_; }

 private:
  int64_t integer(const std::string& key, const Json& value) const;

  const Json& object_;
  std::string where_;
  std::string path_;
  std::vector<std::string> known_;
};

}  // namespace perceiver::spec_detail
