#include <algorithm>

#include <gtest/gtest.h>

#include <ATen/core/grad_mode.h>

#include "runtime/source_fixture.h"
#include "runtime/token_source.h"
#include "support/compare.h"

// Every kind of query against the rows the nn engine's decoder is given.

namespace perceiver::runtime {
namespace {

using fixture::all_rows;
using fixture::Both;
using fixture::Numbers;
using fixture::picture;
using fixture::thrown_by;
using perceiver::test::difference;
using perceiver::test::max_abs;

constexpr double kTolerance = 2e-6;

struct Case {
  std::string name;
  ModelSpec spec;
  ModelInputs inputs;
  OutputRequest request;
  bool factors = false;   ///< when every row is asked for
  bool constant = false;  ///< likewise
  int64_t rows = 0;
};

void PrintTo(const Case& example, std::ostream* out) {
  *out << example.name;
}

/// A picture of 4 x 5 pixels that is read, and one output.
Case with_picture(const std::string& name, OutputSpec output) {
  Case example;
  example.name = name;
  example.spec = fixture::spec_around();
  InputSpec input = picture({4, 5}, 3);
  input.stem = Stem::kLinear;
  input.out_channels = 6;
  input.position.kind = PositionKind::kFourier;
  input.position.num_bands = 2;
  example.spec.inputs = {input};
  output.name = "answer";
  example.rows = element_count(output.index_dims);
  example.spec.outputs = {std::move(output)};
  example.inputs.arrays["picture"] = Numbers(4).floats({2, 4, 5, 3});
  return example;
}

OutputSpec query(QueryKind kind, const std::vector<int64_t>& grid) {
  OutputSpec output;
  output.query = kind;
  output.index_dims = grid;
  if (kind == QueryKind::kLearned || kind == QueryKind::kCaller) {
    output.channels = 7;
  }
  if (kind == QueryKind::kFourier || kind == QueryKind::kCoordinates) {
    output.position.kind = PositionKind::kFourier;
    output.position.num_bands = 3;
  }
  return output;
}

std::vector<Case> positional_cases() {
  std::vector<Case> cases;
  const auto add = [&](const std::string& name, const OutputSpec& output, bool factors,
                       bool constant) {
    cases.push_back(with_picture(name, output));
    cases.back().factors = factors;
    cases.back().constant = constant;
  };
  OutputSpec learned = query(QueryKind::kLearned, {4, 5});
  add("learned", learned, false, true);
  learned.concat_input = true;
  learned.of_input = "picture";
  add("learned_beside_content", learned, false, false);
  learned.position.num_extra_linears = 2;
  learned.position.project_channels = 4;
  add("learned_with_linears_beside_content", learned, false, false);
  OutputSpec fourier = query(QueryKind::kFourier, {4, 5});
  add("fourier", fourier, true, true);
  fourier.whole_grid = AxisGrid::kHalfOpen;
  fourier.position.max_resolution = {9, 7};
  add("fourier_half_open", fourier, true, true);
  fourier.concat_input = true;
  fourier.of_input = "picture";
  fourier.position.sine_only = true;
  add("fourier_beside_content", fourier, true, false);
  fourier.whole_grid = AxisGrid::kInclusive;
  fourier.concat_input = false;
  fourier.of_input = "";
  fourier.position.project_channels = 5;
  add("fourier_projected", fourier, false, true);
  return cases;
}

std::vector<Case> input_cases() {
  std::vector<Case> cases;
  OutputSpec output = query(QueryKind::kInputTokens, {4, 5});
  output.of_input = "picture";
  cases.push_back(with_picture("input_tokens", output));
  cases.back().factors = true;
  cases.push_back(with_picture("padded_input_tokens", output));
  cases.back().factors = true;
  cases.back().spec.pad_inputs = true;
  cases.back().spec.decoder.pad_queries = true;
  cases.push_back(with_picture("projected_input_tokens", output));
  cases.back().spec.inputs[0].position.project_channels = 6;
  cases.back().spec.inputs[0].position.use = PositionUse::kAdd;
  cases.push_back(with_picture("input_tokens_partly_replaced", output));
  cases.back().spec.inputs[0].mask_probability = 0.5;
  cases.back().inputs.replaced["picture"] = Numbers(2).flags({2, 20});
  output.query = QueryKind::kInputContent;
  cases.push_back(with_picture("input_content", output));
  return cases;
}

std::vector<Case> given_cases() {
  std::vector<Case> cases;
  Numbers numbers(11);
  OutputSpec output = query(QueryKind::kCaller, {});
  cases.push_back(with_picture("caller", output));
  cases.back().request.queries["answer"] = numbers.floats({2, 9, 7});
  cases.back().rows = 9;
  cases.push_back(with_picture("caller_in_double", output));
  cases.back().request.queries["answer"] = numbers.floats({2, 9, 7}).to(DType::kF64);
  cases.back().rows = 9;
  output = query(QueryKind::kCoordinates, {8, 6});
  cases.push_back(with_picture("coordinates", output));
  cases.back().request.queries["answer"] = numbers.floats({2, 9, 2});
  cases.back().rows = 9;
  output.position.max_resolution = {5, 12};
  output.position.num_extra_linears = 1;
  cases.push_back(with_picture("coordinates_with_linears", output));
  cases.back().request.queries["answer"] = numbers.floats({2, 9, 2}).to(DType::kF64);
  cases.back().rows = 9;
  return cases;
}

/// A text whose outputs are as long as it is.
Case text_case() {
  Case example;
  example.name = "text";
  example.spec = fixture::spec_around();
  InputSpec text;
  text.name = "text";
  text.kind = InputKind::kText;
  text.index_dims = {9};
  text.vocab_size = 13;
  text.embedding_channels = 6;
  text.position.kind = PositionKind::kTrainable;
  text.position.num_channels = 6;
  text.position.use = PositionUse::kAdd;
  example.spec.inputs = {text};
  OutputSpec output = query(QueryKind::kLearned, {9});
  output.name = "answer";
  output.head = HeadKind::kTiedEmbedding;
  output.of_input = "text";
  example.spec.outputs = {output};
  example.spec.decoder.output_channels = 6;
  example.inputs.arrays["text"] = Numbers(3).ids({2, 6}, 13);
  example.rows = 6;
  return example;
}

std::vector<Case> all_cases() {
  std::vector<Case> cases = positional_cases();
  for (const auto& more : {input_cases(), given_cases(), std::vector<Case>{text_case()}}) {
    cases.insert(cases.end(), more.begin(), more.end());
  }
  const size_t plain = cases.size();
  for (size_t i = 0; i < plain; ++i) {
    Case padded = cases[i];
    if (!padded.spec.decoder.pad_queries) {
      padded.name += "_padded";
      padded.spec.decoder.pad_queries = true;
      cases.push_back(padded);
    }
  }
  return cases;
}

/// The rows the nn engine's decoder is given.
Array reference_queries(Both& both, const Case& example, const OutputRequest& request) {
  const at::NoGradGuard no_grad;
  const nn::TokenArray tokens = both.model.preprocess(Both::tensors(example.inputs));
  nn::TensorTrace trace;
  trace.only = {"decoder_queries"};
  nn::TensorRequest asked;
  asked.points = request.points;
  asked.queries = Both::tensor_map(request.queries);
  asked.query_masks = Both::tensor_map(request.query_masks);
  both.model.decode(both.model.encode(tokens), tokens, asked, &trace);
  return nn::to_array(trace.tensors.at("decoder_queries"));
}

class QueriesTest : public testing::TestWithParam<Case> {
 protected:
  QueriesTest() : both_(GetParam().spec), inputs_(both_.sources(GetParam().inputs)) {}

  std::unique_ptr<TokenSource> make(const OutputRequest& request) {
    return make_queries(both_.spec, both_.shape, both_.weights, both_.spec.outputs[0], inputs_,
                        request, 2, &cache_);
  }

  void expect_rows(TokenSource& queries, const Array& wanted) {
    for (const int64_t block : {int64_t{1}, int64_t{3}, queries.count()}) {
      const auto got = difference(all_rows(queries, block), wanted);
      EXPECT_LE(got.max_abs, kTolerance * (1 + max_abs(wanted))) << block << ": " << got.text;
    }
  }

  Both both_;
  SourceCache cache_;
  std::vector<std::unique_ptr<TokenSource>> inputs_;
};

TEST_P(QueriesTest, AreTheRowsOfTheReferenceEngine) {
  const Array wanted = reference_queries(both_, GetParam(), GetParam().request);
  for (int round = 0; round < 2; ++round) {  // the second reads from the cache
    const auto queries = make(GetParam().request);
    EXPECT_EQ(queries->name(), "answer");
    EXPECT_EQ(queries->count(), GetParam().rows);
    EXPECT_EQ(queries->factors(), GetParam().factors);
    EXPECT_EQ(queries->is_constant(), GetParam().constant);
    EXPECT_EQ(queries->mask(1), nullptr);
    EXPECT_EQ(element_count(queries->grid()), queries->count());
    expect_rows(*queries, wanted);
  }
}

TEST_P(QueriesTest, AskedPointsComeInAnyOrderAndRepeated) {
  OutputRequest request = GetParam().request;
  request.points["answer"] = {5, 1, 2, 3, 0, 0, 4};
  const auto queries = make(request);
  EXPECT_EQ(queries->count(), 7);
  EXPECT_EQ(queries->grid(), std::vector<int64_t>{7});
  EXPECT_FALSE(queries->factors());
  EXPECT_FALSE(queries->is_constant());
  expect_rows(*queries, reference_queries(both_, GetParam(), request));
  request.points["answer"].clear();  // as many as there are, but backwards
  for (int64_t row = GetParam().rows; row-- > 0;) {
    request.points["answer"].push_back(row);
  }
  EXPECT_FALSE(make(request)->factors());
  EXPECT_FALSE(make(request)->is_constant());
}

TEST_P(QueriesTest, PointsBeyondTheGridAreRefusedInTheSameWords) {
  for (const int64_t point : {int64_t{-1}, int64_t{1000}}) {
    OutputRequest request = GetParam().request;
    request.points["answer"] = {0, point};
    const std::string wanted = thrown_by([&] { reference_queries(both_, GetParam(), request); });
    EXPECT_NE(wanted, "nothing");
    EXPECT_EQ(thrown_by([&] { make(request); }), wanted);
  }
}

class FactoringQueriesTest : public QueriesTest {};

TEST_P(FactoringQueriesTest, NeighboursFactorFromWhereTheyLie) {
  OutputRequest request = GetParam().request;
  request.points["answer"] = {2, 3, 4};
  const auto queries = make(request);
  ASSERT_TRUE(queries->factors());
  EXPECT_EQ(queries->first_row(), 2);
  const Array dense = all_rows(*queries, 3), positions = queries->positions().dense();
  const int64_t c = queries->content_channels(), p = queries->position_channels();
  for (int64_t row = 0; row < 3; ++row) {
    const float* whole = dense.data<float>() + row * queries->channels();
    EXPECT_TRUE(std::equal(whole + c, whole + c + p, positions.data<float>() + (2 + row) * p));
  }
}

/// What a source says of its parts must add up to its dense rows.
TEST_P(FactoringQueriesTest, PartsMakeTheDenseRows) {
  const auto queries = make(GetParam().request);
  ASSERT_TRUE(queries->factors());
  const Array dense = all_rows(*queries, 6);
  const Array content = all_rows(*queries, 6, true);
  const Array positions = queries->positions().dense();
  const int64_t c = queries->content_channels(), p = queries->position_channels();
  ASSERT_EQ(positions.shape(), (std::vector<int64_t>{queries->count(), p}));
  for (int64_t row = 0; row < 2 * queries->count(); ++row) {
    const float* whole = dense.data<float>() + row * queries->channels();
    EXPECT_TRUE(std::equal(whole, whole + c, content.data<float>() + row * c));
    EXPECT_TRUE(
        std::equal(whole + c, whole + c + p, positions.data<float>() + row % queries->count() * p));
    EXPECT_TRUE(std::equal(whole + c + p, whole + queries->channels(), queries->constant()));
  }
}

std::vector<Case> factoring_cases() {
  std::vector<Case> cases = all_cases();
  std::erase_if(cases, [](const Case& example) { return !example.factors; });
  return cases;
}

INSTANTIATE_TEST_SUITE_P(Kinds, QueriesTest, testing::ValuesIn(all_cases()),
                         [](const auto& parameter) { return parameter.param.name; });
INSTANTIATE_TEST_SUITE_P(Kinds, FactoringQueriesTest, testing::ValuesIn(factoring_cases()),
                         [](const auto& parameter) { return parameter.param.name; });

TEST(QueryMasks, AreTheRequestsWhereTheDecoderUsesThem) {
  Case example = positional_cases()[0];
  OutputRequest request;
  request.query_masks["answer"] = Numbers(5).flags({2, 20});
  for (const bool used : {true, false}) {
    example.spec.compatibility.decoder_uses_query_mask = used;
    Both both(example.spec);
    const auto queries =
        make_queries(both.spec, both.shape, both.weights, both.spec.outputs[0], {}, request, 2);
    const auto* flags = reinterpret_cast<const uint8_t*>(request.query_masks.at("answer").bytes());
    EXPECT_EQ(queries->mask(1), used ? flags + 20 : nullptr);
  }
}

TEST(QueryMasks, OfAnotherShapeAreRefusedInTheSameWords) {
  Case example = positional_cases()[0];
  Both both(example.spec);
  OutputRequest request;
  request.query_masks["answer"] = Numbers(5).flags({2, 19});
  const std::string wanted = thrown_by([&] { reference_queries(both, example, request); });
  EXPECT_NE(wanted, "nothing");
  EXPECT_EQ(thrown_by([&] {
              make_queries(both.spec, both.shape, both.weights, both.spec.outputs[0], {}, request,
                           2);
            }),
            wanted);
}

TEST(Queries, OfATextAreAsManyAsItsTableWithoutTheText) {
  const Case example = text_case();
  Both both(example.spec);
  const auto queries =
      make_queries(both.spec, both.shape, both.weights, both.spec.outputs[0], {}, {}, 2);
  EXPECT_EQ(queries->count(), 9);
  EXPECT_TRUE(queries->is_constant());
}

TEST(Queries, MissingOrMisshapenRowsAreRefusedInTheSameWords) {
  Numbers numbers(7);
  for (const Case& example : given_cases()) {
    Both both(example.spec);
    for (int wrong = 0; wrong < 4; ++wrong) {
      OutputRequest request;
      if (wrong > 0) {
        const std::vector<std::vector<int64_t>> shapes{{2, 9}, {3, 9, 2}, {2, 9, 5}};
        request.queries["answer"] = numbers.floats(shapes[static_cast<size_t>(wrong - 1)]);
      }
      const std::string wanted = thrown_by([&] { reference_queries(both, example, request); });
      EXPECT_NE(wanted, "nothing");
      EXPECT_EQ(thrown_by([&] {
                  make_queries(both.spec, both.shape, both.weights, both.spec.outputs[0], {},
                               request, 2);
                }),
                wanted);
    }
  }
}

TEST(Queries, MadeOfInputsNeedThem) {
  for (const Case& example : input_cases()) {
    Both both(example.spec);
    EXPECT_EQ(thrown_by([&] {
                make_queries(both.spec, both.shape, both.weights, both.spec.outputs[0], {}, {}, 2);
              }),
              "1: [output answer] needs the tokens of input picture, which were not given");
  }
}

TEST(Queries, RowsBeyondTheContentBesideThemAreRefused) {
  Case example = positional_cases()[5];
  ASSERT_EQ(example.name, "fourier_beside_content");
  example.inputs.arrays["picture"] = Numbers(4).floats({2, 3, 5, 3});
  Both both(example.spec);
  const auto inputs = both.sources(example.inputs);
  EXPECT_EQ(thrown_by([&] {
              make_queries(both.spec, both.shape, both.weights, both.spec.outputs[0], inputs, {},
                           2);
            }),
            "2: [output answer] row 19 needs the content of input picture, which has 15 tokens");
}

}  // namespace
}  // namespace perceiver::runtime
