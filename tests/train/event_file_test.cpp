#include "train/event_file.h"

#include <cstring>

#include <gtest/gtest.h>

#include "train/crc32c.h"

namespace perceiver::train {
namespace {

// RFC 3720, appendix B.4.
TEST(Crc32c, IsCastagnolis) {
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8A9136AAu);
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62A8AB43u);
  EXPECT_EQ(crc32c("123456789"), 0xE3069283u);
  EXPECT_EQ(crc32c(""), 0u);
}

TEST(Crc32c, GoesOnWhereItStopped) {
  const std::string text = "thirty-one bytes of some length";
  for (size_t cut = 0; cut <= text.size(); ++cut) {
    EXPECT_EQ(crc32c(text.substr(cut), crc32c(text.substr(0, cut))), crc32c(text)) << cut;
  }
}

uint64_t length_at(const std::string& file, size_t at) {
  uint64_t length = 0;
  std::memcpy(&length, file.data() + at, sizeof length);
  return length;
}

// tests/train/tensorboard_test.py reads such a file with TensorBoard's own reader.
TEST(EventFile, IsFramedRecords) {
  const std::string file = event_file_start(1) + event_record({1.5, 7, {{"loss", 0.25}}}) +
                           event_record({2.5, 300, {{"loss", 0.125}, {"test/x", 1}}});
  size_t at = 0;
  int records = 0;
  while (at < file.size()) {
    at += 8 + 4 + length_at(file, at) + 4;
    ++records;
  }
  EXPECT_EQ(at, file.size());
  EXPECT_EQ(records, 3);
  EXPECT_NE(file.find("brain.Event:2"), std::string::npos);
  EXPECT_NE(file.find("test/x"), std::string::npos);
}

}  // namespace
}  // namespace perceiver::train
