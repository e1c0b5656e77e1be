#include "train/data/labelled_files.h"

#include <gtest/gtest.h>

#include "perceiver/base/error.h"
#include "train/data/byte_cache.h"
#include "train/data/class_names.h"
#include "train/data/delimited.h"
#include "train/expect_error.h"
#include "train/tiny.h"

namespace perceiver::train {
namespace {

namespace fs = std::filesystem;
using test::expect_error;
using test::TemporaryFolder;
using test::write_bytes;

using Row = std::vector<std::string>;

TEST(Delimited, ReadsCommasWithQuotesAndTabsWithout) {
  const DelimitedTable commas =
      parse_delimited("\xEF\xBB\xBFpath,label\r\na.wav,\"dog, \"\"big\"\"\"\r\n\r\nb.wav,\n", "t");
  EXPECT_EQ(commas.header, (Row{"path", "label"}));
  ASSERT_EQ(commas.rows.size(), 2U);
  EXPECT_EQ(commas.rows[0], (Row{"a.wav", "dog, \"big\""}));
  EXPECT_EQ(commas.rows[1], (Row{"b.wav", ""}));
  EXPECT_EQ(commas.where(1), "t: line 4");
  const DelimitedTable tabs = parse_delimited("path\tlabel\na,b\t\"c\n", "t");
  EXPECT_EQ(tabs.rows[0], (Row{"a,b", "\"c"}));
  const DelimitedTable broken = parse_delimited("a,b\n\"x\ny\",2\n3,4", "t");
  EXPECT_EQ(broken.rows[0], (Row{"x\ny", "2"}));
  EXPECT_EQ(broken.lines[1], 4);
}

TEST(Delimited, NamesTheLineThatIsWrong) {
  expect_error([] { parse_delimited("", "t.csv"); }, "t.csv: the file is empty");
  expect_error([] { parse_delimited("a,b\n", "t.csv"); }, "no rows behind the header");
  expect_error([] { parse_delimited("a,b\n1,2\n3\n", "t.csv"); },
               "t.csv: line 3: 1 field(s), the header has 2");
  expect_error([] { parse_delimited("a,b\n\"1,2\n3", "t.csv"); },
               "t.csv: line 2: a quote is never closed");
  expect_error([] { parse_delimited("a,b\n\"1\"x,2\n", "t.csv"); },
               "t.csv: line 2: a quoted field is followed by text");
  const DelimitedTable table = parse_delimited("path,labels\n1,2\n", "t.csv");
  expect_error([&] { table.column("label"); }, "no column 'label'; did you mean 'labels'?");
}

TEST(LabelledFiles, TellsThePartsOfAName) {
  const auto digits = parts_of_name("{label}_{speaker}_{fold}", "7_jackson_0_b");
  ASSERT_TRUE(digits.has_value());
  EXPECT_EQ(digits->label, "7");
  EXPECT_EQ(digits->fold, "0_b");
  const auto esc = parts_of_name("{fold}-{source}-{take}-{label}x", "1-100-A-0x");
  ASSERT_TRUE(esc.has_value());
  EXPECT_EQ(esc->fold, "1");
  EXPECT_EQ(esc->label, "0");
  EXPECT_FALSE(parts_of_name("{label}_{fold}", "seven"));
  EXPECT_FALSE(parts_of_name("{label}_{fold}", "_1"));
  EXPECT_FALSE(parts_of_name("x{label}", "y1"));
}

class LabelledFilesTest : public ::testing::Test {
 protected:
  LabelledSplit find(const std::string& json) {
    const Json parsed = Json::parse(json);
    Fields fields(parsed, "r.json: data");
    const LabelledFilesSpec spec = read_labelled_files(fields, folder_.path(), {"wav"});
    fields.finish();
    return find_labelled_files(spec);
  }
  void add(const std::string& name) {
    fs::create_directories((folder_ / name).parent_path());
    write_bytes(folder_ / name, "x");
  }
  TemporaryFolder folder_;
};

TEST_F(LabelledFilesTest, AListWithFoldsUnderOtherNames) {
  fs::create_directories(folder_ / "sounds");
  write_bytes(folder_ / "meta.csv", "filename,fold,category\ndog/a.ogg,1,dog\nhen/b.ogg,5,hen\n");
  const LabelledSplit split = find(R"({"folder": "sounds", "list": "meta.csv", "test_folds": [5],
      "columns": {"path": "filename", "label": "category"}})");
  ASSERT_EQ(split.train.size(), 1U);
  ASSERT_EQ(split.test.size(), 1U);
  EXPECT_EQ(split.train[0].path, folder_ / "sounds/dog/a.ogg");
  EXPECT_EQ(split.train[0].label, "dog");
  EXPECT_EQ(split.test[0].label, "hen");
}

TEST_F(LabelledFilesTest, AFolderPerClassWithFoldsInTheNames) {
  for (const char* name : {"s/hen/1-b.wav", "s/dog/1-a.WAV", "s/dog/2-a.wav", "s/dog/notes.txt"}) {
    add(name);
  }
  const LabelledSplit split =
      find(R"({"folder": "s", "name_pattern": "{fold}-{take}", "test_folds": ["2"]})");
  ASSERT_EQ(split.train.size(), 2U);
  EXPECT_EQ(split.train[0].label, "dog");
  EXPECT_EQ(split.train[1].label, "hen");
  ASSERT_EQ(split.test.size(), 1U);
  EXPECT_EQ(split.test[0].path, folder_ / "s/dog/2-a.wav");
}

TEST_F(LabelledFilesTest, LabelsInTheNamesAndASecondFolder) {
  add("train/3_jackson_5.wav");
  add("test/4_jackson_0.wav");
  const LabelledSplit split = find(
      R"({"folder": "train", "test_folder": "test", "name_pattern": "{label}_{speaker}_{take}"})");
  EXPECT_EQ(split.train.at(0).label, "3");
  EXPECT_EQ(split.test.at(0).label, "4");
}

TEST_F(LabelledFilesTest, SaysWhatIsWrong) {
  add("s/1_a.wav");
  add("s/odd.wav");
  fs::create_directories(folder_ / "empty");
  write_bytes(folder_ / "l.csv", "path,label\na.wav,dog\n");
  expect_error([&] { find(R"({"folder": "s"})"); }, "exactly one of test_folds");
  expect_error([&] { find(R"({"folder": "nowhere", "test_folds": [1]})"); }, "no folder");
  expect_error([&] { find(R"({"folder": "s", "test_folds": [1]})"); }, "{fold} in name_pattern");
  expect_error([&] { find(R"({"folder": "s", "test_folds": [9], "name_pattern": "{fold}_{x}"})"); },
               "odd.wav: its name is unlike '{fold}_{x}'");
  expect_error([&] { find(R"({"folder": "s", "test_folder": "empty"})"); },
               "empty: no file to read in it (.wav)");
  expect_error([&] { find(R"({"folder": "s", "test_folds": [1], "list": "l.csv"})"); },
               "no column 'fold'");
  expect_error([&] { find(R"({"folder": "s", "test_folds": [1], "name_pattern": "{a}{fold}"})"); },
               "two names need text between them");
  fs::remove(folder_ / "s/odd.wav");
  expect_error([&] { find(R"({"folder": "s", "test_folds": [9], "name_pattern": "{fold}_{x}"})"); },
               "test_folds holds out nothing; the folds are '1'");
}

TEST(ClassNames, ReadsNamesNumbersAndSeveral) {
  const ClassNames named({LabelKind::kSingle, ";", {"dog", "hen"}}, 2);
  EXPECT_EQ(named.parse("hen", "f"), (std::vector<int64_t>{1}));
  expect_error([&] { named.parse("dgo", "f.wav"); },
               "f.wav: 'dgo' is no class of the model; did you mean 'dog'?");
  const ClassNames numbered({LabelKind::kSingle, ";", {}}, 3);
  EXPECT_EQ(numbered.parse("2", "f"), (std::vector<int64_t>{2}));
  expect_error([&] { numbered.parse("3", "f"); }, "numbers from 0 to 2");
  expect_error([&] { numbered.parse("-1", "f"); }, "is no class");
  const ClassNames several({LabelKind::kMulti, "; ", {"dog", "hen", "rain, light"}}, 3);
  EXPECT_EQ(several.parse("rain, light; dog; dog", "f"), (std::vector<int64_t>{0, 2}));
  EXPECT_TRUE(several.parse("", "f").empty());
  expect_error([] { ClassNames({LabelKind::kSingle, ";", {"dog"}}, 2); }, "1 class names");
}

TEST(ByteCache, KeepsTheLatestWithinItsBudget) {
  ByteCache<int> cache(20);
  int made = 0;
  const auto get = [&](int64_t key, int64_t bytes) {
    return *cache.get(
        key, [&] { return static_cast<int>(++made * 0 + key * 10); },
        [&](const int&) { return bytes; });
  };
  EXPECT_EQ(get(1, 10), 10);
  EXPECT_EQ(get(2, 10), 20);
  EXPECT_EQ(get(1, 10), 10);
  EXPECT_EQ(made, 2);
  get(3, 10);  // 2 was asked for longest ago
  get(1, 10);
  EXPECT_EQ(made, 3);
  get(2, 10);
  EXPECT_EQ(made, 4);
  get(9, 21);  // never fits, drives out nothing
  get(9, 21);
  EXPECT_EQ(made, 6);
  EXPECT_EQ(cache.bytes(), 20);
}

}  // namespace
}  // namespace perceiver::train
