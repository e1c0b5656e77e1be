#include "perceiver/tokens/text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "perceiver/base/error.h"

namespace perceiver::tokens {
namespace {

using ::testing::ElementsAre;

TEST(BatchText, PadsToTheLongestAndMarksIt) {
  const TextBatch batch = batch_text({{7, 8, 9}, {5}});
  EXPECT_EQ(batch.ids.shape(), (std::vector<int64_t>{2, 3}));
  EXPECT_THAT(std::vector<int64_t>(batch.ids.data<int64_t>(), batch.ids.data<int64_t>() + 6),
              ElementsAre(7, 8, 9, 5, 0, 0));
  EXPECT_THAT(std::vector<bool>(batch.mask.data<bool>(), batch.mask.data<bool>() + 6),
              ElementsAre(true, true, true, true, false, false));
}

TEST(BatchText, PadsToAGivenLengthWithAGivenId) {
  const TextBatch batch = batch_text({{}}, 2, 9);
  EXPECT_THAT(std::vector<int64_t>(batch.ids.data<int64_t>(), batch.ids.data<int64_t>() + 2),
              ElementsAre(9, 9));
  EXPECT_FALSE(batch.mask.data<bool>()[0]);
}

TEST(BatchText, RefusesNothingAndTooLong) {
  EXPECT_THROW(batch_text({}), Error);
  EXPECT_THROW(batch_text({{}}), Error);
  EXPECT_THROW(batch_text({{1, 2, 3}}, 2), Error);
}

}  // namespace
}  // namespace perceiver::tokens
