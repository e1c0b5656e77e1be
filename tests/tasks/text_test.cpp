#include "perceiver/tasks/text.h"

#include <algorithm>
#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "fake_engine.h"
#include "perceiver/base/error.h"
#include "perceiver/spec/presets.h"

namespace perceiver::tasks {
namespace {

using test::FakeEngine;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int64_t kVocabulary = 262;

// Answers every asked row with the byte of `text` at that row, special tokens first if there are
// any.
FakeEngine reciter(const ModelSpec& spec, const std::string& text, int64_t first) {
  return FakeEngine(spec, [=](const ModelInputs&, const OutputRequest& request) {
    const auto& rows = request.points.at(spec.outputs[0].name);
    const auto count = static_cast<int64_t>(rows.size());
    Array logits = Array::zeros(DType::kF32, {1, count, kVocabulary});
    for (int64_t i = 0; i < count; ++i) {
      const auto at = static_cast<size_t>(rows[static_cast<size_t>(i)] - first);
      logits.mutable_data<float>()[i * kVocabulary + static_cast<unsigned char>(text.at(at)) + 6] =
          9;
    }
    return ArrayMap{{spec.outputs[0].name, logits}};
  });
}

Bundle language() {
  Bundle bundle;
  bundle.spec = preset("language-perceiver");
  bundle.path = "language";
  return bundle;
}

TEST(FillMask, FillsEachMaskedByteAndDecodesOnlyThoseRows) {
  const Bundle bundle = language();
  FakeEngine engine = reciter(bundle.spec, "to be or not", 1);
  const FilledText filled = fill_mask(bundle, engine, "to [MASK][MASK] or [MASK]ot");
  EXPECT_EQ(filled.filled, "to be or not");
  EXPECT_EQ(filled.given, "to [MASK][MASK] or [MASK]ot");
  EXPECT_THAT(engine.last_request.points.begin()->second, ElementsAre(4, 5, 10));
  ASSERT_EQ(filled.masks.size(), 3U);
  EXPECT_EQ(filled.masks[0].candidates.at(0).shown, "b");
  EXPECT_NEAR(filled.masks[0].candidates.at(0).probability, std::exp(9.0) / (std::exp(9.0) + 261),
              1e-6);
  // [CLS] t o [SEP]-less middle: the ids the model saw.
  EXPECT_EQ(engine.last_inputs.arrays.begin()->second.data<int64_t>()[0], 4);
}

TEST(FillMask, DeepMindsFormReadsTheBareText) {
  Bundle bundle = language();
  bundle.spec.compatibility.masked_rows = MaskedRows::kZero;
  FakeEngine engine = reciter(bundle.spec, "abc", 0);
  EXPECT_EQ(fill_mask(bundle, engine, "a[MASK]c").filled, "abc");
  EXPECT_EQ(engine.last_inputs.arrays.begin()->second.size(1), 3);
}

TEST(FillMask, ThePreprocessorDecidesAboutSpecialTokens) {
  Bundle bundle = language();
  bundle.preprocessor = Json{{"add_special_tokens", false}};
  EXPECT_FALSE(adds_special_tokens(bundle));
  bundle.preprocessor = Json{{"add_special_tokens", "no"}};
  EXPECT_THROW(adds_special_tokens(bundle), Error);
}

TEST(FillMask, OneByOneReadsAgainAfterEveryByte) {
  const Bundle bundle = language();
  FakeEngine engine = reciter(bundle.spec, "abcd", 1);
  FillMaskOptions options;
  options.one_by_one = true;
  int64_t reported = 0;
  options.progress = [&](const Progress& progress) { reported = progress.done; };
  const FilledText filled = fill_mask(bundle, engine, "[MASK]b[MASK][MASK]", options);
  EXPECT_EQ(filled.filled, "abcd");
  EXPECT_EQ(engine.encodes, 3);
  EXPECT_EQ(reported, 3);
  EXPECT_EQ(filled.masks.at(0).position, 1);
  EXPECT_EQ(filled.masks.at(2).position, 4);
}

TEST(FillMask, NeverFillsWithASpecialToken) {
  const Bundle bundle = language();
  FakeEngine engine(bundle.spec, [&](const ModelInputs&, const OutputRequest&) {
    Array logits = Array::zeros(DType::kF32, {1, 1, kVocabulary});
    logits.mutable_data<float>()[3] = 9;        // [MASK]
    logits.mutable_data<float>()['x' + 6] = 5;  // the best byte
    return ArrayMap{{bundle.spec.outputs[0].name, logits}};
  });
  const FilledText filled = fill_mask(bundle, engine, "[MASK]");
  EXPECT_EQ(filled.filled, "x");
  EXPECT_EQ(filled.masks[0].candidates[0].shown, "[MASK]");
}

TEST(FillMask, SaysWhatIsWrong) {
  const Bundle bundle = language();
  FakeEngine engine = reciter(bundle.spec, "", 0);
  EXPECT_THROW(fill_mask(bundle, engine, "no mask here"), Error);
  EXPECT_THROW(fill_mask(bundle, engine, std::string(3000, 'a') + "[MASK]"), Error);
  Bundle vision;
  vision.spec = preset("vision-perceiver-conv");
  EXPECT_THROW(fill_mask(vision, engine, "[MASK]"), Error);
}

TEST(FillMask, RefusesAnswersThatAreNoNumbers) {
  const Bundle bundle = language();
  FakeEngine engine(bundle.spec, [&](const ModelInputs&, const OutputRequest&) {
    return ArrayMap{{bundle.spec.outputs[0].name,
                     Array::of<float>({1, 1, kVocabulary}, std::vector<float>(kVocabulary, NAN))}};
  });
  EXPECT_THROW(fill_mask(bundle, engine, "[MASK]"), Error);
}

TEST(Hide, MasksEveryByteOfEveryOccurrence) {
  EXPECT_EQ(hide("ab-ab", "ab"), "[MASK][MASK]-[MASK][MASK]");
  EXPECT_EQ(hide("né", "é"), "n[MASK][MASK]");
  EXPECT_THROW(hide("ab", "c"), Error);
  EXPECT_THROW(hide("ab", ""), Error);
}

TEST(WidenMasks, RepeatsEachMask) {
  EXPECT_EQ(widen_masks("a[MASK]b", 3), "a[MASK][MASK][MASK]b");
  EXPECT_EQ(widen_masks("a[MASK]", 1), "a[MASK]");
}

TEST(ClassifyText, RanksTheLabels) {
  Bundle bundle;
  bundle.spec = preset("language-perceiver");
  bundle.spec.outputs[0].single_row = true;
  bundle.spec.labels = {"bad", "good"};
  FakeEngine engine(bundle.spec, [&](const ModelInputs&, const OutputRequest&) {
    return ArrayMap{{bundle.spec.outputs[0].name, Array::of<float>({1, 2}, {0.0F, 1.0F})}};
  });
  const std::vector<Ranked> ranked = classify_text(bundle, engine, "fine", 2);
  EXPECT_EQ(ranked.at(0).label, "good");
  EXPECT_NEAR(ranked.at(0).probability, 0.7310585786, 1e-6);
  EXPECT_EQ(ranked.at(1).index, 0);
}

TEST(RankClasses, BreaksTiesByIndexAndNamesUnnamedClasses) {
  const std::vector<float> logits{1, 3, 3, 2};
  const std::vector<Ranked> ranked = rank_classes(logits.data(), 4, 3, {"zero"});
  ASSERT_EQ(ranked.size(), 3U);
  EXPECT_EQ(ranked[0].index, 1);
  EXPECT_EQ(ranked[1].index, 2);
  EXPECT_EQ(ranked[2].label, "class 3");
}

}  // namespace
}  // namespace perceiver::tasks
