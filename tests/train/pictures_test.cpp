#include "train/data/pictures.h"

#include <gtest/gtest.h>

#include "perceiver/base/error.h"
#include "perceiver/io/image.h"
#include "train/data/picture_files.h"
#include "train/expect_error.h"
#include "train/tiny.h"

namespace perceiver::train {
namespace {

using test::expect_error;
using test::TemporaryFolder;
using test::write_bytes;

// A record whose red, green and blue planes count up from three different values.
std::string cifar_record(const std::string& labels, int first) {
  std::string bytes = labels;
  for (int plane = 0; plane < 3; ++plane) {
    for (int i = 0; i < 1024; ++i) {
      bytes += static_cast<char>(first + 50 * plane + i / 32);
    }
  }
  return bytes;
}

TEST(Cifar, PlanesBecomeChannelsAndFilesFollowEachOther) {
  const TemporaryFolder folder;
  write_bytes(folder / "a", cifar_record("\x03", 0) + cifar_record("\x09", 1));
  write_bytes(folder / "b", cifar_record("\x01", 2));
  const PicturesInMemory pictures = read_cifar({folder / "a", folder / "b"}, 1);
  ASSERT_EQ(pictures.count(), 3);
  EXPECT_EQ(pictures.label(0), 3);
  EXPECT_EQ(pictures.label(1), 9);
  EXPECT_EQ(pictures.label(2), 1);
  const Array last = pictures.read(2);
  EXPECT_EQ(last.shape(), (std::vector<int64_t>{32, 32, 3}));
  const uint8_t* row_five = last.data<uint8_t>() + 5 * 32 * 3;
  EXPECT_EQ(row_five[0], 2 + 5);
  EXPECT_EQ(row_five[1], 52 + 5);
  EXPECT_EQ(row_five[2], 102 + 5);
}

TEST(Cifar, OfTwoLabelsTheLastCounts) {
  const TemporaryFolder folder;
  write_bytes(folder / "a", cifar_record(std::string("\x03\x63", 2), 0));
  EXPECT_EQ(read_cifar({folder / "a"}, 2).label(0), 99);
}

TEST(Cifar, RefusesWhatIsNoWholeNumberOfRecords) {
  const TemporaryFolder folder;
  write_bytes(folder / "whole", cifar_record("\x01", 0));
  write_bytes(folder / "cut", cifar_record("\x01", 0).substr(1));
  write_bytes(folder / "empty", "");
  for (const char* bad : {"cut", "empty"}) {
    expect_error([&] { read_cifar({folder / "whole", folder / bad}, 1); }, std::string(bad) + ": ");
  }
  expect_error([&] { check_labels(read_cifar({folder / "whole"}, 1), 1); },
               "whole: picture 0 has label 1, the model has 1 classes");
}

void write_png(const std::filesystem::path& path, int64_t height, int64_t width, uint8_t grey) {
  std::filesystem::create_directories(path.parent_path());
  io::write_png(path, io::make_image(Array::of<uint8_t>(
                          {height, width, 1},
                          std::vector<uint8_t>(static_cast<size_t>(height * width), grey))));
}

TEST(PictureFolders, ClassesAreTheFoldersAndOtherFilesAreLeftOut) {
  const TemporaryFolder folder;
  write_png(folder / "cats/two.PNG", 2, 3, 20);
  write_png(folder / "cats/one.png", 2, 3, 10);
  write_png(folder / "ants/a.png", 4, 4, 30);
  write_png(folder / ".cache/x.png", 4, 4, 30);
  write_bytes(folder / "cats/readme.txt", "no picture");
  const std::vector<std::string> classes = class_folders(folder.path());
  EXPECT_EQ(classes, (std::vector<std::string>{"ants", "cats"}));
  const PicturesOnDisk pictures(list_class_folders(folder.path(), classes), 3);
  ASSERT_EQ(pictures.count(), 3);
  EXPECT_EQ(pictures.label(0), 0);
  EXPECT_EQ(pictures.label(2), 1);
  EXPECT_EQ(pictures.name(1), (folder / "cats/one.png").string());
  const Array picture = pictures.read(2);
  EXPECT_EQ(picture.shape(), (std::vector<int64_t>{2, 3, 3}));
  EXPECT_EQ(picture.data<uint8_t>()[4], 20);
}

TEST(PictureFolders, NameAFolderThatIsNoClassAndFoldersWithoutPictures) {
  const TemporaryFolder folder;
  expect_error([&] { class_folders(folder / "absent"); }, "absent: No such file");
  expect_error([&] { class_folders(folder.path()); }, "holds no folders");
  std::filesystem::create_directories(folder / "dogs");
  expect_error([&] { list_class_folders(folder.path(), {"cats"}); }, "dogs: no class is named");
  expect_error([&] { list_class_folders(folder.path(), {"dogs"}); }, "hold no pictures");
}

TEST(PictureLists, TakeTabsCommasNumbersAndNames) {
  const TemporaryFolder folder;
  write_bytes(folder / "list", "a.png\t70000\r\n\nb, c.png,1\nd.png\tcat\n/abs/e.png,0");
  const auto files = read_picture_list(folder / "list", folder.path(), {"dog", "cat"});
  ASSERT_EQ(files.size(), 4U);
  EXPECT_EQ(files[0].path, (folder / "a.png").string());
  EXPECT_EQ(files[0].label, 70000);
  EXPECT_EQ(files[1].path, (folder / "b, c.png").string());
  EXPECT_EQ(files[2].label, 1);
  EXPECT_EQ(files[3].path, "/abs/e.png");
}

TEST(PictureLists, NameFileAndLineOfWhatIsWrong) {
  const TemporaryFolder folder;
  const auto read = [&](const std::string& text) {
    write_bytes(folder / "list", text);
    read_picture_list(folder / "list", folder.path(), {"dog"});
  };
  expect_error([&] { read("a.png\t1\nb.png\n"); }, "list: line 2 is 'b.png', needs a path");
  expect_error([&] { read("a.png\tcat\n"); }, "line 1: label 'cat' is neither a number nor one");
  expect_error([&] { read("a.png\t99999999999999999999\n"); }, "line 1: label '9999");
  expect_error([&] { read("\n\n"); }, "names no pictures");
  const PicturesOnDisk pictures({{(folder / "absent.png").string(), -1}}, 3);
  expect_error([&] { check_labels(pictures, 10); }, "absent.png has label -1");
  expect_error([&] { pictures.read(0); }, "absent.png");
}

}  // namespace
}  // namespace perceiver::train
