#include "perceiver/base/file.h"

#include <cstring>
#include <fstream>
#include <sys/stat.h>
#include <unistd.h>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "perceiver/base/error.h"

namespace perceiver {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class FileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    folder_ = fs::path(::testing::TempDir()) /
              ("perceiver_file_" + std::string(test->name()) + std::to_string(::getpid()));
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  static std::string contents(const fs::path& path) { return read_file(path, 1 << 20); }
  size_t entries() const {
    return static_cast<size_t>(std::distance(fs::directory_iterator(folder_), {}));
  }

  fs::path folder_;
};

template <typename Fn>
Error thrown_by(const Fn& fn) {
  try {
    fn();
  } catch (const Error& error) {
    return error;
  }
  ADD_FAILURE() << "nothing was thrown";
  return Error(ErrorCode::kInternal, "");
}

TEST_F(FileTest, ReadsWhatWasWritten) {
  write_file_atomically(folder_ / "a", std::string_view("x\0y", 3));
  EXPECT_EQ(contents(folder_ / "a"), std::string("x\0y", 3));
  EXPECT_EQ(entries(), 1u);
}

TEST_F(FileTest, ReadRefusesMissingFoldersAndTooLarge) {
  const Error missing = thrown_by([&] { read_file(folder_ / "none", 10); });
  EXPECT_EQ(missing.code(), ErrorCode::kIo);
  EXPECT_EQ(missing.what(), (folder_ / "none").string() + ": No such file or directory");
  EXPECT_EQ(thrown_by([&] { read_file(folder_, 10); }).code(), ErrorCode::kIo);
  write_file_atomically(folder_ / "a", "12345");
  EXPECT_EQ(read_file(folder_ / "a", 5), "12345");
  EXPECT_EQ(thrown_by([&] { read_file(folder_ / "a", 4); }).code(), ErrorCode::kFormat);
}

TEST_F(FileTest, ReadLimitsFilesWithoutASizeToo) {
  EXPECT_EQ(thrown_by([&] { read_file("/dev/zero", 100000); }).code(), ErrorCode::kFormat);
}

TEST_F(FileTest, MapsFilesIncludingEmptyOnes) {
  write_file_atomically(folder_ / "a", "hello");
  write_file_atomically(folder_ / "empty", "");
  const auto file = MappedFile::open(folder_ / "a");
  ASSERT_EQ(file->size(), 5u);
  EXPECT_EQ(std::memcmp(file->data(), "hello", 5), 0);
  EXPECT_EQ(MappedFile::open(folder_ / "empty")->size(), 0u);
}

TEST_F(FileTest, ForgottenPagesOfAMapAreReadFromTheFileAgain) {
  const std::string text(5 * 4096, 'x');
  write_file_atomically(folder_ / "a", text);
  const auto file = MappedFile::open(folder_ / "a");
  const uint64_t page = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  // only whole pages inside what is named
  EXPECT_EQ(MappedFile::forget(file->data() + 1, file->size() - 1),
            file->size() / page * page - page);
  EXPECT_EQ(MappedFile::forget(file->data() + 1, 100), 0U);
  EXPECT_EQ(std::memcmp(file->data(), text.data(), text.size()), 0);
  EXPECT_EQ(MappedFile::forget(file->data(), file->size() + 1), 0U);  // reaches beyond the file
}

TEST_F(FileTest, ForgettingLeavesOtherMemoryAlone) {
  std::vector<char> ours(1 << 16, 'y');
  EXPECT_EQ(MappedFile::forget(ours.data(), ours.size()), 0U);
  EXPECT_EQ(ours, std::vector<char>(1 << 16, 'y'));
}

TEST_F(FileTest, MapRefusesWhatIsNotARegularFile) {
  EXPECT_EQ(thrown_by([&] { MappedFile::open(folder_ / "none"); }).code(), ErrorCode::kIo);
  EXPECT_THAT(thrown_by([&] { MappedFile::open(folder_); }).what(), HasSubstr("is a folder"));
  ASSERT_EQ(::mkfifo((folder_ / "pipe").c_str(), 0600), 0);
  EXPECT_THAT(thrown_by([&] { MappedFile::open(folder_ / "pipe"); }).what(),
              HasSubstr("not a regular file"));
}

TEST_F(FileTest, AThrowingWriterLeavesTheOldFileAndNoTemporary) {
  write_file_atomically(folder_ / "a", "old");
  EXPECT_THROW(write_file_atomically(folder_ / "a",
                                     [](const auto& sink) {
                                       sink(std::string(1 << 20, 'x'));
                                       throw std::runtime_error("no more");
                                     }),
               std::runtime_error);
  EXPECT_EQ(contents(folder_ / "a"), "old");
  EXPECT_EQ(entries(), 1u);
}

TEST_F(FileTest, JoinsSmallAndLargePiecesInOrder) {
  const std::string large(1 << 19, 'b');
  write_file_atomically(folder_ / "a", [&](const auto& sink) {
    sink("a");
    sink(large);
    sink("c");
  });
  EXPECT_EQ(contents(folder_ / "a"), "a" + large + "c");
}

TEST_F(FileTest, WriteErrorsNameTheFinalPath) {
  const fs::path path = folder_ / "no" / "such" / "file";
  const Error missing = thrown_by([&] { write_file_atomically(path, "x"); });
  EXPECT_EQ(missing.code(), ErrorCode::kIo);
  EXPECT_EQ(missing.what(), path.string() + ": cannot write: No such file or directory");
  fs::create_directories(folder_ / "folder");
  EXPECT_THAT(thrown_by([&] { write_file_atomically(folder_ / "folder", "x"); }).what(),
              HasSubstr("folder: cannot write: Is a directory"));
  EXPECT_EQ(entries(), 1u);
}

TEST_F(FileTest, AFullDeviceIsAnIoError) {
  if (!fs::exists("/dev/full")) {
    GTEST_SKIP() << "needs /dev/full";
  }
  const Error full = thrown_by([] { write_file_atomically("/dev/full", "x"); });
  EXPECT_EQ(full.code(), ErrorCode::kIo);
  EXPECT_STREQ(full.what(), "/dev/full: cannot write: No space left on device");
  EXPECT_TRUE(fs::is_character_file("/dev/full"));
}

TEST_F(FileTest, DevicesAreWrittenInPlace) {
  write_file_atomically("/dev/null", "x");
  EXPECT_TRUE(fs::is_character_file("/dev/null"));
}

TEST_F(FileTest, KeepsSymbolicLinksAndPermissions) {
  write_file_atomically(folder_ / "target", "old");
  fs::permissions(folder_ / "target", fs::perms::owner_read | fs::perms::owner_write);
  fs::create_symlink("target", folder_ / "link");
  write_file_atomically(folder_ / "link", "new");
  EXPECT_TRUE(fs::is_symlink(folder_ / "link"));
  EXPECT_EQ(contents(folder_ / "target"), "new");
  EXPECT_EQ(fs::status(folder_ / "target").permissions(),
            fs::perms::owner_read | fs::perms::owner_write);
}

TEST_F(FileTest, PendingFileAppearsOnlyOnCommit) {
  const fs::path path = folder_ / "clip.mp4";
  {
    PendingFile dropped(path);
    EXPECT_EQ(dropped.temporary().extension(), ".mp4");
    EXPECT_TRUE(fs::exists(dropped.temporary()));
  }
  EXPECT_EQ(entries(), 0u);
  PendingFile kept(path);
  std::ofstream(kept.temporary()) << "movie";
  EXPECT_FALSE(fs::exists(path));
  kept.commit();
  EXPECT_EQ(contents(path), "movie");
  EXPECT_EQ(entries(), 1u);
}

TEST_F(FileTest, LongNamesStillGetATemporary) {
  const fs::path path = folder_ / (std::string(251, 'n') + ".bin");
  write_file_atomically(path, "x");
  EXPECT_EQ(contents(path), "x");
}

TEST_F(FileTest, AnAppendedFileCanBeReadAtOnce) {
  const fs::path path = folder_ / "log";
  write_file_atomically(path, "old");
  AppendedFile log(path, "first\n");
  EXPECT_EQ(contents(path), "first\n");
  log.add("second\n");
  log.add("third\n");
  EXPECT_EQ(contents(path), "first\nsecond\nthird\n");
  log.sync();
  EXPECT_EQ(entries(), 1u);
  EXPECT_THAT(thrown_by([&] { AppendedFile none(folder_ / "no" / "log", ""); }).what(),
              HasSubstr("no/log: cannot write"));
}

TEST_F(FileTest, ALockIsHeldByOneAtATime) {
  const fs::path path = folder_ / "lock";
  {
    const FileLock held(path);
    const Error busy = thrown_by([&] { FileLock second(path); });
    EXPECT_EQ(busy.code(), ErrorCode::kIo);
    EXPECT_THAT(busy.what(), HasSubstr("lock: another process"));
  }
  const FileLock again(path);
}

}  // namespace
}  // namespace perceiver
