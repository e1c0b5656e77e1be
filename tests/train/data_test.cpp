#include <numeric>

#include <gtest/gtest.h>

#include "perceiver/base/error.h"
#include "train/data/augment.h"
#include "train/data/idx.h"
#include "train/data/text_corpus.h"
#include "train/losses.h"
#include "train/tiny.h"

namespace perceiver::train {
namespace {

using test::idx;
using test::TemporaryFolder;
using test::write_bytes;

// gzip of the IDX file [2, 3] = 1 2 3 250 251 252.
constexpr unsigned char kPacked[] = {0x1f, 0x8b, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02,
                                     0xff, 0x63, 0x60, 0xe0, 0x60, 0x62, 0x60, 0x60, 0x00,
                                     0x61, 0x66, 0x46, 0x26, 0xe6, 0x5f, 0xbf, 0xff, 0x00,
                                     0x00, 0xa3, 0x1d, 0x33, 0x8d, 0x12, 0x00, 0x00, 0x00};

std::string packed() {
  return std::string(reinterpret_cast<const char*>(kPacked), sizeof kPacked);
}

void expect_refused(const std::string& bytes, const std::string& message) {
  const TemporaryFolder folder;
  write_bytes(folder / "file", bytes);
  try {
    read_idx(folder / "file");
    FAIL() << "accepted; wanted: " << message;
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find(message), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("file"), std::string::npos);
  }
}

TEST(Idx, ReadsPlainAndGzip) {
  const TemporaryFolder folder;
  write_bytes(folder / "plain", idx({2, 3}, "\x01\x02\x03\xfa\xfb\xfc"));
  write_bytes(folder / "packed.gz", packed());
  for (const char* name : {"plain", "packed.gz"}) {
    const Array array = read_idx(folder / name);
    EXPECT_EQ(array.shape(), (std::vector<int64_t>{2, 3}));
    EXPECT_EQ(array.data<uint8_t>()[2], 3);
    EXPECT_EQ(array.data<uint8_t>()[5], 252);
  }
}

TEST(Idx, RefusesWhatTheHeaderContradicts) {
  expect_refused("", "not an IDX file");
  expect_refused("PNG", "not an IDX file");
  expect_refused(idx({2, 3}, "12345"), "IDX shape [2, 3] does not fit the 5 bytes that follow it");
  expect_refused(idx({2, 3}, "1234567"), "the 7 bytes");
  expect_refused(std::string("\0\0\x08\x02\0\0", 6), "is cut or impossible");
  expect_refused(std::string("\0\0\x0D\x01\0\0\0\1abcd", 12), "IDX type 13");
  expect_refused(idx({0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF}, "x"), "does not fit the 1 bytes");
  expect_refused(idx({0, 3}, ""), "does not fit the 0 bytes");
}

TEST(Idx, RefusesDamagedGzip) {
  expect_refused(packed().substr(0, 24), "the file ends early (gzip)");
  std::string damaged = packed();
  damaged[12] = '\x7f';
  expect_refused(damaged, "(gzip)");
  std::string wrong_sum = packed();
  wrong_sum[29] = '\0';
  expect_refused(wrong_sum, "the file is damaged (gzip)");
}

TEST(Idx, StopsAtTheLimitOfUnpackedBytes) {
  const TemporaryFolder folder;
  write_bytes(folder / "bomb.gz", packed());
  EXPECT_THROW(read_maybe_gzip(folder / "bomb.gz", 17), Error);
}

TEST(Augment, NothingAskedIsACopy) {
  const std::vector<uint8_t> in{0, 10, 200, 255};
  std::vector<float> out(4);
  Random random{1};
  augment({}, {2, 2, 1}, random, in.data(), out.data());
  EXPECT_EQ(out, (std::vector<float>{0, 10, 200, 255}));
}

TEST(Augment, KeepsTheWeightOfAPictureThatStaysInside) {
  std::vector<uint8_t> in(15 * 15, 0);
  for (int y = 6; y < 9; ++y) {
    for (int x = 6; x < 9; ++x) {
      in[static_cast<size_t>(y * 15 + x)] = 100;
    }
  }
  AugmentSpec spec;
  spec.shift = 3;
  spec.rotation = 30;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    std::vector<float> out(in.size());
    Random random{seed};
    augment(spec, {15, 15, 1}, random, in.data(), out.data());
    EXPECT_NEAR(std::accumulate(out.begin(), out.end(), 0.0), 900, 40) << seed;
  }
}

TEST(Augment, SameStreamSamePicture) {
  const std::vector<uint8_t> in{1, 2, 3, 4, 5, 6, 7, 8, 9};
  AugmentSpec spec;
  spec.shift = 1;
  std::vector<float> first(9);
  std::vector<float> second(9);
  Random one{4, 2};
  Random same{4, 2};
  augment(spec, {3, 3, 1}, one, in.data(), first.data());
  augment(spec, {3, 3, 1}, same, in.data(), second.data());
  EXPECT_EQ(first, second);
}

TEST(TextCorpus, CutsMarkersByteOrderMarkAndCarriageReturns) {
  const TemporaryFolder folder;
  write_bytes(folder / "book",
              "\xEF\xBB\xBFlicence\r\n*** START OF IT ***\r\nOne.\r\nTwo\r.\r\n*** END\r\nmore");
  EXPECT_EQ(read_text({folder / "book", "*** START", "*** END"}), "One.\nTwo\r.\n");
  EXPECT_EQ(read_text({folder / "book", "", "*** START"}), "licence\n");
  EXPECT_THROW(read_text({folder / "book", "*** BEGIN", ""}), Error);
}

TEST(TextCorpus, NeverDrawsFromTheHeldOutEnd) {
  const TemporaryFolder folder;
  write_bytes(folder / "a", std::string(800, 'a') + std::string(200, 'Z'));
  write_bytes(folder / "b", std::string(80, 'b') + std::string(20, 'Z'));
  TextDataSpec spec;
  spec.files = {{folder / "a", "", ""}, {folder / "b", "", ""}};
  spec.held_out = 0.2;
  const TextCorpus corpus(spec, 40);
  EXPECT_EQ(corpus.training_bytes(), 880);
  int from_b = 0;
  for (uint64_t i = 0; i < 2000; ++i) {
    Random random{i};
    const std::string_view text = corpus.draw(40, random);
    ASSERT_EQ(text.size(), 40U);
    ASSERT_EQ(text.find('Z'), std::string_view::npos);
    from_b += text[0] == 'b';
  }
  EXPECT_NEAR(from_b, 2000 * 80 / 880, 50);
  const auto held_out = corpus.held_out(15);
  EXPECT_EQ(held_out.size(), 13U + 1U);
  EXPECT_EQ(held_out.back(), std::string(15, 'Z'));
}

TEST(TextCorpus, BeginsAtTheStartOfAWord) {
  const TemporaryFolder folder;
  std::string text;
  for (int i = 0; i < 200; ++i) {
    text += "Word ";
  }
  write_bytes(folder / "a", text);
  TextDataSpec spec;
  spec.files = {{folder / "a", "", ""}};
  const TextCorpus corpus(spec, 20);
  for (uint64_t i = 0; i < 100; ++i) {
    Random random{i};
    EXPECT_EQ(corpus.draw(20, random).front(), 'W');
  }
}

TEST(TextCorpus, RefusesATextShorterThanAnExample) {
  const TemporaryFolder folder;
  write_bytes(folder / "a", "short");
  TextDataSpec spec;
  spec.files = {{folder / "a", "", ""}};
  EXPECT_THROW(TextCorpus(spec, 20), Error);
}

}  // namespace
}  // namespace perceiver::train
