// Format: "\x93NUMPY", version, little-endian header length (2 bytes, from version 2 on 4), a
// Python dictionary as text, data (numpy.lib.format, "Format Version 1.0" to "3.0").
#include "perceiver/io/npy.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <optional>

#include "io/npy_format.h"
#include "io/numpy_dtype.h"

namespace perceiver::io {
namespace {

constexpr std::string_view kMagic = "\x93NUMPY";
constexpr size_t kVersionAt = 6, kLengthAt = 8;
constexpr uint64_t kMaxNpyHeader = 1 << 16;  // numpy writes some 120 bytes
constexpr size_t kMaxNumpyRank = 32;         // numpy's own until version 2

struct NpyHeader {
  std::optional<std::string> descr;
  std::optional<bool> fortran_order;
  std::optional<std::vector<int64_t>> shape;
};

// The one dictionary numpy writes: {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }
class NpyHeaderParser {
 public:
  NpyHeaderParser(const FileBytes& file, std::string_view text) : file_(file), text_(text) {}

  NpyHeader parse() {
    NpyHeader header;
    expect('{');
    while (!accept('}')) {
      const std::string key = quoted();
      expect(':');
      if (key == "descr" && !header.descr) {
        header.descr = descr();
      } else if (key == "fortran_order" && !header.fortran_order) {
        header.fortran_order = boolean();
      } else if (key == "shape" && !header.shape) {
        header.shape = shape();
      } else {
        refuse(cat("unexpected key '", printable(key, 40), "'"));
      }
      if (!accept(',')) {
        expect('}');
        break;
      }
    }
    skip_spaces();
    if (!text_.empty()) {
      refuse("something follows the dictionary");
    }
    if (!header.descr || !header.fortran_order || !header.shape) {
      refuse("descr, fortran_order or shape is missing");
    }
    return header;
  }

 private:
  [[noreturn]] void refuse(const std::string& why) const { file_.refuse("npy header: " + why); }

  void skip_spaces() {
    while (!text_.empty() && (text_[0] == ' ' || text_[0] == '\n' || text_[0] == '\t')) {
      text_.remove_prefix(1);
    }
  }

  bool accept(char wanted) {
    skip_spaces();
    if (!text_.starts_with(wanted)) {
      return false;
    }
    text_.remove_prefix(1);
    return true;
  }

  void expect(char wanted) {
    if (!accept(wanted)) {
      refuse(cat("expected '", wanted, "' before '", printable(text_, 20), "'"));
    }
  }

  std::string quoted() {
    const char quote = accept('"') ? '"' : '\'';
    if (quote == '\'') {
      expect('\'');
    }
    const size_t end = text_.find(quote);
    if (end == std::string_view::npos) {
      refuse("a text without end");
    }
    const std::string result(text_.substr(0, end));
    text_.remove_prefix(end + 1);
    return result;
  }

  std::string descr() {
    skip_spaces();
    if (text_.starts_with('[')) {
      file_.unsupported("npy holds records of several fields, not plain numbers");
    }
    return quoted();
  }

  bool boolean() {
    skip_spaces();
    for (const bool value : {false, true}) {
      const std::string_view word = value ? "True" : "False";
      if (text_.starts_with(word)) {
        text_.remove_prefix(word.size());
        return value;
      }
    }
    refuse(cat("expected True or False before '", printable(text_, 20), "'"));
  }

  std::vector<int64_t> shape() {
    std::vector<int64_t> extents;
    expect('(');
    while (!accept(')')) {
      int64_t extent = 0;
      skip_spaces();
      const auto [end, problem] =
          std::from_chars(text_.data(), text_.data() + text_.size(), extent);
      if (problem != std::errc() || extent < 0 || extents.size() == kMaxNumpyRank) {
        refuse(
            cat("shape is not up to ", kMaxNumpyRank, " extents at '", printable(text_, 20), "'"));
      }
      extents.push_back(extent);
      text_.remove_prefix(static_cast<size_t>(end - text_.data()));
      if (!accept(',')) {
        expect(')');
        break;
      }
    }
    return extents;
  }

  const FileBytes& file_;
  std::string_view text_;
};

DType dtype_of(const FileBytes& file, const std::string& descr) {
  const auto known = descr.empty() ? std::nullopt : plain_numpy_dtype(descr.substr(1));
  if (known) {
    if (descr[0] == '>') {
      file.unsupported(cat("npy holds big-endian numbers (", printable(descr, 40), ")"));
    }
    if (descr[0] == '<' || descr[0] == '|' || descr[0] == '=') {
      return *known;
    }
  }
  const bool objects = descr.find('O') != std::string::npos;
  file.unsupported(cat("npy dtype '", printable(descr, 40), "'",
                       objects ? " holds pickled Python objects, which are never read"
                               : " is not one of plain numbers"));
}

// Header text, and where the data start.
std::pair<std::string_view, uint64_t> npy_header(const FileBytes& file) {
  const std::string_view bytes = file.bytes;
  if (!bytes.starts_with(kMagic) || bytes.size() < kLengthAt + 2) {
    file.refuse("not an npy file (it begins with \\x93NUMPY)");
  }
  const auto major = static_cast<unsigned char>(bytes[kVersionAt]);
  if (major < 1 || major > 3) {
    file.unsupported(cat("npy format version ", static_cast<int>(major), ", only 1 to 3 are read"));
  }
  const size_t length_bytes = major == 1 ? 2 : 4;
  const uint64_t start = kLengthAt + length_bytes;
  if (bytes.size() < start) {
    file.refuse("npy header is cut");
  }
  uint64_t length = 0;
  for (size_t i = 0; i < length_bytes; ++i) {
    length |= uint64_t{static_cast<unsigned char>(bytes[kLengthAt + i])} << (8 * i);
  }
  if (length > kMaxNpyHeader || length > bytes.size() - start) {
    file.refuse(cat("npy header of ", length, " bytes in a file of ", bytes.size()));
  }
  return {bytes.substr(start, length), start + length};
}

}  // namespace

Array read_npy(const FileBytes& file) {
  const auto [text, start] = npy_header(file);
  NpyHeader header = NpyHeaderParser(file, text).parse();
  const DType dtype = dtype_of(file, *header.descr);
  const std::vector<int64_t>& shape = *header.shape;
  const bool one_axis =
      std::count_if(shape.begin(), shape.end(), [](int64_t extent) { return extent != 1; }) <= 1;
  if (*header.fortran_order && !one_axis) {
    file.unsupported(cat("npy array ", shape_string(shape),
                         " is column-major; save numpy.ascontiguousarray(it)"));
  }
  int64_t needed = 0;
  try {
    needed = element_count(shape);
  } catch (const Error& error) {
    file.refuse(cat("npy: ", error.what()));
  }
  const uint64_t held = file.bytes.size() - start;
  if (__builtin_mul_overflow(needed, dtype_size(dtype), &needed) ||
      static_cast<uint64_t>(needed) != held) {
    file.refuse(cat("npy: ", dtype_name(dtype), " of shape ", shape_string(shape),
                    " does not take the ", held, " bytes that follow the header"));
  }
  const char* data = file.bytes.data() + start;
  const bool aligned =
      std::bit_cast<uintptr_t>(data) % static_cast<uintptr_t>(dtype_size(dtype)) == 0;
  Array array;
  if (aligned) {
    array = Array::view(dtype, shape, data, file.owner);
  } else {
    array = Array::zeros(dtype, shape);
    std::copy_n(reinterpret_cast<const std::byte*>(data), held, array.mutable_bytes());
  }
  if (dtype == DType::kBool && !are_bools(array.bytes(), array.numel())) {
    file.refuse("npy: a bool that is neither 0 nor 1");
  }
  return array;
}

Array read_npy(const std::filesystem::path& path) {
  return read_npy(map_file(path));
}

}  // namespace perceiver::io
