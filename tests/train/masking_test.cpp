#include "train/data/masking.h"

#include <numeric>
#include <string>

#include <gtest/gtest.h>

namespace perceiver::train {
namespace {

std::string long_text() {
  std::string text;
  for (int i = 0; i < 4000; ++i) {
    text += std::string(1 + static_cast<size_t>(i % 7), static_cast<char>('a' + i % 26));
    text += i % 9 == 0 ? '\n' : ' ';
  }
  return text;
}

double share(const std::vector<uint8_t>& hidden) {
  return std::accumulate(hidden.begin(), hidden.end(), 0.0) / static_cast<double>(hidden.size());
}

TEST(Masking, WordsAreHiddenWholeAndNeverWhitespace) {
  const std::string text = long_text();
  Random random{1};
  const auto hidden = choose_masked(MaskKind::kWords, MaskingSpec{}, text, random);
  int words = 0;
  int hidden_words = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool space = text[i] == ' ' || text[i] == '\n';
    if (space) {
      ASSERT_EQ(hidden[i], 0) << i;
    } else if (i > 0 && text[i - 1] != ' ' && text[i - 1] != '\n') {
      ASSERT_EQ(hidden[i], hidden[i - 1]) << "word cut at " << i;
    } else {
      ++words;
      hidden_words += hidden[i];
    }
  }
  EXPECT_NEAR(static_cast<double>(hidden_words) / words, 0.15, 0.02);
}

TEST(Masking, BytesAndSpansHideTheAskedShare) {
  const std::string text = long_text();
  MaskingSpec spec;
  spec.rate = 0.3;
  spec.span_length = 5;
  Random random{2};
  EXPECT_NEAR(share(choose_masked(MaskKind::kBytes, spec, text, random)), 0.3, 0.02);
  EXPECT_NEAR(share(choose_masked(MaskKind::kSpans, spec, text, random)), 0.3, 0.03);
}

TEST(Masking, SpansHaveTheAskedMeanLength) {
  const std::string text(50000, 'x');
  MaskingSpec spec;
  spec.span_length = 4;
  Random random{3};
  const auto hidden = choose_masked(MaskKind::kSpans, spec, text, random);
  int runs = 0;
  for (size_t i = 0; i < hidden.size(); ++i) {
    runs += hidden[i] != 0 && (i == 0 || hidden[i - 1] == 0);
  }
  EXPECT_NEAR(share(hidden) * static_cast<double>(hidden.size()) / runs, 4, 0.3);
}

TEST(Masking, RateOneHidesEveryByte) {
  MaskingSpec spec;
  spec.rate = 1;
  spec.span_length = 3;
  Random random{4};
  EXPECT_EQ(choose_masked(MaskKind::kBytes, spec, "abc", random), std::vector<uint8_t>(3, 1));
  EXPECT_EQ(choose_masked(MaskKind::kWords, spec, "a c", random), (std::vector<uint8_t>{1, 0, 1}));
  EXPECT_EQ(choose_masked(MaskKind::kSpans, spec, "", random), std::vector<uint8_t>{});
}

TEST(Masking, SameStreamSameMask) {
  Random first{5, 6};
  Random second{5, 6};
  Random other{5, 7};
  const std::string text = long_text();
  const auto masked = choose_masked(MaskKind::kBytes, MaskingSpec{}, text, first);
  EXPECT_EQ(masked, choose_masked(MaskKind::kBytes, MaskingSpec{}, text, second));
  EXPECT_NE(masked, choose_masked(MaskKind::kBytes, MaskingSpec{}, text, other));
}

// tools/baselines/trigram.py draws the same numbers; these values come from it.
TEST(Masking, RandomEqualsTheBaselinesRandom) {
  Random random{5, 0, 3};
  EXPECT_EQ(random.next(), 5971722771701819852u);
  EXPECT_DOUBLE_EQ(random.uniform(), 0.082087962785341473);
}

TEST(Masking, KindsAreDrawnByWeight) {
  MaskingSpec spec;
  spec.byte_weight = 3;
  spec.word_weight = 0;
  spec.span_weight = 1;
  Random random{6};
  int bytes = 0;
  for (int i = 0; i < 4000; ++i) {
    const MaskKind kind = draw_mask_kind(spec, random);
    ASSERT_NE(kind, MaskKind::kWords);
    bytes += kind == MaskKind::kBytes;
  }
  EXPECT_NEAR(bytes, 3000, 120);
}

}  // namespace
}  // namespace perceiver::train
