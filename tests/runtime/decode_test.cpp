#include "runtime/decode.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <random>

#include <gtest/gtest.h>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "plan_fixture.h"
#include "runtime/decode_tail.h"

namespace perceiver::runtime::test {
namespace {

constexpr double kRounding = 3e-6;
constexpr Plan kPlans[] = {Plan::kAuto, Plan::kTextbook, Plan::kAbsorbed, Plan::kFactored};
constexpr int64_t kLatents = 7, kLatentChannels = 10;
const char* const kPrefix = "decoder.cross_attend";

/// A decoder of queries of E channels; "out" is its only output.
ModelSpec asking(int64_t channels, int64_t heads) {
  ModelSpec spec;
  InputSpec input;
  input.name = "text";
  input.kind = InputKind::kText;
  input.index_dims = {4};
  input.vocab_size = 11;
  input.embedding_channels = 5;
  spec.inputs = {input};
  spec.encoder.num_latents = kLatents;
  spec.encoder.latent_channels = kLatentChannels;
  spec.encoder.num_self_attends_per_block = 1;
  spec.decoder.cross_attend = {.num_heads = heads,
                               .qk_channels = 8,
                               .v_channels = 12,
                               .use_query_residual = false,
                               .widening_factor = 2};
  spec.decoder.output_channels = 5;
  OutputSpec output;
  output.name = "out";
  output.query = QueryKind::kCaller;
  output.channels = channels;
  spec.outputs = {output};
  return spec;
}

Rows with_head(const ArrayMap& weights, const ModelSpec& spec, Rows rows) {
  if (spec.decoder.final_project) {
    rows = linear(weights, "decoder.final", rows);
  }
  const OutputSpec& output = spec.outputs[0];
  switch (output.head) {
    case HeadKind::kLinear:
      return linear(weights, "outputs.out.head", rows);
    case HeadKind::kMlp:
      rows = linear(weights, "outputs.out.head.0", rows);
      for (std::vector<double>& row : rows) {
        std::transform(row.begin(), row.end(), row.begin(), [](double x) { return std::tanh(x); });
      }
      return linear(weights, "outputs.out.head.1", rows);
    case HeadKind::kTiedEmbedding: {
      const ArrayMap tied{{"tied.weight", weights.at("inputs.text.embedding.weight")},
                          {"tied.bias", weights.at("outputs.out.head.bias")}};
      return linear(tied, "tied", rows);
    }
    default:
      return rows;
  }
}

/// One decoder with made-up latents, and what it should give.
class Asking {
 public:
  Asking(const ModelSpec& spec, int64_t batch)
      : spec_(spec),
        shape_(resolve(spec)),
        arrays_(random_weights(spec)),
        weights_(spec, arrays_),
        decoder_(weights_, spec, shape_, Precision::kF32),
        batch_(batch) {
    std::mt19937 random(3);
    std::normal_distribution<float> normal;
    for (int64_t i = 0; i < batch * kLatents * kLatentChannels; ++i) {
      latents_.push_back(normal(random));
    }
  }

  Decoder& decoder() { return decoder_; }
  Workspace& workspace() { return workspace_; }
  std::shared_ptr<const Decoder::Prepared> prepare(Plan plan) {
    return decoder_.prepare({latents_.data(), batch_ * kLatents, kLatentChannels, kLatentChannels},
                            batch_, plan, workspace_);
  }
  Rows latents_of(int64_t b) const {
    Rows rows;
    for (int64_t i = b * kLatents; i < (b + 1) * kLatents; ++i) {
      const float* row = latents_.data() + i * kLatentChannels;
      rows.emplace_back(row, row + kLatentChannels);
    }
    return rows;
  }
  PlainAttention plain() const {
    return {arrays_, kPrefix, shape_.decoder_cross, spec_.compatibility};
  }
  /// Decoded rows of example b before the final linear, all of them.
  Rows wanted_rows(MadeUpSource& queries, int64_t b) const {
    const std::vector<uint8_t> all(kLatents, 1);
    return plain().apply(dense_rows({&queries}, b), latents_of(b), all, joint_mask({&queries}, b));
  }
  Rows wanted(MadeUpSource& queries, int64_t b) const {
    return with_head(arrays_, spec_, wanted_rows(queries, b));
  }

  std::vector<float> rows(const Decoder::Prepared& prepared, MadeUpSource& queries, int64_t b,
                          int64_t begin, int64_t end, float* before_head = nullptr) {
    const int64_t width = decoder_.row_channels(spec_.outputs[0]);
    const int64_t whole = shape_.query_channels;
    std::vector<float> out(static_cast<size_t>((end - begin) * width), NAN);
    decoder_.rows(
        prepared, spec_.outputs[0], queries, b, begin, end, {out.data(), end - begin, width, width},
        workspace_,
        before_head == nullptr ? Matrix{} : Matrix{before_head, end - begin, whole, whole});
    return out;
  }

  double distance_of(Plan plan, MadeUpSource& queries) {
    const auto prepared = prepare(plan);
    const int64_t width = decoder_.row_channels(spec_.outputs[0]);
    double apart = 0;
    for (int64_t b = 0; b < batch_; ++b) {
      const std::vector<float> got = rows(*prepared, queries, b, 0, queries.count());
      apart = std::max(apart,
                       distance(wanted(queries, b), {got.data(), queries.count(), width, width}));
    }
    return apart;
  }

 private:
  ModelSpec spec_;
  ModelShape shape_;
  ArrayMap arrays_;
  Weights weights_;
  Decoder decoder_;
  Workspace workspace_;
  int64_t batch_;
  std::vector<float> latents_;
};

/// Flow's queries, multimodal's, a text's.
std::vector<SourceOptions> kinds_of_queries() {
  return {{.batch = 2, .content = 3, .constants = 2, .masked_share = 0.3},
          {.batch = 2, .grid = {3, 5, 8}, .content = 0, .bands = 2, .constants = 3},
          {.batch = 2, .grid = {90}, .content = 9, .bands = 0, .factors = false}};
}

TEST(Decoder, EveryPlanDecodesEveryKindOfQueryAsTheFormulaSays) {
  for (const SourceOptions& options : kinds_of_queries()) {
    for (const int64_t heads : {1, 2}) {
      for (const bool residual : {false, true}) {
        MadeUpSource queries(options);
        ModelSpec spec = asking(queries.channels(), heads);
        spec.decoder.cross_attend.use_query_residual = residual;
        Asking model(spec, 2);
        for (const Plan plan : kPlans) {
          EXPECT_LT(model.distance_of(plan, queries), kRounding)
              << plan_name(plan) << ", " << heads << " heads, residual " << residual << ", "
              << options.content << " content channels";
        }
      }
    }
  }
}

TEST(Decoder, EveryHeadAndActivation) {
  for (const HeadKind head :
       {HeadKind::kNone, HeadKind::kLinear, HeadKind::kMlp, HeadKind::kTiedEmbedding}) {
    for (const bool final_project : {false, true}) {
      for (const int64_t head_channels : {2, 40}) {
        const bool tied = head == HeadKind::kTiedEmbedding;
        // the tied embedding is 5 wide: so must the rows be
        MadeUpSource queries({.grid = {70},
                              .content = tied && !final_project ? 5 : 9,
                              .bands = 0,
                              .factors = false});
        ModelSpec spec = asking(queries.channels(), 1);
        spec.decoder.final_project = final_project;
        spec.outputs[0].head = head;
        spec.outputs[0].of_input = tied ? "text" : "";
        spec.outputs[0].head_channels = tied || head == HeadKind::kNone ? 0 : head_channels;
        spec.compatibility.activation =
            final_project ? Activation::kGeluTanh : Activation::kGeluErf;
        Asking model(spec, 1);
        EXPECT_LT(model.distance_of(Plan::kAuto, queries), kRounding)
            << "head " << static_cast<int>(head) << ", final " << final_project << ", "
            << head_channels;
      }
    }
  }
}

TEST(Decoder, AnyRangeOfRowsInAnyBlocks) {
  MadeUpSource queries({.grid = {11, 31}, .content = 3});
  Asking model(asking(queries.channels(), 2), 1);
  const Rows all = model.wanted(queries, 0);
  model.decoder().limit_scratch(1);  // 64 rows
  for (const Plan plan : kPlans) {
    const auto prepared = model.prepare(plan);
    const std::vector<float> got = model.rows(*prepared, queries, 0, 37, 300);
    EXPECT_LT(distance({all.begin() + 37, all.begin() + 300}, {got.data(), 263, 5, 5}), kRounding)
        << plan_name(plan);
  }
}

TEST(Decoder, NeighbouringRowsOfAGridFactorToo) {
  SourceOptions options{.grid = {11, 31}, .content = 0, .bands = 3};
  MadeUpSource whole(options);
  options.first_row = 40;
  options.rows = 170;
  MadeUpSource part(options);
  Asking model(asking(part.channels(), 2), 1);
  const Rows all = model.wanted(whole, 0);
  // beside the whole, whose tables serve the part
  const auto prepared = model.prepare(Plan::kFactored);
  model.rows(*prepared, whole, 0, 0, 341);
  const std::vector<float> got = model.rows(*prepared, part, 0, 0, 170);
  EXPECT_LT(distance({all.begin() + 40, all.begin() + 210}, {got.data(), 170, 5, 5}), kRounding);
}

TEST(Decoder, OneGridWithItsPointsElsewhere) {
  MadeUpSource inclusive({.grid = {80}, .content = 0, .bands = 3});
  MadeUpSource half_open({.grid = {80}, .content = 0, .bands = 3, .axis = AxisGrid::kHalfOpen});
  Asking model(asking(inclusive.channels(), 1), 1);
  const auto prepared = model.prepare(Plan::kFactored);
  for (MadeUpSource* queries : {&inclusive, &half_open}) {
    const std::vector<float> got = model.rows(*prepared, *queries, 0, 0, 80);
    EXPECT_LT(distance(model.wanted(*queries, 0), {got.data(), 80, 5, 5}), kRounding);
  }
}

TEST(Decoder, ConstantQueriesAreProjectedOnceAndStayRight) {
  MadeUpSource queries(
      {.grid = {130}, .content = 9, .bands = 0, .factors = false, .is_constant = true});
  Asking model(asking(queries.channels(), 2), 1);
  for (int call = 0; call < 2; ++call) {
    EXPECT_LT(model.distance_of(Plan::kTextbook, queries), kRounding) << "call " << call;
  }
  // the second time nobody looks at them: rows that changed although they must not go unnoticed
  const auto prepared = model.prepare(Plan::kTextbook);
  const std::vector<float> before = model.rows(*prepared, queries, 0, 0, 130);
  queries.replace(0, 3);
  EXPECT_EQ(model.rows(*prepared, queries, 0, 0, 130), before);
}

TEST(Decoder, RowsBeforeTheHeadComeBesideTheSameResult) {
  MadeUpSource queries({.grid = {9, 13}, .content = 3});
  ModelSpec spec = asking(queries.channels(), 1);
  Asking model(spec, 1);
  const auto prepared = model.prepare(Plan::kAuto);
  std::vector<float> whole(static_cast<size_t>(117 * queries.channels()), NAN);
  const std::vector<float> got = model.rows(*prepared, queries, 0, 0, 117, whole.data());
  EXPECT_LT(distance(model.wanted(queries, 0), {got.data(), 117, 5, 5}), kRounding);
  EXPECT_LT(distance(model.wanted_rows(queries, 0),
                     {whole.data(), 117, queries.channels(), queries.channels()}),
            kRounding);
}

TEST(Decoder, MapIsTheSoftmaxResult) {
  MadeUpSource queries({.batch = 2, .grid = {9, 13}, .content = 3});
  Asking model(asking(queries.channels(), 2), 2);
  model.decoder().limit_scratch(1);
  const std::vector<uint8_t> all(kLatents, 1);
  for (const int64_t b : {0, 1}) {
    const Rows wanted = model.plain().map(dense_rows({&queries}, b), model.latents_of(b), all);
    const auto prepared = model.prepare(Plan::kFactored);
    std::vector<float> map(static_cast<size_t>(2 * 100 * kLatents));
    model.decoder().map(*prepared, queries, b, 17, 117, map.data(), 100 * kLatents,
                        model.workspace());
    for (const int64_t h : {0, 1}) {
      EXPECT_LT(distance({wanted.begin() + h * 117 + 17, wanted.begin() + (h + 1) * 117},
                         {map.data() + h * 100 * kLatents, 100, kLatents, kLatents}),
                kRounding);
    }
  }
}

TEST(Decoder, SaysWhatItChoseAndWhatThatCosts) {
  MadeUpSource field({.grid = {64, 64}, .content = 1, .bands = 20});
  Asking model(asking(field.channels(), 1), 1);
  const OutputSpec output = asking(field.channels(), 1).outputs[0];
  const AttentionPlan chosen =
      model.decoder().choice(*model.prepare(Plan::kAuto), output, field).described();
  EXPECT_EQ(chosen.plan, Plan::kFactored);
  EXPECT_LT(chosen.flops, chosen.textbook_flops);
  MadeUpSource plain({.content = 9, .bands = 0, .factors = false});
  const AttentionPlan forced =
      model.decoder().choice(*model.prepare(Plan::kFactored), output, plain).described();
  EXPECT_EQ(forced.plan, Plan::kAbsorbed);
  EXPECT_NE(forced.reason.find("do not factor"), std::string::npos) << forced.reason;
}

// ---- what follows the attention ----

Affine random_affine(int64_t out, int64_t in, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  Affine affine{out, in, {}, {}};
  for (int64_t i = 0; i < out * in; ++i) {
    affine.weight.push_back(normal(random) / std::sqrt(static_cast<float>(in)));
  }
  for (int64_t i = 0; i < out; ++i) {
    affine.bias.push_back(0.5F * normal(random));
  }
  return affine;
}

std::vector<double> mapped(const Affine& affine, const std::vector<double>& x) {
  std::vector<double> y;
  for (int64_t o = 0; o < affine.out; ++o) {
    double sum = affine.bias.empty() ? 0 : static_cast<double>(affine.bias[static_cast<size_t>(o)]);
    for (size_t i = 0; i < x.size(); ++i) {
      sum += x[i] * static_cast<double>(affine.weight[static_cast<size_t>(o * affine.in) + i]);
    }
    y.push_back(sum);
  }
  return y;
}

struct TailCase {
  int64_t v, e, hidden, final_channels, head_channels;  ///< 0 = there is none
  float scale;                                          ///< of the values
};

struct TailFixture {
  explicit TailFixture(const TailCase& c) {
    weights.shape.query_channels = weights.shape.output_channels = c.e;
    weights.shape.v_channels = c.v;
    weights.shape.mlp_channels = c.hidden;
    weights.shape.use_query_residual = false;
    weights.output = random_affine(c.e, c.v, 1);
    weights.mlp_in = random_affine(c.hidden, c.e, 2);
    weights.mlp_out = random_affine(c.e, c.hidden, 3);
    if (c.final_channels > 0) {
      chain.push_back(random_affine(c.final_channels, c.e, 4));
    }
    if (c.head_channels > 0) {
      chain.push_back(random_affine(c.head_channels, chain.empty() ? c.e : chain.back().out, 5));
    }
    std::mt19937 random(6);
    std::normal_distribution<float> normal(0, c.scale);
    for (int64_t i = 0; i < kRows * c.v; ++i) {
      values.push_back(normal(random));
    }
  }

  std::vector<double> value_row(int64_t i) const {
    const int64_t v = weights.shape.v_channels;
    return {values.begin() + i * v, values.begin() + (i + 1) * v};
  }

  Rows wanted() const {
    Rows rows;
    for (int64_t i = 0; i < kRows; ++i) {
      const std::vector<double> x = mapped(weights.output, value_row(i));
      double mean = 0, variance = 0;
      for (const double value : x) {
        mean += value / static_cast<double>(x.size());
      }
      for (const double value : x) {
        variance += (value - mean) * (value - mean) / static_cast<double>(x.size());
      }
      std::vector<double> normed;
      for (const double value : x) {
        normed.push_back((value - mean) / std::sqrt(variance + 1e-5));
      }
      std::vector<double> hidden = mapped(weights.mlp_in, normed);
      for (double& value : hidden) {
        value *= 0.5 * (1 + std::erf(value / std::sqrt(2.0)));
      }
      std::vector<double> y = mapped(weights.mlp_out, hidden);
      for (size_t c = 0; c < y.size(); ++c) {
        y[c] += x[c];
      }
      for (const Affine& map : chain) {
        y = mapped(map, y);
      }
      rows.push_back(y);
    }
    return rows;
  }

  std::vector<float> run(RowTail& tail, TailOrder order) {
    const int64_t v = weights.shape.v_channels, e = weights.shape.query_channels;
    std::vector<float> out(static_cast<size_t>(kRows * tail.channels()), NAN);
    const Matrix to{out.data(), kRows, tail.channels(), tail.channels()};
    if (order == TailOrder::kFromValues) {
      const Matrix wide = workspace.matrix(kRows, v + 1);
      for (int64_t i = 0; i < kRows; ++i) {
        std::copy_n(values.begin() + i * v, v, wide.row(i));
      }
      tail.from_values(wide, to, workspace);
      return out;
    }
    const Matrix x = workspace.matrix(kRows, e);
    weights.packed_output().apply({values.data(), kRows, v, v}, x);
    tail.from_x(order, x, to, {}, workspace);
    return out;
  }

  static constexpr int64_t kRows = 40;
  DecoderWeights weights;
  std::vector<Affine> chain;
  std::vector<float> values;
  Workspace workspace;
};

TEST(RowTail, EveryOrderGivesTheSameRows) {
  const TailCase cases[] = {{12, 30, 30, 20, 3, 1},   // multimodal in small
                            {12, 30, 60, 2, 0, 1},    // flow in small
                            {30, 12, 12, 0, 25, 1},   // more values than channels
                            {29, 30, 30, 0, 0, 1},    // nothing behind the MLP
                            {12, 30, 30, 20, 3, 20},  // large values
                            {12, 30, 30, 20, 3, 0.01F}};
  for (const TailCase& c : cases) {
    TailFixture fixture(c);
    RowTail tail(fixture.weights, fixture.chain, {});
    const Rows wanted = fixture.wanted();
    for (const TailOrder order :
         {TailOrder::kSeparate, TailOrder::kPlain, TailOrder::kComposed, TailOrder::kFromValues}) {
      if (!tail.possible(order)) {
        continue;
      }
      const std::vector<float> got = fixture.run(tail, order);
      EXPECT_LT(distance(wanted, {got.data(), fixture.kRows, tail.channels(), tail.channels()}),
                kRounding)
          << "order " << static_cast<int>(order) << " of v " << c.v << " E " << c.e << " scale "
          << c.scale;
    }
  }
}

TEST(RowTail, NoWorseThanTheOrderAsWrittenWhenWide) {
  TailFixture fixture({256, 514, 514, 256, 3, 1});  // multimodal at half its widths
  RowTail tail(fixture.weights, fixture.chain, {});
  const Rows wanted = fixture.wanted();
  const auto error_of = [&](TailOrder order) {
    const std::vector<float> got = fixture.run(tail, order);
    return distance(wanted, {got.data(), fixture.kRows, 3, 3});
  };
  const double as_written = error_of(TailOrder::kSeparate);
  EXPECT_LT(as_written, 2e-6);
  EXPECT_LT(error_of(TailOrder::kComposed), 2 * as_written);
  EXPECT_LT(error_of(TailOrder::kFromValues), 2 * as_written);
}

TEST(RowTail, AQueryResidualNeedsItsRows) {
  TailFixture fixture({12, 30, 30, 20, 3, 1});
  fixture.weights.shape.use_query_residual = true;
  const RowTail tail(fixture.weights, fixture.chain, {});
  EXPECT_FALSE(tail.possible(TailOrder::kFromValues));
  EXPECT_TRUE(tail.possible(TailOrder::kComposed));
}

TEST(LengthPreserving, KeepsLengthsOfAnyShapeAndRank) {
  for (const auto& [out, in] : {std::pair<int64_t, int64_t>{30, 12}, {12, 30}, {13, 12}}) {
    Affine map = random_affine(out, in, 8);
    for (int64_t i = 0; i < in; ++i) {  // a rank less: two equal inputs
      map.weight[static_cast<size_t>(i)] = map.weight[static_cast<size_t>(in + i)];
    }
    const Affine turned = length_preserving(map);
    EXPECT_LE(turned.out, std::min(out, in + 1));
    EXPECT_EQ(turned.in, in);
    std::mt19937 random(9);
    std::normal_distribution<double> normal;
    for (int trial = 0; trial < 10; ++trial) {
      std::vector<double> x(static_cast<size_t>(in));
      std::generate(x.begin(), x.end(), [&] { return normal(random); });
      const auto squares = [&](const Affine& affine) {
        double sum = 0;
        for (const double value : mapped(affine, x)) {
          sum += value * value;
        }
        return sum;
      };
      EXPECT_NEAR(squares(turned) / squares(map), 1, 1e-6);
    }
  }
}

}  // namespace
}  // namespace perceiver::runtime::test
