#include <functional>

#include <gtest/gtest.h>

#include "perceiver/base/error.h"
#include "support/mutations.h"
#include "train/data/class_files.h"
#include "train/data/delimited.h"
#include "train/data/entities.h"
#include "train/data/flow_files.h"
#include "train/data/idx.h"
#include "train/data/labelled_files.h"
#include "train/data/labelled_text.h"
#include "train/data/pictures.h"
#include "train/data/table.h"
#include "train/tiny.h"

// Every reader of training data gets damaged copies of a good file: each is read, or refused in one
// line. fuzz/ does the same to many more.

namespace perceiver::train {
namespace {

using perceiver::test::mutated;
using test::idx;
using test::TemporaryFolder;
using test::write_bytes;
using Read = std::function<void(const std::filesystem::path&)>;

constexpr uint64_t kCopies = 300;

// Reads one copy. @return whether it was refused
bool refuses(const Read& read, const std::filesystem::path& path, uint64_t copy) {
  try {
    read(path);
    return false;
  } catch (const Error& error) {
    const std::string line = error.what();
    EXPECT_FALSE(line.empty()) << "copy " << copy;
    EXPECT_TRUE(std::none_of(line.begin(), line.end(), [](char c) { return c >= 0 && c < ' '; }))
        << "copy " << copy << ": " << line;
    EXPECT_LT(line.size(), 1000U) << "copy " << copy << ": " << line;
  }
  return true;
}

// Some copies must be refused: damage is noticed.
void survives(const std::string& name, const std::string& good, const Read& read) {
  TemporaryFolder folder;
  const std::filesystem::path path = folder / name;
  write_bytes(path, good);
  ASSERT_NO_THROW(read(path));
  uint64_t refused = 0;
  for (uint64_t copy = 0; copy < kCopies; ++copy) {
    write_bytes(path, mutated(good, copy));
    refused += refuses(read, path, copy) ? 1 : 0;
  }
  EXPECT_GT(refused, kCopies / 20);
}

TEST(HostileFiles, Idx) {
  survives("images", idx({3, 2, 2}, std::string(12, 'x')),
           [](const auto& path) { read_idx(path); });
}

TEST(HostileFiles, Cifar) {
  const std::string record(1 + 3 * 1024, '\x05');
  survives("batch.bin", record + record,
           [](const auto& path) { check_labels(read_cifar({path}, 1), 10); });
}

TEST(HostileFiles, TablesWithAndWithoutQuotes) {
  const std::string csv = "text,label\n\"a, \"\"b\"\"\",1\r\nc,0\n";
  survives("table.csv", csv, [](const auto& path) {
    TableReader table(path, {.separator = ',', .header = true, .quoted = true});
    for (TableRow row; table.next(row);) {
      if (row.fields.size() != table.width()) {
        throw Error(ErrorCode::kFormat, table.where(row) + ": another width");
      }
    }
  });
  survives("table.csv", csv, [](const auto& path) { read_delimited(path); });
  survives("table.tsv", "sentence\tlabel\n\"it is\t1\nso\t0\n", [](const auto& path) {
    TableReader table(path, {});
    table.find({.name = "label"});
    for (TableRow row; table.next(row);) {
    }
  });
}

TEST(HostileFiles, ConllColumns) {
  survives("train.conll", "Ann\tB-PER\nsaw\tO\r\n\nit\tO\n", [](const auto& path) {
    BadRows none;
    const TokenFileFormat format{
        .labels = {"O", "B-PER"}, .first_byte_only = true, .max_bytes = 16};
    for (const LabelledText& text : read_labelled_text(path, format, none)) {
      EXPECT_EQ(text.text.size(), text.labels.size());
      EXPECT_FALSE(text.text.empty());
      EXPECT_LE(text.text.size(), 16U);
    }
  });
}

// No empty text before it: nothing could be learned of that.
TEST(HostileFiles, ATokenAsLongAsATextIsATextOfItsOwn) {
  TemporaryFolder folder;
  write_bytes(folder / "train.conll", "long\tO\nb\tO\n");
  BadRows none;
  const auto texts = read_labelled_text(
      folder / "train.conll", {.labels = {"O"}, .first_byte_only = false, .max_bytes = 4}, none);
  ASSERT_EQ(texts.size(), 2U);
  EXPECT_EQ(texts[0].text, "long");
  EXPECT_EQ(texts[1].text, "b");
}

TEST(HostileFiles, ListsOfClassesAndSounds) {
  survives("list.csv", "path,class\na/1.off,chair\nb/2.off,table\n",
           [](const auto& path) { read_class_list(path); });
  survives("list.csv", "path,label,fold\na.wav,dog,1\n\"b, c.wav\",\"cat\",2\n",
           [](const auto& path) {
             LabelledFilesSpec spec;
             spec.folder = path.parent_path();
             spec.list = path;
             spec.test_folds = {"2"};
             find_labelled_files(spec);
           });
}

TEST(HostileFiles, ListsOfFlow) {
  // the list itself stands for the frames it names
  survives("pairs.txt", "# pairs\npairs.txt\tpairs.txt\tpairs.txt\t\tpairs.txt\n",
           [](const auto& path) { read_flow_list(path); });
  survives("pairs.json",
           R"([{"first": "pairs.json", "second": "pairs.json", "flow": "pairs.json"}])",
           [](const auto& path) { read_flow_list(path); });
}

TEST(HostileFiles, GamesAndTheirFrames) {
  survives("replays.csv", "id,map,winner\nr1,Old Town,2\nr2,Odyssey,\n",
           [](const auto& path) { read_replay_list(path); });
  survives("r1.csv", "t_s,owner,type,x,y,position_s\n60,1,SCV,10,20,0\n90,2,Drone,1.5,2e1,65\n",
           [](const auto& path) {
             for (const EntityFrame& frame : read_entity_frames(path)) {
               for (const Entity& entity : frame.entities) {
                 EXPECT_TRUE(std::abs(entity.x) < 2.01F && std::abs(entity.y) < 2.01F);
               }
             }
           });
}

// A row of separators alone takes dozens of bytes for each of its own.
TEST(HostileFiles, RowsOfTooManyFieldsAreRefused) {
  TemporaryFolder folder;
  const std::string row(5000, ',');
  write_bytes(folder / "wide.csv", row + "\n" + row + "\n");
  const auto wide = [&](const Read& read) {
    try {
      read(folder / "wide.csv");
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  for (const Read& read : {Read([](const auto& path) { read_delimited(path); }),
                           Read([](const auto& path) { read_entity_frames(path); }),
                           Read([](const auto& path) { read_replay_list(path); })}) {
    EXPECT_NE(wide(read).find("more than 4096 fields"), std::string::npos) << wide(read);
  }
}

}  // namespace
}  // namespace perceiver::train
