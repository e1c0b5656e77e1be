#include <algorithm>
#include <cstring>

#include <nlohmann/json.hpp>

#include "io/file_bytes.h"
#include "perceiver/base/json.h"
#include "perceiver/io/safetensors.h"

namespace perceiver::io {
namespace {

using Item = std::pair<std::string, Array>;

std::string json_text(const std::string& text) {
  try {
    return Json(text).dump();
  } catch (const Json::exception&) {
    throw Error(ErrorCode::kArgument,
                cat("safetensors: \"", printable(text), "\" is not valid UTF-8"));
  }
}

std::vector<Item> in_file_order(const ArrayMap& arrays) {
  std::vector<Item> items(arrays.begin(), arrays.end());
  std::stable_sort(items.begin(), items.end(), [](const Item& a, const Item& b) {
    return dtype_size(a.second.dtype()) > dtype_size(b.second.dtype());
  });
  return items;
}

std::string header_text(const std::vector<Item>& items, const Metadata& metadata) {
  std::string header = "{";
  const char* separator = "";
  if (!metadata.empty()) {
    header += "\"__metadata__\":{";
    for (const auto& [key, value] : metadata) {
      header += separator + json_text(key) + ":" + json_text(value);
      separator = ",";
    }
    header += "}";
  }
  int64_t offset = 0;
  for (const auto& [name, array] : items) {
    if (!array.defined() || name == "__metadata__") {
      const char* why = array.defined() ? "the name is reserved" : "it is undefined";
      throw Error(ErrorCode::kArgument,
                  cat("safetensors: ", tensor_named(name), " cannot be written: ", why));
    }
    header += separator + json_text(name) + ":" + "{\"dtype\":\"" + dtype_name(array.dtype()) +
              "\",\"shape\":" + Json(array.shape()).dump() + ",\"data_offsets\":[" +
              std::to_string(offset) + "," + std::to_string(offset + array.nbytes()) + "]}";
    offset += array.nbytes();
    separator = ",";
  }
  header += "}";
  header.resize((header.size() + 7) / 8 * 8, ' ');  // the data starts 8-byte aligned
  return header;
}

}  // namespace

void write_safetensors(const std::filesystem::path& path, const ArrayMap& arrays,
                       const Metadata& metadata) {
  const std::vector<Item> items = in_file_order(arrays);
  const std::string header = header_text(items, metadata);
  const uint64_t length = header.size();
  char prefix[sizeof length];
  std::memcpy(prefix, &length, sizeof length);
  write_file_atomically(path, [&](const auto& sink) {
    sink(std::string_view(prefix, sizeof prefix));
    sink(header);
    for (const auto& [name, array] : items) {
      sink(std::string_view(reinterpret_cast<const char*>(array.bytes()),
                            static_cast<size_t>(array.nbytes())));
    }
  });
}

}  // namespace perceiver::io
