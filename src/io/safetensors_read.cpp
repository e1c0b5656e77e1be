// Format: u64 little-endian header length, JSON header, tensor data without gaps
// (github.com/huggingface/safetensors, README "Format").
#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <optional>
#include <set>

#include <nlohmann/json.hpp>

#include "io/safetensors_format.h"

namespace perceiver::io {
namespace {

constexpr uint64_t kMaxHeader = 100'000'000;  // the reference reader's limit
constexpr size_t kLengthBytes = 8;
constexpr size_t kMaxRank = 64;

constexpr std::array kDTypes = {DType::kF64, DType::kF32, DType::kF16, DType::kBF16, DType::kI64,
                                DType::kI32, DType::kI16, DType::kI8,  DType::kU64,  DType::kU32,
                                DType::kU16, DType::kU8,  DType::kBool};
constexpr std::array<std::string_view, 8> kForeignDTypes = {
    "F8_E4M3", "F8_E5M2", "F8_E8M0", "F6_E2M3", "F6_E3M2", "F4", "C64", "C128"};

// One tensor as the header spells it. Offsets are relative to the data that follows the header.
struct HeaderEntry {
  std::string name;
  std::optional<std::string> dtype;
  std::optional<std::vector<uint64_t>> shape;
  std::optional<std::vector<uint64_t>> offsets;
};

// Accepts exactly the header's grammar, event by event, so a hostile header never becomes a tree:
// { name: {"dtype": text, "shape": [int...], "data_offsets": [int, int]},
//   "__metadata__": {text: text} }
class SafetensorsHeader : public nlohmann::json_sax<nlohmann::json> {
 public:
  SafetensorsHeader(const FileBytes& file, Metadata* metadata) : file_(file), metadata_(metadata) {}

  std::vector<HeaderEntry> take() { return std::move(entries_); }

  bool start_object(size_t) override {
    switch (state_) {
      case State::kStart:
        state_ = State::kTop;
        return true;
      case State::kName:
        state_ = name_ == kMetadataKey ? State::kMetadata : State::kTensor;
        if (state_ == State::kTensor) {
          entries_.push_back({name_, {}, {}, {}});
        }
        return true;
      default:
        refuse_here("an object where none belongs");
    }
  }
  bool end_object() override {
    if (state_ == State::kTensor) {
      const HeaderEntry& entry = entries_.back();
      if (!entry.dtype || !entry.shape || !entry.offsets) {
        refuse_here("lacks dtype, shape or data_offsets");
      }
    }
    state_ = state_ == State::kTop ? State::kEnd : State::kTop;
    return true;
  }
  bool key(string_t& key) override {
    if (state_ == State::kTop) {
      name_ = key;
      state_ = State::kName;
      if (!names_.insert(key).second) {
        refuse_here("appears twice");
      }
    } else if (state_ == State::kMetadata) {
      field_ = key;
      state_ = State::kMetadataValue;
    } else {
      start_field(key);
    }
    return true;
  }
  bool start_array(size_t) override {
    if ((state_ == State::kShape || state_ == State::kOffsets) && !in_array_) {
      numbers_.clear();
      in_array_ = true;
      return true;
    }
    refuse_here("an array where none belongs");
  }
  bool end_array() override {
    HeaderEntry& entry = entries_.back();
    (state_ == State::kShape ? entry.shape : entry.offsets) = numbers_;
    in_array_ = false;
    state_ = State::kTensor;
    return true;
  }
  bool string(string_t& value) override {
    if (state_ == State::kDType) {
      entries_.back().dtype = value;
      state_ = State::kTensor;
    } else if (state_ == State::kMetadataValue) {
      if (!metadata_names_.insert(field_).second) {
        refuse_here(cat("key \"", printable(field_), "\" appears twice"));
      }
      if (metadata_ != nullptr) {
        (*metadata_)[field_] = value;
      }
      state_ = State::kMetadata;
    } else {
      refuse_here("text where none belongs");
    }
    return true;
  }
  bool number_unsigned(number_unsigned_t value) override {
    if (!in_array_) {
      refuse_here("a number where none belongs");
    }
    if (numbers_.size() == kMaxRank) {
      refuse_here(cat("more than ", kMaxRank, " numbers in one list"));
    }
    numbers_.push_back(value);
    return true;
  }
  bool number_integer(number_integer_t) override { refuse_here("a negative number"); }
  bool number_float(number_float_t, const string_t&) override { refuse_here("a fraction"); }
  bool null() override { refuse_here("null"); }
  bool boolean(bool) override { refuse_here("a boolean"); }
  bool binary(binary_t&) override { refuse_here("binary data"); }
  bool parse_error(size_t position, const std::string&, const nlohmann::json::exception&) override {
    file_.refuse(cat("safetensors header is not valid JSON at byte ", position));
  }

 private:
  enum class State {
    kStart,
    kTop,
    kName,
    kTensor,
    kDType,
    kShape,
    kOffsets,
    kMetadata,
    kMetadataValue,
    kEnd
  };
  static constexpr std::string_view kMetadataKey = "__metadata__";

  void start_field(const std::string& key) {
    const HeaderEntry& entry = entries_.back();
    const bool repeated = (key == "dtype" && entry.dtype) || (key == "shape" && entry.shape) ||
                          (key == "data_offsets" && entry.offsets);
    if (repeated) {
      refuse_here(cat("key \"", key, "\" appears twice"));
    }
    if (key == "dtype") {
      state_ = State::kDType;
    } else if (key == "shape") {
      state_ = State::kShape;
    } else if (key == "data_offsets") {
      state_ = State::kOffsets;
    } else {
      refuse_here(cat("unknown key \"", printable(key), "\""));
    }
  }

  [[noreturn]] void refuse_here(const std::string& why) const {
    if (state_ == State::kStart) {
      file_.refuse("safetensors header is not a JSON object");
    }
    file_.refuse(cat("safetensors header, ", tensor_named(name_), ": ", why));
  }

  const FileBytes& file_;
  Metadata* metadata_;
  State state_ = State::kStart;
  bool in_array_ = false;
  std::string name_;
  std::string field_;
  std::vector<uint64_t> numbers_;
  std::set<std::string> names_;
  std::set<std::string> metadata_names_;
  std::vector<HeaderEntry> entries_;
};

DType dtype_of(const FileBytes& file, const HeaderEntry& entry) {
  for (const DType dtype : kDTypes) {
    if (*entry.dtype == dtype_name(dtype)) {
      return dtype;
    }
  }
  const std::string message =
      cat(tensor_named(entry.name), " has dtype \"", printable(*entry.dtype), "\"");
  if (std::find(kForeignDTypes.begin(), kForeignDTypes.end(), *entry.dtype) !=
      kForeignDTypes.end()) {
    file.unsupported(message + ", which is not supported");
  }
  file.refuse(message + ", which does not exist");
}

TensorInfo checked(const FileBytes& file, const HeaderEntry& entry, uint64_t data_start) {
  TensorInfo info;
  info.name = entry.name;
  info.dtype = dtype_of(file, entry);
  const std::string named = tensor_named(entry.name);
  for (const uint64_t extent : *entry.shape) {
    if (extent > uint64_t{INT64_MAX}) {
      file.refuse(cat(named, ": extent ", extent, " is too large"));
    }
    info.shape.push_back(static_cast<int64_t>(extent));
  }
  const uint64_t available = file.bytes.size() - data_start;
  if (entry.offsets->size() != 2) {
    file.refuse(cat(named, ": data_offsets must be two numbers, not ", entry.offsets->size()));
  }
  const uint64_t begin = (*entry.offsets)[0];
  const uint64_t end = (*entry.offsets)[1];
  if (begin > end || end > available) {
    file.refuse(cat(named, ": data_offsets [", begin, ", ", end, "] do not fit the ", available,
                    " bytes of data (is the file truncated?)"));
  }
  int64_t needed = 0;
  try {
    needed = element_count(info.shape);
  } catch (const Error& error) {
    file.refuse(cat(named, ": ", error.what()));
  }
  if (__builtin_mul_overflow(needed, dtype_size(info.dtype), &needed) ||
      static_cast<uint64_t>(needed) != end - begin) {
    file.refuse(cat(named, ": ", dtype_name(info.dtype), " of shape ", shape_string(info.shape),
                    " does not take the ", end - begin, " bytes of its data_offsets"));
  }
  info.offset = data_start + begin;
  info.bytes = end - begin;
  return info;
}

// Every byte of the data belongs to exactly one tensor.
void check_cover(const FileBytes& file, const std::vector<TensorInfo>& sorted,
                 uint64_t data_start) {
  uint64_t expected = data_start;
  for (const TensorInfo& info : sorted) {
    if (info.offset != expected) {
      file.refuse(cat(tensor_named(info.name), " starts at data byte ", info.offset - data_start,
                      ", but what precedes it ends at ", expected - data_start));
    }
    expected += info.bytes;
  }
  if (expected != file.bytes.size()) {
    file.refuse(cat("the header describes ", expected - data_start, " bytes of data, the file has ",
                    file.bytes.size() - data_start));
  }
}

std::string_view header_of(const FileBytes& file) {
  if (file.bytes.size() < kLengthBytes) {
    file.refuse(cat("only ", file.bytes.size(), " bytes, too short for a safetensors file"));
  }
  uint64_t length = 0;
  std::memcpy(&length, file.bytes.data(), kLengthBytes);
  if (length > kMaxHeader) {
    file.refuse(cat("not a safetensors file: a header of ", length, " bytes is over the limit of ",
                    kMaxHeader));
  }
  const uint64_t available = file.bytes.size() - kLengthBytes;
  if (length > available) {
    file.refuse(cat("safetensors header of ", length, " bytes, but only ", available, " follow"));
  }
  const std::string_view header = file.bytes.substr(kLengthBytes, length);
  if (!header.starts_with('{')) {
    file.refuse("safetensors header does not start with '{'");
  }
  return header;
}

}  // namespace

std::vector<TensorInfo> list_safetensors(const FileBytes& file, Metadata* metadata) {
  const std::string_view header = header_of(file);
  SafetensorsHeader parser(file, metadata);
  if (metadata != nullptr) {
    metadata->clear();
  }
  try {
    nlohmann::json::sax_parse(header, &parser);
  } catch (const nlohmann::json::exception&) {
    file.refuse("safetensors header is not valid JSON");
  }
  const uint64_t data_start = kLengthBytes + header.size();
  std::vector<TensorInfo> infos;
  for (const HeaderEntry& entry : parser.take()) {
    infos.push_back(checked(file, entry, data_start));
  }
  std::sort(infos.begin(), infos.end(), [](const TensorInfo& a, const TensorInfo& b) {
    return std::tie(a.offset, a.bytes, a.name) < std::tie(b.offset, b.bytes, b.name);
  });
  check_cover(file, infos, data_start);
  return infos;
}

ArrayMap read_safetensors(const FileBytes& file, Metadata* metadata) {
  ArrayMap arrays;
  for (TensorInfo& info : list_safetensors(file, metadata)) {
    const char* data = file.bytes.data() + info.offset;
    const bool aligned =
        std::bit_cast<uintptr_t>(data) % static_cast<uintptr_t>(dtype_size(info.dtype)) == 0;
    Array array;
    if (aligned) {
      array = Array::view(info.dtype, std::move(info.shape), data, file.owner);
    } else {
      array = Array::zeros(info.dtype, std::move(info.shape));
      std::copy_n(reinterpret_cast<const std::byte*>(data), info.bytes, array.mutable_bytes());
    }
    if (info.dtype == DType::kBool && !are_bools(array.bytes(), array.numel())) {
      file.refuse(cat(tensor_named(info.name), ": a BOOL that is neither 0 nor 1"));
    }
    arrays.emplace(std::move(info.name), std::move(array));
  }
  return arrays;
}

ArrayMap read_safetensors(const std::filesystem::path& path, Metadata* metadata) {
  return read_safetensors(map_file(path), metadata);
}

std::vector<TensorInfo> list_safetensors(const std::filesystem::path& path, Metadata* metadata) {
  return list_safetensors(map_file(path), metadata);
}

}  // namespace perceiver::io
