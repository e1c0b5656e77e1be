// Structure and field offsets: PKWARE APPNOTE.TXT 6.3, sections 4.3.7 (local header), 4.3.12
// (central directory), 4.3.14 to 4.3.16 (zip64 and plain end records), 4.5.3 (zip64 extra field).
#include "io/zip_archive.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace perceiver::io {
namespace {

constexpr std::string_view kLocalSignature("PK\x03\x04", 4);
constexpr std::string_view kCentralSignature("PK\x01\x02", 4);
constexpr std::string_view kEndSignature("PK\x05\x06", 4);
constexpr std::string_view kEnd64Signature("PK\x06\x06", 4);
constexpr std::string_view kLocator64Signature("PK\x06\x07", 4);
constexpr size_t kLocalSize = 30;
constexpr size_t kCentralSize = 46;
constexpr size_t kEndSize = 22;
constexpr size_t kEnd64Size = 56;
constexpr size_t kLocator64Size = 20;
constexpr uint64_t kLongestComment = 0xFFFF;
constexpr uint64_t kIn64 = 0xFFFFFFFF;  // "see the zip64 field"
constexpr uint64_t kMaxEntries = uint64_t{1} << 20;

uint64_t unsigned_at(std::string_view bytes, size_t offset, size_t count) {
  uint64_t value = 0;
  std::memcpy(&value, bytes.data() + offset, count);
  return value;
}

struct Directory {
  uint64_t entries = 0;
  uint64_t size = 0;
  uint64_t offset = 0;
};

struct DirectoryEntry {
  std::string name;
  uint64_t flags = 0;
  uint64_t method = 0;
  uint64_t stored_size = 0;
  uint64_t size = 0;
  uint64_t local_offset = 0;
};

class Reader {
 public:
  explicit Reader(const FileBytes& file) : file_(file), bytes_(file.bytes) {}

  ZipEntries read() {
    const Directory directory = find_directory();
    std::string_view rest = slice(directory.offset, directory.size, "central directory");
    ZipEntries entries;
    std::vector<std::pair<uint64_t, uint64_t>> extents;
    for (uint64_t i = 0; i < directory.entries; ++i) {
      DirectoryEntry entry = take_entry(rest);
      const std::string_view data = data_of(entry);
      const auto end = static_cast<uint64_t>(data.data() - bytes_.data()) + data.size();
      extents.emplace_back(entry.local_offset, end);
      const bool encrypted = (entry.flags & 1u) != 0;
      const char* obstacle = encrypted ? "encrypted" : entry.method != 0 ? "compressed" : nullptr;
      if (!entries.emplace(entry.name, ZipEntry{data, obstacle}).second) {
        refuse(entry, "appears twice");
      }
    }
    std::sort(extents.begin(), extents.end());
    for (size_t i = 1; i < extents.size(); ++i) {
      if (extents[i].first < extents[i - 1].second) {
        file_.refuse("zip entries overlap");
      }
    }
    return entries;
  }

 private:
  [[noreturn]] void refuse(const DirectoryEntry& entry, const std::string& why) const {
    file_.refuse(cat("zip entry \"", printable(entry.name), "\" ", why));
  }

  std::string_view slice(uint64_t offset, uint64_t size, const char* what) const {
    if (offset > bytes_.size() || size > bytes_.size() - offset) {
      file_.refuse(cat("zip ", what, " lies outside the file (is the file truncated?)"));
    }
    return bytes_.substr(offset, size);
  }

  // The end record is last, before a comment whose length must reach exactly to the file's end.
  size_t find_end() const {
    const size_t size = bytes_.size();
    for (size_t comment = 0; comment <= kLongestComment && comment + kEndSize <= size; ++comment) {
      const size_t at = size - kEndSize - comment;
      if (bytes_.substr(at, 4) == kEndSignature && unsigned_at(bytes_, at + 20, 2) == comment) {
        return at;
      }
    }
    file_.refuse("zip archive without its end record (is the file truncated?)");
  }

  Directory find_directory() const {
    const size_t at = find_end();
    const std::string_view end = bytes_.substr(at, kEndSize);
    Directory directory{unsigned_at(end, 10, 2), unsigned_at(end, 12, 4), unsigned_at(end, 16, 4)};
    const bool has_locator =
        at >= kLocator64Size && bytes_.substr(at - kLocator64Size, 4) == kLocator64Signature;
    if (has_locator) {
      const uint64_t end64_at = unsigned_at(bytes_, at - kLocator64Size + 8, 8);
      const std::string_view end64 = slice(end64_at, kEnd64Size, "zip64 end record");
      if (!end64.starts_with(kEnd64Signature)) {
        file_.refuse("zip64 end record is damaged");
      }
      directory = {unsigned_at(end64, 32, 8), unsigned_at(end64, 40, 8), unsigned_at(end64, 48, 8)};
    }
    if (directory.entries > kMaxEntries) {
      file_.refuse(cat("zip archive of ", directory.entries, " entries, more than ", kMaxEntries));
    }
    return directory;
  }

  DirectoryEntry take_entry(std::string_view& rest) const {
    const auto take = [&](uint64_t count) {
      if (count > rest.size()) {
        file_.refuse("zip central directory ends too early");
      }
      const std::string_view taken = rest.substr(0, count);
      rest.remove_prefix(count);
      return taken;
    };
    const std::string_view fixed = take(kCentralSize);
    if (!fixed.starts_with(kCentralSignature)) {
      file_.refuse("zip central directory is damaged");
    }
    DirectoryEntry entry;
    entry.flags = unsigned_at(fixed, 8, 2);
    entry.method = unsigned_at(fixed, 10, 2);
    entry.stored_size = unsigned_at(fixed, 20, 4);
    entry.size = unsigned_at(fixed, 24, 4);
    entry.local_offset = unsigned_at(fixed, 42, 4);
    entry.name = take(unsigned_at(fixed, 28, 2));
    read_zip64_extra(entry, take(unsigned_at(fixed, 30, 2)));
    take(unsigned_at(fixed, 32, 2));  // comment
    return entry;
  }

  // The field with id 1 holds, in this order, the values the fixed part could not.
  void read_zip64_extra(DirectoryEntry& entry, std::string_view extra) const {
    while (extra.size() >= 4) {
      const uint64_t id = unsigned_at(extra, 0, 2);
      const uint64_t size = unsigned_at(extra, 2, 2);
      if (size > extra.size() - 4) {
        return;  // padding that is no field; torch aligns its records with such
      }
      std::string_view field = extra.substr(4, size);
      extra.remove_prefix(4 + size);
      for (uint64_t* value : {&entry.size, &entry.stored_size, &entry.local_offset}) {
        if (id == 1 && *value == kIn64) {
          if (field.size() < 8) {
            refuse(entry, "lacks its zip64 sizes");
          }
          *value = unsigned_at(field, 0, 8);
          field.remove_prefix(8);
        }
      }
    }
  }

  std::string_view data_of(const DirectoryEntry& entry) const {
    if (entry.method == 0 && entry.stored_size != entry.size) {
      refuse(entry, cat("stores ", entry.stored_size, " bytes but claims ", entry.size));
    }
    const std::string_view local = slice(entry.local_offset, kLocalSize, "local header");
    if (!local.starts_with(kLocalSignature)) {
      refuse(entry, "has a damaged local header");
    }
    // The lengths of name and extra field may differ from those in the central directory.
    const uint64_t skipped = kLocalSize + unsigned_at(local, 26, 2) + unsigned_at(local, 28, 2);
    if (skipped > bytes_.size() - entry.local_offset) {
      refuse(entry, "lies outside the file");
    }
    return slice(entry.local_offset + skipped, entry.stored_size, "entry");
  }

  const FileBytes& file_;
  std::string_view bytes_;
};

}  // namespace

ZipEntries read_zip(const FileBytes& file) {
  return Reader(file).read();
}

}  // namespace perceiver::io
