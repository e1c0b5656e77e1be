#include "train/data/idx.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <string_view>
#include <vector>
#include <zlib.h>

#include "perceiver/base/error.h"
#include "perceiver/base/file.h"
#include "perceiver/base/str.h"

namespace perceiver::train {
namespace {

constexpr uint64_t kMaxIdxBytes = uint64_t{2} << 30;
constexpr int kGzipWindow = 15 + 16;  // zlib: largest window, gzip wrapper only
constexpr size_t kChunk = size_t{1} << 18;

[[noreturn]] void bad_gzip(const std::string& where, const char* why) {
  throw Error(ErrorCode::kFormat, cat(where, ": ", why, " (gzip)"));
}

std::string gunzip(std::string_view packed, const std::string& where, uint64_t max_bytes) {
  z_stream stream{};
  if (inflateInit2(&stream, kGzipWindow) != Z_OK) {
    throw Error(ErrorCode::kIo, cat(where, ": no memory to unpack it"));
  }
  const std::unique_ptr<z_stream, int (*)(z_stream*)> closer(&stream, inflateEnd);
  std::string out;
  std::vector<char> chunk(kChunk);
  size_t taken = 0;
  int status = Z_OK;
  while (status != Z_STREAM_END) {
    if (stream.avail_in == 0) {
      // avail_in is 32 bits wide, so large files go in pieces.
      const size_t piece = std::min(packed.size() - taken, size_t{1} << 30);
      if (piece == 0) {
        bad_gzip(where, "the file ends early");
      }
      // zlib reads only, but its interface predates const.
      stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(packed.data() + taken));
      stream.avail_in = static_cast<uInt>(piece);
      taken += piece;
    }
    stream.next_out = reinterpret_cast<Bytef*>(chunk.data());
    stream.avail_out = static_cast<uInt>(chunk.size());
    status = inflate(&stream, Z_NO_FLUSH);
    if (status != Z_OK && status != Z_STREAM_END && status != Z_BUF_ERROR) {
      bad_gzip(where, "the file is damaged");
    }
    out.append(chunk.data(), chunk.size() - stream.avail_out);
    if (out.size() > max_bytes) {
      throw Error(ErrorCode::kFormat, cat(where, ": unpacks to more than ", max_bytes, " bytes"));
    }
  }
  return out;
}

uint32_t big_endian(const char* bytes) {
  uint32_t value = 0;
  for (int i = 0; i < 4; ++i) {
    value = value << 8 | static_cast<unsigned char>(bytes[i]);
  }
  return value;
}

}  // namespace

std::string read_maybe_gzip(const std::filesystem::path& path, uint64_t max_bytes) {
  std::string bytes = read_file(path, max_bytes);
  if (bytes.size() < 2 || bytes[0] != '\x1f' || bytes[1] != '\x8b') {
    return bytes;
  }
  return gunzip(bytes, printable(path.string()), max_bytes);
}

Array read_idx(const std::filesystem::path& path) {
  const std::string where = printable(path.string());
  const std::string bytes = read_maybe_gzip(path, kMaxIdxBytes);
  if (bytes.size() < 4 || bytes[0] != 0 || bytes[1] != 0) {
    throw Error(ErrorCode::kFormat,
                cat(where, ": not an IDX file (it begins with 00 00 <type> <rank>)"));
  }
  if (bytes[2] != 8) {
    throw Error(ErrorCode::kUnsupported, cat(where, ": IDX type ", static_cast<int>(bytes[2]),
                                             ", only 8 (unsigned bytes) is read"));
  }
  const auto rank = static_cast<size_t>(static_cast<unsigned char>(bytes[3]));
  const size_t header = 4 + 4 * rank;
  if (rank == 0 || rank > 8 || bytes.size() < header) {
    throw Error(ErrorCode::kFormat,
                cat(where, ": IDX header of rank ", rank, " is cut or impossible"));
  }
  const uint64_t held = bytes.size() - header;
  std::vector<int64_t> shape;
  uint64_t count = 1;
  for (size_t i = 0; i < rank; ++i) {
    shape.push_back(big_endian(bytes.data() + 4 + 4 * i));
    // Both factors are below 2^32 as long as the count is one the file can hold.
    count = count > held ? count : count * static_cast<uint64_t>(shape.back());
  }
  if (count != held || count == 0) {
    throw Error(ErrorCode::kFormat, cat(where, ": IDX shape ", shape_string(shape),
                                        " does not fit the ", held, " bytes that follow it"));
  }
  Array array = Array::zeros(DType::kU8, std::move(shape));
  std::memcpy(array.mutable_bytes(), bytes.data() + header, count);
  return array;
}

}  // namespace perceiver::train
