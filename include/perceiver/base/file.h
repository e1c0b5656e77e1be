#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace perceiver {

/// Whole file as bytes.
/// @throws Error(kIo) "PATH: No such file or directory"; Error(kFormat) if larger than `max_bytes`
std::string read_file(const std::filesystem::path& path, uint64_t max_bytes);

/// A file mapped read-only for as long as the object lives.
class MappedFile {
 public:
  /// @throws Error(kIo) if it cannot be opened or is not a regular file
  static std::shared_ptr<const MappedFile> open(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::byte* data() const { return data_; }
  uint64_t size() const { return size_; }

  /// Tells the system that the memory pages wholly inside [data, data + size) are not needed again,
  /// if they belong to a file mapped by this class; does nothing otherwise. They count no longer as
  /// resident; reading them again fetches them from the file.
  /// @return the bytes given back
  static uint64_t forget(const void* data, uint64_t size);

 private:
  MappedFile() = default;
  const std::byte* data_ = nullptr;
  uint64_t size_ = 0;
};

/// Writes a file whole or not at all: temporary beside `path`, fsync, rename, fsync of the folder.
/// The temporary is removed when anything throws, so a full disk leaves what was there before.
/// @param write  called with a sink; the sink throws Error(kIo) naming `path` when a write fails
/// @throws Error(kIo)
void write_file_atomically(
    const std::filesystem::path& path,
    const std::function<void(const std::function<void(std::string_view)>& sink)>& write);
void write_file_atomically(const std::filesystem::path& path, std::string_view contents);

/// A unique temporary path beside `final_path` for libraries that insist on opening the file
/// themselves. `commit()` renames it into place; the destructor removes it otherwise. Devices and
/// pipes (/dev/null) are their own temporary.
class PendingFile {
 public:
  /// Creates the temporary, empty. @throws Error(kIo) naming the final path
  explicit PendingFile(std::filesystem::path final_path);
  ~PendingFile();
  PendingFile(const PendingFile&) = delete;
  PendingFile& operator=(const PendingFile&) = delete;
  const std::filesystem::path& temporary() const { return temporary_; }
  /// @throws Error(kIo) naming the final path
  void commit();

 private:
  std::filesystem::path given_;   // as the caller wrote it, for messages
  std::filesystem::path target_;  // with a symbolic link resolved
  std::filesystem::path temporary_;
  bool committed_ = false;
};

/// A file that grows at its end. What was added can be read at once and is on the disk after
/// sync(); a process that dies in between leaves at most the beginning of what it was adding.
class AppendedFile {
 public:
  /// Starts as `contents`, written whole or not at all. @throws Error(kIo) naming `path`
  AppendedFile(std::filesystem::path path, std::string_view contents);
  ~AppendedFile();
  AppendedFile(const AppendedFile&) = delete;
  AppendedFile& operator=(const AppendedFile&) = delete;
  void add(std::string_view bytes);  ///< @throws Error(kIo) naming the path
  void sync();                       ///< @throws Error(kIo) naming the path

 private:
  std::filesystem::path path_;
  int descriptor_ = -1;
};

/// Held by one process at a time, until the object or the process is gone.
class FileLock {
 public:
  /// Creates the file if it is not there. @throws Error(kIo) naming it, also when another process
  /// holds it
  explicit FileLock(const std::filesystem::path& path);
  ~FileLock();
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;

 private:
  int descriptor_ = -1;
};

/// Puts a folder's entries on the disk, as far as its file system can.
void sync_folder(const std::filesystem::path& folder);

}  // namespace perceiver
