#include "perceiver/io/checkpoint.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <set>

#include <nlohmann/json.hpp>

#include "io/content_kind.h"
#include "io/haiku_format.h"
#include "io/safetensors_format.h"
#include "io/torch_format.h"
#include "perceiver/base/json.h"

namespace perceiver::io {
namespace fs = std::filesystem;
namespace {

bool looks_like_safetensors(std::string_view bytes) {
  uint64_t header = 0;
  if (bytes.size() <= sizeof header || bytes[sizeof header] != '{') {
    return false;
  }
  std::memcpy(&header, bytes.data(), sizeof header);
  // Text that starts with '{' at byte 8 would claim a header of some 10^18 bytes.
  return header < uint64_t{1} << 40;
}

bool looks_like_pickle(std::string_view bytes) {
  if (bytes.size() >= 2 && bytes[0] == '\x80') {
    return bytes[1] >= 2 && bytes[1] <= 5;
  }
  // Protocols 0 and 1 have no signature: a dict, or a global that makes one, and a final STOP.
  const bool begins = bytes.starts_with("(d") || bytes.starts_with("}q") ||
                      bytes.starts_with("chaiku.") || bytes.starts_with("ccollections\n");
  return begins && bytes.ends_with('.');
}

CheckpointKind sniff(const FileBytes& file) {
  if (looks_like_safetensors(file.bytes)) {
    return CheckpointKind::kSafetensors;
  }
  if (is_legacy_torch(file.bytes) || file.bytes.starts_with("PK\x03\x04")) {
    return CheckpointKind::kTorch;
  }
  if (looks_like_pickle(file.bytes)) {
    return CheckpointKind::kHaiku;
  }
  if (file.bytes.starts_with("version https://git-lfs")) {
    file.refuse("a git-lfs pointer, not the weights themselves; run `git lfs pull` to get them");
  }
  const std::string found = describe_content(file.bytes.substr(0, kContentHeadBytes));
  file.refuse(cat("not a checkpoint but ", found,
                  "; safetensors, torch.save files and Haiku pickles are read"));
}

ArrayMap read_by_content(const FileBytes& file) {
  switch (sniff(file)) {
    case CheckpointKind::kSafetensors:
      return read_safetensors(file, nullptr);
    case CheckpointKind::kTorch:
      return read_torch_checkpoint(file);
    case CheckpointKind::kHaiku:
      break;
  }
  file.refuse("a Haiku pickle, where a safetensors or torch.save file is expected");
}

// A shard is a file of the same folder, so that an index cannot make us read anything else.
bool is_plain_file_name(const std::string& name) {
  return !name.empty() && name != "." && name != ".." &&
         name.find_first_of(std::string_view("/\\\0", 3)) == std::string::npos;
}

// weight_map of an index: shard -> the tensors it should hold.
std::map<std::string, std::set<std::string>> read_index(const fs::path& path) {
  const std::string where = printable(path.native(), 1024);
  const Json index = read_json(path);
  const auto map = index.is_object() ? index.find("weight_map") : index.end();
  if (!index.is_object() || map == index.end() || !map->is_object() || map->empty()) {
    throw Error(ErrorCode::kFormat, where + ": has no \"weight_map\" from tensors to files");
  }
  std::map<std::string, std::set<std::string>> shards;
  for (const auto& [tensor, shard] : map->items()) {
    if (!shard.is_string() || !is_plain_file_name(shard.get_ref<const std::string&>())) {
      throw Error(ErrorCode::kFormat,
                  cat(where, ": ", tensor_named(tensor), " lies in ", printable(shard.dump()),
                      ", which is not a file of this folder"));
    }
    shards[shard.get<std::string>()].insert(tensor);
  }
  return shards;
}

ArrayMap read_sharded(const fs::path& index_path) {
  ArrayMap arrays;
  for (const auto& [shard, tensors] : read_index(index_path)) {
    const FileBytes file = map_file(index_path.parent_path() / shard);
    ArrayMap part = read_by_content(file);
    for (const std::string& name : tensors) {
      const auto found = part.find(name);
      if (found == part.end()) {
        file.refuse(cat(tensor_named(name), " is missing, though the index says it is here"));
      }
      arrays.insert(part.extract(found));
    }
    if (!part.empty()) {
      file.refuse(tensor_named(part.begin()->first) + " is here, though the index does not say so");
    }
  }
  return arrays;
}

// The index of the first element whose exponent bits are all set: an infinity or a NaN.
template <typename Bits>
int64_t find_non_finite(const std::byte* bytes, int64_t count, Bits exponent) {
  constexpr int64_t kChunk = 4096;
  for (int64_t begin = 0; begin < count; begin += kChunk) {
    const int64_t end = std::min(count, begin + kChunk);
    Bits values[kChunk];
    std::memcpy(values, bytes + begin * int64_t{sizeof(Bits)},
                static_cast<size_t>(end - begin) * sizeof(Bits));
    bool any = false;
    for (int64_t i = 0; i < end - begin; ++i) {
      any |= (values[i] & exponent) == exponent;
    }
    for (int64_t i = 0; any && i < end - begin; ++i) {
      if ((values[i] & exponent) == exponent) {
        return begin + i;
      }
    }
  }
  return -1;
}

int64_t find_non_finite(const Array& array) {
  switch (array.dtype()) {
    case DType::kF64:
      return find_non_finite<uint64_t>(array.bytes(), array.numel(), 0x7FF0'0000'0000'0000u);
    case DType::kF32:
      return find_non_finite<uint32_t>(array.bytes(), array.numel(), 0x7F80'0000u);
    case DType::kF16:
      return find_non_finite<uint16_t>(array.bytes(), array.numel(), 0x7C00u);
    case DType::kBF16:
      return find_non_finite<uint16_t>(array.bytes(), array.numel(), 0x7F80u);
    default:
      return -1;  // integers are always finite
  }
}

}  // namespace

CheckpointKind sniff_checkpoint(const fs::path& path) {
  return sniff(map_file(path));
}

ArrayMap read_checkpoint(const fs::path& path) {
  return read_by_content(map_file(path));
}

ArrayMap read_hugging_face_weights(const fs::path& folder) {
  const std::string where = printable(folder.native(), 1024);
  std::error_code error;
  if (!fs::is_directory(folder, error)) {
    throw Error(ErrorCode::kIo, where + (error ? ": " + error.message() : ": is not a folder"));
  }
  constexpr std::array kWhole = {"model.safetensors", "pytorch_model.bin"};
  std::string names;
  for (const std::string whole : kWhole) {
    std::error_code ignored;
    const std::string index = whole + ".index.json";
    if (fs::exists(folder / whole, ignored)) {
      return read_by_content(map_file(folder / whole));
    }
    if (fs::exists(folder / index, ignored)) {
      return read_sharded(folder / index);
    }
    names += (names.empty() ? "" : ", ") + whole + ", " + index;
  }
  throw Error(ErrorCode::kIo, where + ": no weights here; looked for " + names);
}

void require_finite(const ArrayMap& arrays, const std::string& where) {
  for (const auto& [name, array] : arrays) {
    const int64_t index = find_non_finite(array);
    if (index >= 0) {
      const Array element = array.reshape({array.numel()}).rows(index, index + 1).to(DType::kF64);
      const double value = element.data<double>()[0];
      throw Error(ErrorCode::kFormat,
                  cat(where, ": ", tensor_named(name), " of shape ", shape_string(array.shape()),
                      " holds ", value, " at flat index ", index));
    }
  }
}

}  // namespace perceiver::io
