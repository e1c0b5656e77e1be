#include "spec/json_reader.h"

#include <algorithm>
#include <limits>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "spec/nearest.h"

namespace perceiver::spec_detail {

ObjectReader::ObjectReader(const Json& value, std::string where, std::string path)
    : object_(value), where_(std::move(where)), path_(std::move(path)) {
  if (!value.is_object()) {
    throw Error(ErrorCode::kFormat, cat(where_, ": ", path_.empty() ? "the file" : path_,
                                        " must be a JSON object, is ", value.type_name()));
  }
}

std::string ObjectReader::path_of(const std::string& key) const {
  return path_.empty() ? key : path_ + "." + key;
}

void ObjectReader::fail(const std::string& key, const Json& value,
                        const std::string& wanted) const {
  const std::string shown =
      value.is_structured()
          ? std::string(value.type_name())
          : printable(value.dump(-1, ' ', false, Json::error_handler_t::replace), 60);
  throw Error(ErrorCode::kFormat,
              cat(where_, ": ", printable(path_of(key)), " must be ", wanted, ", is ", shown));
}

const Json* ObjectReader::find(const std::string& key) {
  known_.push_back(key);
  const auto found = object_.find(key);
  return found == object_.end() ? nullptr : &*found;
}

int64_t ObjectReader::integer(const std::string& key, const Json& value) const {
  const bool fits = value.is_number_integer() &&
                    (value.is_number_unsigned()
                         ? value.get<uint64_t>() <= uint64_t{std::numeric_limits<int64_t>::max()}
                         : value.get<int64_t>() >= 0);
  if (!fits) {
    fail(key, value, "an integer that is not negative");
  }
  return value.get<int64_t>();
}

void ObjectReader::read(const std::string& key, int64_t& target) {
  if (const Json* value = find(key)) {
    target = integer(key, *value);
  }
}

void ObjectReader::read(const std::string& key, double& target) {
  if (const Json* value = find(key)) {
    if (!value->is_number()) {
      fail(key, *value, "a number");
    }
    target = value->get<double>();
  }
}

void ObjectReader::read(const std::string& key, bool& target) {
  if (const Json* value = find(key)) {
    if (!value->is_boolean()) {
      fail(key, *value, "true or false");
    }
    target = value->get<bool>();
  }
}

void ObjectReader::read(const std::string& key, std::string& target) {
  if (const Json* value = find(key)) {
    if (!value->is_string()) {
      fail(key, *value, "a string");
    }
    target = value->get<std::string>();
  }
}

void ObjectReader::read(const std::string& key, std::vector<int64_t>& target) {
  if (const Json* value = find(key)) {
    if (!value->is_array()) {
      fail(key, *value, "a list of integers");
    }
    target.clear();
    for (size_t i = 0; i < value->size(); ++i) {
      target.push_back(integer(cat(key, "[", i, "]"), (*value)[i]));
    }
  }
}

void ObjectReader::read(const std::string& key, std::vector<std::string>& target) {
  if (const Json* value = find(key)) {
    if (!value->is_array()) {
      fail(key, *value, "a list of strings");
    }
    target.clear();
    for (size_t i = 0; i < value->size(); ++i) {
      if (!(*value)[i].is_string()) {
        fail(cat(key, "[", i, "]"), (*value)[i], "a string");
      }
      target.push_back((*value)[i].get<std::string>());
    }
  }
}

void ObjectReader::finish() const {
  for (const auto& [key, value] : object_.items()) {
    if (std::find(known_.begin(), known_.end(), key) == known_.end()) {
      throw Error(ErrorCode::kFormat,
                  cat(where_, ": unknown key '", printable(path_of(key)), "', nearest known is '",
                      path_of(nearest(key, known_)), "'"));
    }
  }
}

}  // namespace perceiver::spec_detail
