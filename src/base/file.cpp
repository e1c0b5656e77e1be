#include "perceiver/base/file.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <fcntl.h>
#include <map>
#include <mutex>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <system_error>
#include <unistd.h>
#include <utility>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"

namespace perceiver {
namespace fs = std::filesystem;
namespace {

std::string named(const fs::path& path) {
  return printable(path.native(), 1024);
}

[[noreturn]] void throw_io(const fs::path& path, int error, const char* what = "") {
  throw Error(ErrorCode::kIo, cat(named(path), ": ", what, std::generic_category().message(error)));
}

constexpr const char* kCannotWrite = "cannot write: ";

// An open descriptor that closes itself.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) {
      ::close(fd_);
    }
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  // Network file systems report a failed write only here.
  int close() { return ::close(std::exchange(fd_, -1)); }

 private:
  int fd_;
};

void write_all(int fd, std::string_view bytes, const fs::path& path) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(fd, bytes.data(), std::min<size_t>(bytes.size(), 1u << 30));
    if (written < 0 && errno == EINTR) {
      continue;
    }
    if (written < 0) {
      throw_io(path, errno, kCannotWrite);
    }
    bytes.remove_prefix(static_cast<size_t>(written));
  }
}

void sync_file(const fs::path& file, const fs::path& final_path) {
  const Descriptor descriptor(::open(file.c_str(), O_RDONLY | O_CLOEXEC));
  if (!descriptor.valid() || ::fsync(descriptor.get()) != 0) {
    throw_io(final_path, errno, kCannotWrite);
  }
}

fs::path folder_of(const fs::path& path) {
  return path.has_parent_path() ? path.parent_path() : fs::path(".");
}

// Devices and pipes (/dev/stdout, /dev/null) cannot be renamed over and are written in place.
bool written_in_place(const fs::path& path) {
  std::error_code ignored;
  const fs::file_status status = fs::status(path, ignored);
  return status.type() == fs::file_type::character || status.type() == fs::file_type::fifo ||
         status.type() == fs::file_type::socket || status.type() == fs::file_type::block;
}

// The extension stays last, because libraries choose a file format by it.
fs::path temporary_beside(const fs::path& path) {
  static std::atomic<uint64_t> counter{0};
  constexpr size_t kLongestTail = 128;
  std::string tail = path.filename().string();
  if (tail.size() > kLongestTail) {
    tail = tail.substr(tail.size() - kLongestTail);
  }
  return path.parent_path() / cat(".tmp-", ::getpid(), "-", counter++, "-", tail);
}

void create_exclusively(const fs::path& temporary, const fs::path& target, const fs::path& given) {
  struct stat existing {};
  const bool replaces = ::stat(target.c_str(), &existing) == 0;
  if (replaces && S_ISDIR(existing.st_mode)) {
    throw_io(given, EISDIR, kCannotWrite);
  }
  Descriptor descriptor(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
  if (!descriptor.valid()) {
    throw_io(given, errno, kCannotWrite);
  }
  if (replaces) {  // keep the permissions of what is replaced; not every file system can
    static_cast<void>(::fchmod(descriptor.get(), existing.st_mode & 07777));
  }
}

}  // namespace

std::string read_file(const fs::path& path, uint64_t max_bytes) {
  const Descriptor descriptor(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat status {};
  if (!descriptor.valid() || ::fstat(descriptor.get(), &status) != 0) {
    throw_io(path, errno);
  }
  const auto too_large = [&] {
    return Error(ErrorCode::kFormat,
                 cat(named(path), ": larger than the ", max_bytes, " bytes allowed"));
  };
  std::string contents;
  if (S_ISREG(status.st_mode)) {
    if (static_cast<uint64_t>(status.st_size) > max_bytes) {
      throw too_large();
    }
    contents.reserve(static_cast<size_t>(status.st_size));
  }
  char buffer[1 << 16];
  while (true) {
    const ssize_t got = ::read(descriptor.get(), buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got < 0) {
      throw_io(path, errno);
    }
    if (got == 0) {
      return contents;
    }
    if (static_cast<uint64_t>(got) > max_bytes - contents.size()) {
      throw too_large();
    }
    contents.append(buffer, static_cast<size_t>(got));
  }
}

namespace {

/// Where files are mapped just now: first byte -> one past the last.
struct Mappings {
  std::mutex mutex;
  std::map<uintptr_t, uintptr_t> ranges;
};

Mappings& mappings() {
  static auto* all = new Mappings;  // NOLINT: outlives every static that still holds a file
  return *all;
}

}  // namespace

uint64_t MappedFile::forget(const void* data, uint64_t size) {
  const auto begin = reinterpret_cast<uintptr_t>(data);
  const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const uintptr_t first = (begin + page - 1) / page * page;
  const uintptr_t end = (begin + size) / page * page;
  if (first >= end) {
    return 0;
  }
  Mappings& all = mappings();
  const std::lock_guard lock(all.mutex);  // held so that nobody unmaps the file meanwhile
  auto after = all.ranges.upper_bound(begin);
  if (after == all.ranges.begin() || begin + size > std::prev(after)->second) {
    return 0;
  }
  // safe only because our mappings are read-only: nothing written can be lost
  auto* const pages = reinterpret_cast<void*>(first);  // NOLINT(performance-no-int-to-ptr)
  return ::madvise(pages, end - first, MADV_DONTNEED) == 0 ? end - first : 0;
}

std::shared_ptr<const MappedFile> MappedFile::open(const fs::path& path) {
  // O_NONBLOCK: opening a pipe must fail below instead of waiting for a writer.
  const Descriptor descriptor(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat status {};
  if (!descriptor.valid() || ::fstat(descriptor.get(), &status) != 0) {
    throw_io(path, errno);
  }
  if (!S_ISREG(status.st_mode)) {
    throw Error(ErrorCode::kIo,
                cat(named(path), S_ISDIR(status.st_mode) ? ": is a folder, not a file"
                                                         : ": not a regular file"));
  }
  std::shared_ptr<MappedFile> file(new MappedFile);
  file->size_ = static_cast<uint64_t>(status.st_size);
  if (file->size_ > 0) {
    void* mapping = ::mmap(nullptr, file->size_, PROT_READ, MAP_PRIVATE, descriptor.get(), 0);
    if (mapping == MAP_FAILED) {
      file->size_ = 0;
      throw_io(path, errno);
    }
    file->data_ = static_cast<const std::byte*>(mapping);
    const std::lock_guard lock(mappings().mutex);
    const auto first = reinterpret_cast<uintptr_t>(mapping);
    mappings().ranges[first] = first + file->size_;
  }
  return file;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) {
    const std::lock_guard lock(mappings().mutex);
    mappings().ranges.erase(reinterpret_cast<uintptr_t>(data_));
    ::munmap(const_cast<std::byte*>(data_), size_);
  }
}

PendingFile::PendingFile(fs::path final_path) : given_(std::move(final_path)), target_(given_) {
  std::error_code ignored;
  if (written_in_place(given_)) {
    temporary_ = given_;
    return;
  }
  if (fs::is_symlink(given_, ignored)) {  // write what the link points to, keep the link
    const fs::path resolved = fs::weakly_canonical(given_, ignored);
    target_ = ignored ? given_ : resolved;
  }
  temporary_ = temporary_beside(target_);
  create_exclusively(temporary_, target_, given_);
}

PendingFile::~PendingFile() {
  if (!committed_ && temporary_ != target_) {
    std::error_code ignored;
    fs::remove(temporary_, ignored);
  }
}

void PendingFile::commit() {
  if (temporary_ != target_) {
    sync_file(temporary_, given_);
    if (::rename(temporary_.c_str(), target_.c_str()) != 0) {
      throw_io(given_, errno, kCannotWrite);
    }
    sync_folder(folder_of(target_));
  }
  committed_ = true;
}

void write_file_atomically(
    const fs::path& path,
    const std::function<void(const std::function<void(std::string_view)>& sink)>& write) {
  PendingFile pending(path);
  Descriptor descriptor(::open(pending.temporary().c_str(), O_WRONLY | O_CLOEXEC));
  if (!descriptor.valid()) {
    throw_io(path, errno, kCannotWrite);
  }
  constexpr size_t kBuffer = 1 << 18;
  std::string buffer;
  write([&](std::string_view bytes) {
    if (buffer.size() + bytes.size() >= kBuffer) {
      write_all(descriptor.get(), buffer, path);
      buffer.clear();
    }
    if (bytes.size() >= kBuffer) {
      write_all(descriptor.get(), bytes, path);
    } else {
      buffer.append(bytes);
    }
  });
  write_all(descriptor.get(), buffer, path);
  if (descriptor.close() != 0) {
    throw_io(path, errno, kCannotWrite);
  }
  pending.commit();
}

void write_file_atomically(const fs::path& path, std::string_view contents) {
  write_file_atomically(path, [&](const auto& sink) { sink(contents); });
}

AppendedFile::AppendedFile(fs::path path, std::string_view contents) : path_(std::move(path)) {
  write_file_atomically(path_, contents);
  descriptor_ = ::open(path_.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
  if (descriptor_ < 0) {
    throw_io(path_, errno, kCannotWrite);
  }
}

AppendedFile::~AppendedFile() {
  ::close(descriptor_);
}

void AppendedFile::add(std::string_view bytes) {
  write_all(descriptor_, bytes, path_);
}

void AppendedFile::sync() {
  if (::fsync(descriptor_) != 0) {
    throw_io(path_, errno, kCannotWrite);
  }
}

FileLock::FileLock(const fs::path& path)
    : descriptor_(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666)) {
  if (descriptor_ < 0) {
    throw_io(path, errno, kCannotWrite);
  }
  // Some network file systems know no locks; there nobody is kept out.
  if (::flock(descriptor_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
    ::close(descriptor_);
    throw Error(ErrorCode::kIo, cat(named(path), ": another process is at work here"));
  }
}

FileLock::~FileLock() {
  ::close(descriptor_);
}

// Best effort: the entry is already there, and some file systems cannot sync a folder.
void sync_folder(const fs::path& folder) {
  const Descriptor descriptor(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (descriptor.valid()) {
    ::fsync(descriptor.get());
  }
}

}  // namespace perceiver
