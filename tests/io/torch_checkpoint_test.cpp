#include "perceiver/io/torch_checkpoint.h"

#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "io/bytes_of.h"
#include "io/torch_format.h"
#include "perceiver/io/safetensors.h"
#include "support/shared.h"

namespace perceiver::io {
namespace {

using test::bytes_of;
using test::expect_same;
using test::little;
using test::refusal;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr const char* kContainers = "fixtures/transformers/bin_containers";

// --- what torch wrote ----------------------------------------------------------------------------

TEST(TorchFixtures, ReadsEveryContainer) {
  PERCEIVER_SHARED_OR_SKIP(folder, kContainers);
  const ArrayMap expected = read_safetensors(folder / "zip.expected.safetensors");
  expect_same(read_torch_checkpoint(folder / "zip.bin"), expected);
  expect_same(read_torch_checkpoint(folder / "legacy_not_zip.bin"), expected);
  for (const std::string name : {"parameter", "state_dict_with_metadata"}) {
    expect_same(read_torch_checkpoint(folder / (name + ".bin")),
                read_safetensors(folder / (name + ".expected.safetensors")));
  }
}

TEST(TorchFixtures, RefusesAForeignGlobalAndNamesIt) {
  PERCEIVER_SHARED_OR_SKIP(folder, kContainers);
  EXPECT_THAT(
      refusal(ErrorCode::kFormat, [&] { read_torch_checkpoint(folder / "forbidden_global.bin"); }),
      AllOf(HasSubstr("forbidden_global.bin"), HasSubstr("refused to load \"")));
}

TEST(TorchFixtures, RefusesEveryTruncation) {
  PERCEIVER_SHARED_OR_SKIP(folder, kContainers);
  for (const char* name : {"zip.bin", "legacy_not_zip.bin"}) {
    const std::string whole = read_file(folder / name, 1 << 20);
    for (size_t size = 0; size < whole.size(); ++size) {
      EXPECT_THROW(read_torch_checkpoint(bytes_of(whole.substr(0, size))), Error) << size;
    }
  }
}

// --- archives made here --------------------------------------------------------------------------

struct Entry {
  std::string name;
  std::string data;
  uint16_t method = 0;
  uint16_t flags = 0;
};

std::string zip_of(const std::vector<Entry>& entries) {
  std::string local;
  std::string central;
  for (const Entry& entry : entries) {
    const auto size = static_cast<uint32_t>(entry.data.size());
    const auto name_size = static_cast<uint16_t>(entry.name.size());
    const std::string common = little(entry.flags) + little(entry.method) + little(uint32_t{0}) +
                               little(uint32_t{0}) + little(size) + little(size) +
                               little(name_size) + little(uint16_t{0});
    central += "PK\x01\x02" + little(uint32_t{0}) + common + std::string(10, '\0') +
               little(static_cast<uint32_t>(local.size())) + entry.name;
    local += "PK\x03\x04" + little(uint16_t{0}) + common + entry.name + entry.data;
  }
  const auto count = static_cast<uint16_t>(entries.size());
  return local + central + "PK\x05\x06" + little(uint32_t{0}) + little(count) + little(count) +
         little(static_cast<uint32_t>(central.size())) +
         little(static_cast<uint32_t>(local.size())) + little(uint16_t{0});
}

// The same, with every size and offset that has a 64-bit form in that form.
std::string zip64_of(const std::vector<Entry>& entries) {
  constexpr uint32_t kIn64 = 0xFFFFFFFF;
  std::string local;
  std::string central;
  for (const Entry& entry : entries) {
    const uint64_t size = entry.data.size();
    const std::string common = std::string(12, '\0') + little(kIn64) + little(kIn64) +
                               little(static_cast<uint16_t>(entry.name.size()));
    const std::string sizes = little(size) + little(size);
    central += "PK\x01\x02" + little(uint32_t{0}) + common + little(uint16_t{28}) +
               std::string(10, '\0') + little(kIn64) + entry.name + little(uint16_t{1}) +
               little(uint16_t{24}) + sizes + little(uint64_t{local.size()});
    local += "PK\x03\x04" + little(uint16_t{0}) + common + little(uint16_t{20}) + entry.name +
             little(uint16_t{1}) + little(uint16_t{16}) + sizes + entry.data;
  }
  const std::string counts = little(uint64_t{entries.size()}) + little(uint64_t{entries.size()});
  const uint64_t end64 = local.size() + central.size();
  return local + central + "PK\x06\x06" + little(uint64_t{44}) + std::string(12, '\0') + counts +
         little(uint64_t{central.size()}) + little(uint64_t{local.size()}) + "PK\x06\x07" +
         little(uint32_t{0}) + little(end64) + little(uint32_t{1}) + "PK\x05\x06" +
         little(uint32_t{0}) + std::string(12, '\xff') + little(uint16_t{0});
}

std::string text(const std::string& value) {
  return "X" + little(static_cast<uint32_t>(value.size())) + value;
}
std::string integer(int64_t value) {
  return "\x8a\x08" + little(value);
}
std::string tuple(const std::vector<int64_t>& values) {
  std::string out = "(";
  for (const int64_t value : values) {
    out += integer(value);
  }
  return out + "t";
}
std::string storage(const std::string& key, int64_t size,
                    const std::string& type = "FloatStorage") {
  return "(" + text("storage") + "ctorch\n" + type + "\n" + text(key) + text("cpu") +
         integer(size) + "tQ";
}
std::string tensor(const std::string& of, int64_t offset, const std::vector<int64_t>& shape,
                   const std::vector<int64_t>& strides) {
  return "ctorch._utils\n_rebuild_tensor_v2\n(" + of + integer(offset) + tuple(shape) +
         tuple(strides) + "\x89" + "ccollections\nOrderedDict\n)RtR";
}
std::string item(const std::string& name, const std::string& value) {
  return text(name) + value + "s";
}
std::string dict(const std::string& items) {
  return "}" + items;
}

const std::string kData = little(1.0F) + little(2.0F) + little(3.0F) + little(4.0F);

std::string archive(const std::string& value, const std::string& data = kData) {
  return zip_of({{"a/data.pkl", "\x80\x02" + value + "."}, {"a/data/0", data}});
}
ArrayMap parse(const std::string& file) {
  return read_torch_checkpoint(bytes_of(file));
}
std::string refused(const std::string& file, ErrorCode code = ErrorCode::kFormat) {
  return refusal(code, [&] { parse(file); });
}
// One tensor "w" in a storage of four floats.
std::string window(int64_t offset, const std::vector<int64_t>& shape,
                   const std::vector<int64_t>& strides) {
  return archive(dict(item("w", tensor(storage("0", 4), offset, shape, strides))));
}

std::vector<float> floats(const Array& array) {
  return {array.data<float>(), array.data<float>() + array.numel()};
}

TEST(Torch, ReadsContiguousTransposedStridedAndExpandedWindows) {
  const auto read = [](int64_t offset, const std::vector<int64_t>& shape,
                       const std::vector<int64_t>& strides) {
    return floats(parse(window(offset, shape, strides)).at("w"));
  };
  EXPECT_EQ(read(0, {2, 2}, {2, 1}), (std::vector<float>{1, 2, 3, 4}));
  EXPECT_EQ(read(1, {3}, {1}), (std::vector<float>{2, 3, 4}));
  EXPECT_EQ(read(0, {2, 2}, {1, 2}), (std::vector<float>{1, 3, 2, 4}));
  EXPECT_EQ(read(1, {2}, {2}), (std::vector<float>{2, 4}));
  EXPECT_EQ(read(3, {}, {}), (std::vector<float>{4}));
  EXPECT_EQ(read(0, {2, 3}, {1, 0}), (std::vector<float>{1, 1, 1, 2, 2, 2}));
  EXPECT_EQ(read(0, {1, 2}, {INT64_MAX, 3}), (std::vector<float>{1, 4}));
  EXPECT_EQ(read(0, {0, 7}, {7, 1}), (std::vector<float>{}));
}

TEST(Torch, TiedTensorsShareMemory) {
  const std::string one = tensor(storage("0", 4), 0, {4}, {1});
  const ArrayMap arrays = parse(archive(dict(item("a", one) + item("b", one))));
  EXPECT_EQ(arrays.at("a").bytes(), arrays.at("b").bytes());
}

TEST(Torch, RefusesWindowsLargerThanTheirStorage) {
  for (const auto& file :
       {window(0, {5}, {1}), window(1, {4}, {1}), window(-1, {2}, {1}), window(0, {2, 2}, {3, 1}),
        window(0, {2}, {-1}), window(0, {2}, {INT64_MAX}), window(INT64_MAX, {2}, {INT64_MAX}),
        window(0, {INT64_MAX, 2}, {1, 1}), window(0, {-1}, {1}), window(0, {2}, {1, 1}),
        window(0, std::vector<int64_t>(65, 1), std::vector<int64_t>(65, 1)), window(4, {1}, {1})}) {
    refused(file);
  }
  EXPECT_THAT(refused(window(0, {5}, {1})), AllOf(HasSubstr("tensor \"w\""), HasSubstr("[5]")));
}

TEST(Torch, RefusesStridesOfZeroThatWouldTakeAllMemory) {
  EXPECT_THAT(refused(window(0, {1 << 20, 1 << 20}, {0, 0})),
              HasSubstr("tensor \"w\" makes the checkpoint far larger"));
}

TEST(Torch, RefusesStoragesOfAnotherSize) {
  const auto with = [](const std::string& of) {
    return archive(dict(item("w", tensor(of, 0, {1}, {1}))));
  };
  EXPECT_THAT(refused(with(storage("0", 5))), HasSubstr("has 16 bytes, not 5 elements"));
  refused(with(storage("0", -4)));
  refused(with(storage("0", INT64_MAX)));
  refused(with(storage("0", 4, "DoubleStorage")));
  EXPECT_THAT(refused(with(storage("9", 4))), HasSubstr("storage \"9\" is not in the file"));
  refused(with(storage("../data.pkl", 4)));
}

TEST(Torch, NamesTensorsOfUnsupportedTypes) {
  const std::string complex = tensor(storage("0", 2, "ComplexFloatStorage"), 0, {2}, {1});
  EXPECT_THAT(refused(archive(dict(item("w", complex))), ErrorCode::kUnsupported),
              AllOf(HasSubstr("tensor \"w\""), HasSubstr("ComplexFloatStorage")));
}

TEST(Torch, RefusesBoolsThatAreNeitherZeroNorOne) {
  const std::string bools = tensor(storage("0", 4, "BoolStorage"), 0, {4}, {1});
  EXPECT_EQ(parse(archive(dict(item("w", bools)), std::string("\1\0\1\0", 4))).size(), 1u);
  refused(archive(dict(item("w", bools)), std::string("\1\0\2\0", 4)));
}

TEST(Torch, ReadsTheOnlyNestedDictWithTensors) {
  const std::string inner = dict(item("w", tensor(storage("0", 4), 0, {4}, {1})));
  const std::string plain = item("epoch", integer(3)) + item("note", text("x"));
  EXPECT_EQ(parse(archive(dict(item("state_dict", inner) + plain))).count("w"), 1u);
  EXPECT_EQ(parse(archive(dict(item("m", dict(item("n", inner)))))).count("w"), 1u);
  EXPECT_THAT(refused(archive(dict(item("model", inner) + item("ema", inner)))),
              AllOf(HasSubstr("\"model\""), HasSubstr("\"ema\"")));
  const std::string direct = item("v", tensor(storage("0", 4), 0, {4}, {1}));
  refused(archive(dict(direct + item("model", inner))));
}

TEST(Torch, RefusesWhatHoldsNoNamedTensors) {
  EXPECT_THAT(refused(archive("}")), HasSubstr("holds no tensors"));
  EXPECT_THAT(refused(archive(tensor(storage("0", 4), 0, {4}, {1}))), HasSubstr("without a name"));
  refused(archive("]"));
  refused(archive("N"));
  const std::string one = tensor(storage("0", 4), 0, {4}, {1});
  EXPECT_THAT(refused(archive(dict(item("w", one) + item("w", one)))), HasSubstr("twice"));
  refused(archive("}" + integer(1) + one + "s"));
}

TEST(Torch, RefusesGlobalsOutsideTheList) {
  for (const char* global : {"os\nsystem", "builtins\neval", "torch\nload", "torch.hub\nload",
                             "torch._utils\n_rebuild_wrapper_subclass", "torch\nStorage",
                             "torch.storage\n_load_from_bytes", "numpy\nndarray"}) {
    EXPECT_THAT(refused(archive("c" + std::string(global) + "\n)R")), HasSubstr("refused to load"));
  }
}

TEST(Torch, SharedListsDoNotMultiplyTheWork) {
  // 2000 lists, each holding the next one 2000 times over.
  std::string value = "]\x94";
  for (int level = 0; level < 5; ++level) {
    value += "0](";
    for (int i = 0; i < 2000; ++i) {
      value += "j" + little(static_cast<uint32_t>(level));
    }
    value += "e\x94";
  }
  EXPECT_THAT(refused(archive("(" + value + "1}" + text("x") + "h\x05s")), HasSubstr("no tensors"));
}

TEST(Torch, RefusesArchivesTorchDoesNotWrite) {
  const std::string good = "\x80\x02" + dict(item("w", tensor(storage("0", 4), 0, {4}, {1}))) + ".";
  EXPECT_EQ(parse(zip_of({{"a/data.pkl", good}, {"a/data/0", kData}})).size(), 1u);
  EXPECT_EQ(parse(zip64_of({{"a/data.pkl", good}, {"a/data/0", kData}})).size(), 1u);
  EXPECT_THAT(
      refused(zip_of({{"a/data.pkl", good, 8}, {"a/data/0", kData}}), ErrorCode::kUnsupported),
      HasSubstr("\"a/data.pkl\" is compressed"));
  EXPECT_THAT(
      refused(zip_of({{"a/data.pkl", good}, {"a/data/0", kData, 0, 1}}), ErrorCode::kUnsupported),
      HasSubstr("\"a/data/0\" is encrypted"));
  EXPECT_THAT(refused(zip_of({{"a/data.pkl", good}, {"a/data.pkl", good}})), HasSubstr("twice"));
  refused(zip_of({{"a/data.pkl", good}, {"b/data.pkl", good}, {"a/data/0", kData}}));
  EXPECT_THAT(refused(zip_of({{"word/document.xml", "x", 8}})), HasSubstr("without data.pkl"));
  refused(zip_of({}));
  EXPECT_THAT(refused(zip_of({{"a/data.pkl", good}, {"a/constants.pkl", ""}, {"a/code", "", 8}}),
                      ErrorCode::kUnsupported),
              HasSubstr("TorchScript"));
  EXPECT_THAT(refused(zip_of({{"a/data.pkl", good}, {"a/byteorder", "big"}, {"a/data/0", kData}}),
                      ErrorCode::kUnsupported),
              HasSubstr("\"big\""));
}

TEST(Torch, RefusesOverlappingZipEntries) {
  std::string file = zip_of({{"a/data.pkl", "\x80\x02}."}, {"a/data/0", kData}});
  // The second central record is made to point at the first local header.
  const size_t second = file.rfind("PK\x01\x02");
  file.replace(second + 42, 4, little(uint32_t{0}));
  EXPECT_THAT(refused(file), HasSubstr("zip entr"));
}

// Whatever the byte, the answer is tensors or an Error.
TEST(Torch, SurvivesEveryChangedByte) {
  const std::string pickle =
      "\x80\x02" + dict(item("w", tensor(storage("0", 4), 0, {2, 2}, {1, 2}))) + ".";
  const std::vector<Entry> entries = {{"a/data.pkl", pickle}, {"a/data/0", kData}};
  int refusals = 0;
  for (const std::string& good : {zip_of(entries), zip64_of(entries)}) {
    for (size_t at = 0; at < good.size(); ++at) {
      for (const char value : {'\0', '\xff', '.', '\x7f'}) {
        std::string changed = good;
        changed[at] = value;
        try {
          parse(changed);
        } catch (const Error&) {
          ++refusals;
        }
      }
    }
  }
  EXPECT_GT(refusals, 1000);
}

TEST(Torch, SaysWhatIsNoTorchFile) {
  EXPECT_THAT(refused("hello"), HasSubstr("not a torch checkpoint"));
  refused("");
  EXPECT_THAT(refused("PK\x03\x04 and then nothing"), HasSubstr("end record"));
}

}  // namespace
}  // namespace perceiver::io
