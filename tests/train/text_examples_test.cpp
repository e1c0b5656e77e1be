#include "train/data/text_examples.h"

#include <algorithm>

#include <gtest/gtest.h>

#include "perceiver/base/error.h"
#include "train/data/labelled_text.h"
#include "train/data/text_corpus.h"
#include "train/tiny.h"

namespace perceiver::train {
namespace {

class TextExamples : public ::testing::Test {
 protected:
  std::filesystem::path file(const std::string& bytes) {
    test::write_bytes(folder_ / "data", bytes);
    return folder_ / "data";
  }

  template <typename Read>
  void expect_refused(const Read& read, const std::string& message) {
    try {
      read();
      FAIL() << "read; wanted: " << message;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(message), std::string::npos) << error.what();
    }
  }

  TextDataSpec numbered_words() {
    std::string text;
    for (int i = 0; i < 400; ++i) {
      text += "w" + std::to_string(i % 97) + " is here" + (i % 8 == 0 ? "\n" : " ");
    }
    TextDataSpec spec;
    spec.files.push_back({file(text), "", "", 0});
    spec.held_out = 0.25;
    return spec;
  }

  // Three files of one letter each.
  TextDataSpec letters() {
    TextDataSpec spec;
    for (const char letter : {'a', 'b', 'c'}) {
      const std::filesystem::path path = folder_ / std::string(1, letter);
      test::write_bytes(path, std::string(600, letter));
      spec.files.push_back({path, "", "", 0});
    }
    spec.held_out = 0.25;
    return spec;
  }

  test::TemporaryFolder folder_;
};

TableSource pairs() {
  TableSource source;
  source.text = {{"a", 0}, {"b", 0}};
  source.label = {"is", 0};
  source.labels = {"no", "yes"};
  return source;
}

TEST_F(TextExamples, PairsAndClassesByColumnNames) {
  BadRows bad;
  const auto examples =
      read_text_examples(file("id\tis\ta\tb\n1\tyes\tone\tuno\n2\tno\ttwo\ttre\n"), pairs(), bad);
  ASSERT_EQ(examples.size(), 2U);
  EXPECT_EQ(examples[0].first, "one");
  EXPECT_EQ(examples[0].second, "uno");
  EXPECT_EQ(examples[0].label, 1);
  EXPECT_EQ(examples[1].label, 0);
}

TEST_F(TextExamples, ValuesOfARegression) {
  TableSource source;
  source.format = {.separator = ',', .header = false, .quoted = true};
  source.text = {{"", 1}};
  source.label = {"", 0};
  BadRows bad;
  const auto examples = read_text_examples(file("2.5,\"a, b\"\n-1e-1,c\n"), source, bad);
  EXPECT_EQ(examples[0].first, "a, b");
  EXPECT_EQ(examples[0].value, 2.5);
  EXPECT_EQ(examples[1].value, -0.1);
  expect_refused([&] { read_text_examples(file("nan,x\n"), source, bad); },
                 "line 1: the label 'nan' is no finite number");
}

TEST_F(TextExamples, BadRowsAreNamedOrLeftOutAndCounted) {
  const auto path = file("is\ta\tb\nyes\tone\tuno\nmaybe\tone\tuno\nyes\tone\nno\t\tx\nno\tq\tr\n");
  BadRows none;
  expect_refused([&] { read_text_examples(path, pairs(), none); },
                 "line 3: the label 'maybe' is none of the 2 in `labels`");
  BadRows one{.limit = 1, .skipped = 0};
  expect_refused([&] { read_text_examples(path, pairs(), one); },
                 "line 4 has 2 fields, the first row has 3");
  BadRows two{.limit = 2, .skipped = 0};
  expect_refused([&] { read_text_examples(path, pairs(), two); }, "line 5: a text is empty");
  BadRows three{.limit = 3, .skipped = 0};
  EXPECT_EQ(read_text_examples(path, pairs(), three).size(), 2U);
  EXPECT_EQ(three.skipped, 3);
  expect_refused([&] { read_text_examples(file("is\ta\tb\n"), pairs(), none); },
                 "holds no examples");
}

TEST_F(TextExamples, WordOverlapSaysHowManyWordsAreTheSame) {
  GeneratedTexts spec;
  spec.text = numbered_words();
  spec.train_examples = 60;
  spec.test_examples = 40;
  const auto train = generate_text_examples(spec, read_corpora(spec, 80), false, 1, 80);
  const auto test = generate_text_examples(spec, read_corpora(spec, 80), true, 1, 80);
  ASSERT_EQ(train.size(), 60U);
  ASSERT_EQ(test.size(), 40U);
  double least = 1;
  double most = 0;
  for (const TextExample& example : train) {
    EXPECT_LE(example.first.size(), 40U);
    EXPECT_LE(example.second.size(), 40U);
    EXPECT_EQ(example.value == 1, example.first == example.second) << example.first;
    least = std::min(least, example.value);
    most = std::max(most, example.value);
  }
  EXPECT_LT(least, 0.4);
  EXPECT_GT(most, 0.8);
  EXPECT_EQ(test[3].first,
            generate_text_examples(spec, read_corpora(spec, 80), true, 2, 80)[3].first);
  EXPECT_NE(train[3].first,
            generate_text_examples(spec, read_corpora(spec, 80), false, 2, 80)[3].first);
}

TEST_F(TextExamples, VowelShareCountsLetters) {
  GeneratedTexts spec;
  spec.question = TextQuestion::kVowelShare;
  spec.text = numbered_words();
  spec.train_examples = 5;
  for (const TextExample& example :
       generate_text_examples(spec, read_corpora(spec, 60), false, 1, 60)) {
    double letters = 0;
    double vowels = 0;
    for (const char c : example.first) {
      letters += std::isalpha(static_cast<unsigned char>(c)) != 0 ? 1 : 0;
      vowels += c == 'e' || c == 'i' ? 1 : 0;  // the corpus has no other
    }
    EXPECT_DOUBLE_EQ(example.value, vowels / letters) << example.first;
  }
}

TEST_F(TextExamples, SourceIsTheFileOfTheText) {
  GeneratedTexts spec;
  spec.question = TextQuestion::kSource;
  spec.text = letters();
  spec.train_examples = spec.test_examples = 60;
  for (const bool held_out : {false, true}) {
    std::vector<int64_t> counts(3, 0);
    for (const TextExample& example :
         generate_text_examples(spec, read_corpora(spec, 40), held_out, 1, 40)) {
      EXPECT_EQ(example.first, std::string(40, "abc"[example.label]));
      EXPECT_EQ(example.second, "");
      ++counts.at(static_cast<size_t>(example.label));
    }
    EXPECT_GT(*std::min_element(counts.begin(), counts.end()), 10);
  }
}

TEST_F(TextExamples, SameSourceComparesTheFilesOfTwoTexts) {
  GeneratedTexts spec;
  spec.question = TextQuestion::kSameSource;
  spec.text = letters();
  spec.train_examples = spec.test_examples = 60;
  for (const bool held_out : {false, true}) {
    int64_t same = 0;
    for (const TextExample& example :
         generate_text_examples(spec, read_corpora(spec, 80), held_out, 1, 80)) {
      EXPECT_EQ(example.first.size(), 40U);
      EXPECT_EQ(example.label == 1, example.first == example.second) << example.first;
      same += example.label;
    }
    EXPECT_GT(same, 20);
    EXPECT_LT(same, 40);
  }
}

TEST_F(TextExamples, FilesWithWeightsAreDrawnByThem) {
  TextDataSpec spec;
  test::write_bytes(folder_ / "long", std::string(9000, 'l'));
  test::write_bytes(folder_ / "short", std::string(1000, 's'));
  spec.files = {{folder_ / "long", "", "", 0.3}, {folder_ / "short", "", "", 0.7}};
  const TextCorpus weighted(spec, 10);
  int from_short = 0;
  for (uint64_t i = 0; i < 1000; ++i) {
    Random random{1, i};
    from_short += weighted.draw(10, random)[0] == 's' ? 1 : 0;
  }
  EXPECT_NEAR(from_short, 700, 45);
}

TEST_F(TextExamples, TokensOfAConllFileBecomeLabelledBytes) {
  const TokenFileFormat format{{"O", "NAME"}, false, 12};
  const auto path =
      file("\xEF\xBB\xBFI\tO\r\nam\tO\r\nAnn\tNAME\r\n\r\n\r\nIndeed\tO\nLondon\tNAME\n");
  BadRows bad;
  const auto texts = read_labelled_text(path, format, bad);
  ASSERT_EQ(texts.size(), 3U);  // the second sentence is longer than 12 bytes
  EXPECT_EQ(texts[0].text, "I am Ann");
  EXPECT_EQ(texts[0].labels, (std::vector<int64_t>{0, -1, 0, 0, -1, 1, 1, 1}));
  EXPECT_EQ(texts[1].text, "Indeed");
  EXPECT_EQ(texts[2].text, "London");
  const auto first = read_labelled_text(path, {{"O", "NAME"}, true, 12}, bad);
  EXPECT_EQ(first[0].labels, (std::vector<int64_t>{0, -1, 0, -1, -1, 1, -1, -1}));
}

TEST_F(TextExamples, BadSentencesAreNamedOrLeftOutWhole) {
  const TokenFileFormat format{{"O", "NAME"}, false, 5};
  const auto path = file("I\tO\nam\tX\nAnn\tO\n\nyes\tO\n\nno label\n\nIndeed\tO\n");
  BadRows none;
  expect_refused([&] { read_labelled_text(path, format, none); },
                 "line 2: the label 'X' is none of the 2 in `labels`");
  BadRows one{.limit = 1, .skipped = 0};
  expect_refused([&] { read_labelled_text(path, format, one); },
                 "line 7: must be a token, a tab and its label, is 'no label'");
  BadRows two{.limit = 2, .skipped = 0};
  expect_refused([&] { read_labelled_text(path, format, two); },
                 "line 9: a token of 6 bytes, the model reads 5");
  BadRows three{.limit = 3, .skipped = 0};
  const auto texts = read_labelled_text(path, format, three);
  ASSERT_EQ(texts.size(), 1U);
  EXPECT_EQ(texts[0].text, "yes");
}

TEST_F(TextExamples, QuotedRunsAreInside) {
  int quoted = 0;
  for (uint64_t seed = 0; seed < 30; ++seed) {
    Random random{seed};
    const LabelledText labelled =
        label_text(LabelQuestion::kQuoted, "one \"two\"  three\nfour five six seven", 30, random);
    ASSERT_EQ(labelled.text.size(), labelled.labels.size());
    EXPECT_LE(labelled.text.size(), 30U);
    int64_t inside = 0;
    for (size_t i = 0; i < labelled.text.size(); ++i) {
      if (labelled.text[i] == '"') {
        inside = 1 - inside;
        EXPECT_EQ(labelled.labels[i], -1);
        ++quoted;
      } else {
        EXPECT_EQ(labelled.labels[i], inside) << labelled.text;
      }
    }
    EXPECT_EQ(inside, 0) << labelled.text;
  }
  EXPECT_GT(quoted, 30);
}

TEST_F(TextExamples, RepeatedWordsAreKnownWhateverTheirCase) {
  Random random{1};
  const LabelledText labelled = label_text(LabelQuestion::kRepeated, "The the, then", 30, random);
  EXPECT_EQ(labelled.text, "The the, then");
  EXPECT_EQ(labelled.labels, (std::vector<int64_t>{0, 0, 0, -1, 1, 1, 1, -1, -1, 0, 0, 0, 0}));
}

}  // namespace
}  // namespace perceiver::train
