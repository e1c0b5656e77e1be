#include "runtime/encode.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include <gtest/gtest.h>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "plan_fixture.h"

namespace perceiver::runtime::test {
namespace {

constexpr double kRounding = 3e-6;  // float32, sums of a few hundred terms
constexpr Plan kPlans[] = {Plan::kTextbook, Plan::kAbsorbed, Plan::kFactored};
const char* const kPrefix = "encoder.cross_attend.0";

/// A set of C channels: the made-up sources stand in for whatever the spec reads.
ModelSpec reading(int64_t channels, int64_t heads) {
  ModelSpec spec;
  InputSpec input;
  input.name = "tokens";
  input.kind = InputKind::kSet;
  input.index_dims = {100000};
  input.channels = channels;
  spec.inputs = {input};
  spec.encoder.num_latents = 6;
  spec.encoder.latent_channels = 10;
  spec.encoder.cross_attend = {.num_heads = heads, .qk_channels = 8, .v_channels = 12};
  spec.encoder.self_attend.num_heads = 1;
  spec.encoder.num_self_attends_per_block = 1;
  OutputSpec output;
  output.name = "out";
  output.index_dims = {1};
  output.channels = 4;
  spec.outputs = {output};
  spec.decoder.output_channels = 3;
  return spec;
}

/// One cross-attend of a made-up model, and what it should give.
class Reading {
 public:
  explicit Reading(const ModelSpec& spec)
      : spec_(spec),
        shape_(resolve(spec)),
        arrays_(random_weights(spec)),
        weights_(spec, arrays_),
        cross_(weights_, kPrefix, spec, shape_, Precision::kF32) {}

  CrossAttendIn& cross() { return cross_; }
  Workspace& workspace() { return workspace_; }

  std::shared_ptr<const CrossAttendIn::Queries> queries(Plan plan, int64_t batch) {
    const Array& latents = arrays_.at("latents");
    return cross_.prepare(
        {latents.data<float>(), latents.size(0), latents.size(1), latents.size(1)}, batch, true,
        plan, workspace_);
  }

  /// New latents [batch * N, D].
  std::vector<float> finish(const CrossAttendIn::Queries& queries, const ReadState& state) {
    const Array& parameter = arrays_.at("latents");
    std::vector<float> latents;
    for (int64_t b = 0; b < state.batch; ++b) {
      latents.insert(latents.end(), parameter.data<float>(),
                     parameter.data<float>() + parameter.numel());
    }
    cross_.finish(queries, state, as_matrix(latents), workspace_);
    return latents;
  }

  double distance_of(Plan plan, const std::vector<MadeUpSource*>& sources) {
    const int64_t batch = sources[0]->batch();
    const auto prepared = queries(plan, batch);
    ReadState state;
    for (MadeUpSource* source : sources) {
      cross_.read(*prepared, *source, 0, source->count(), 0, state, workspace_);
    }
    return distance_of(finish(*prepared, state), sources);
  }

  double distance_of(std::vector<float> latents, const std::vector<MadeUpSource*>& sources) {
    const Matrix got = as_matrix(latents);
    const int64_t n = spec_.encoder.num_latents;
    double apart = 0;
    for (int64_t b = 0; b < sources[0]->batch(); ++b) {
      apart = std::max(apart, distance(plain().apply(parameter_rows(), dense_rows(sources, b),
                                                     joint_mask(sources, b)),
                                       got.block(b * n, (b + 1) * n)));
    }
    return apart;
  }

  PlainAttention plain() const {
    return {arrays_, kPrefix, shape_.encoder_cross, spec_.compatibility};
  }
  Rows parameter_rows() const {
    const Array& latents = arrays_.at("latents");
    Rows rows;
    for (int64_t i = 0; i < latents.size(0); ++i) {
      const float* row = latents.data<float>() + i * latents.size(1);
      rows.emplace_back(row, row + latents.size(1));
    }
    return rows;
  }

 private:
  Matrix as_matrix(std::vector<float>& latents) const {
    const int64_t width = spec_.encoder.latent_channels;
    return {latents.data(), static_cast<int64_t>(latents.size()) / width, width, width};
  }

  ModelSpec spec_;
  ModelShape shape_;
  ArrayMap arrays_;
  Weights weights_;
  CrossAttendIn cross_;
  Workspace workspace_;
};

/// A picture, a sound and a label of one width, as a multimodal model reads them.
struct ThreeSegments {
  explicit ThreeSegments(int64_t batch, double masked_share = 0, bool masked_example = false)
      : field({.batch = batch,
               .constants = 2,
               .masked_share = masked_share,
               .masked_example = masked_example}),
        tone({.name = "tone",
              .batch = batch,
              .grid = {150},
              .content = 7,
              .bands = 2,
              .constants = 3,
              .masked_share = masked_share,
              .masked_example = masked_example,
              .seed = 2}),
        tag({.name = "tag",
             .batch = batch,
             .grid = {1},
             .content = 4,
             .bands = 0,
             .constants = 11,
             .factors = false,
             .masked_example = masked_example,
             .seed = 3}) {}
  std::vector<MadeUpSource*> all() { return {&field, &tone, &tag}; }
  MadeUpSource field, tone, tag;
};

TEST(CrossAttendIn, EveryPlanReadsSegmentsHeadsBatchesAndMasksAsTheFormulaSays) {
  for (const int64_t heads : {1, 2}) {
    for (const double masked_share : {0.0, 0.4}) {
      ThreeSegments segments(2, masked_share);
      Reading reading_model(reading(segments.field.channels(), heads));
      for (const Plan plan : kPlans) {
        EXPECT_LT(reading_model.distance_of(plan, segments.all()), kRounding)
            << plan_name(plan) << ", " << heads << " heads, masked " << masked_share;
      }
    }
  }
}

TEST(CrossAttendIn, BlocksChangeNothing) {
  ThreeSegments segments(1, 0.3);
  Reading model(reading(segments.field.channels(), 2));
  model.cross().limit_scratch(1);  // the smallest blocks: 64 of 117 and 150 tokens
  for (const Plan plan : kPlans) {
    EXPECT_LT(model.distance_of(plan, segments.all()), kRounding) << plan_name(plan);
  }
}

TEST(CrossAttendIn, AnExampleWithoutAnyValidTokenFollowsMaskedRows) {
  for (const MaskedRows masked_rows : {MaskedRows::kZero, MaskedRows::kMean}) {
    ThreeSegments segments(2, 0.2, true);
    ModelSpec spec = reading(segments.field.channels(), 2);
    spec.compatibility.masked_rows = masked_rows;
    Reading model(spec);
    model.cross().limit_scratch(1);
    for (const Plan plan : kPlans) {
      EXPECT_LT(model.distance_of(plan, segments.all()), kRounding)
          << plan_name(plan) << (masked_rows == MaskedRows::kMean ? " mean" : " zero");
    }
  }
}

TEST(CrossAttendIn, WhatDoesNotFactorIsReadDenseUnderTheFactoredPlan) {
  MadeUpSource replaced({.factors = false});
  replaced.replace(0, 5);
  replaced.replace(0, 70);
  Reading model(reading(replaced.channels(), 1));
  EXPECT_LT(model.distance_of(Plan::kFactored, {&replaced}), kRounding);
}

TEST(CrossAttendIn, FactorsThreeAxesAndManyPositionChannels) {
  MadeUpSource video({.grid = {3, 5, 7}, .content = 5, .bands = 16, .constants = 1});
  Reading model(reading(video.channels(), 1));
  EXPECT_LT(model.distance_of(Plan::kFactored, {&video}), kRounding);
}

TEST(CrossAttendIn, LongRowsAreReadInRectanglesOfTheGrid) {
  for (const std::vector<int64_t>& grid :
       {std::vector<int64_t>{30, 700}, {3, 4, 701}, {2, 3, 900, 1}, {21000}, {25, 1}}) {
    MadeUpSource wide({.batch = 2, .grid = grid, .content = 3, .bands = 2, .masked_share = 0.2});
    Reading model(reading(wide.channels(), 2));
    EXPECT_LT(model.distance_of(Plan::kFactored, {&wide}), kRounding) << shape_string(grid);
    const auto queries = model.queries(Plan::kFactored, 2);
    ReadState state;
    // the second part from within a row, the first in the smallest windows
    const int64_t count = wide.count(), middle = count / 3 + 1;
    model.cross().read(*queries, wide, middle, count, 0, state, model.workspace());
    model.cross().limit_scratch(1);
    model.cross().read(*queries, wide, 0, middle, 0, state, model.workspace());
    EXPECT_LT(model.distance_of(model.finish(*queries, state), {&wide}), kRounding)
        << shape_string(grid) << " in two parts";
  }
}

TEST(CrossAttendIn, StatisticsStayAccurateForContentFarFromZero) {
  // 30 standard deviations off: what float32 keeps of the content itself is then 30 times coarser
  MadeUpSource offset({.content = 8, .bands = 3, .content_offset = 30});
  Reading model(reading(offset.channels(), 1));
  for (const Plan plan : kPlans) {
    EXPECT_LT(model.distance_of(plan, {&offset}), 10 * kRounding) << plan_name(plan);
  }
}

TEST(CrossAttendIn, LatentsOfTheirOwnPerExample) {
  MadeUpSource field({.batch = 2});
  Reading model(reading(field.channels(), 2));
  const Rows parameter = model.parameter_rows();
  Rows second = parameter;
  std::reverse(second.begin(), second.end());
  std::vector<float> latents;
  for (const Rows& rows : {parameter, second}) {
    for (const std::vector<double>& row : rows) {
      for (const double value : row) {
        latents.push_back(static_cast<float>(value));
      }
    }
  }
  for (const Plan plan : kPlans) {
    std::vector<float> got = latents;
    const Matrix rows{got.data(), 12, 10, 10};
    const auto queries = model.cross().prepare(rows, 2, false, plan, model.workspace());
    ReadState state;
    model.cross().read(*queries, field, 0, field.count(), 0, state, model.workspace());
    model.cross().finish(*queries, state, rows, model.workspace());
    for (const int64_t b : {0, 1}) {
      EXPECT_LT(distance(model.plain().apply(b == 0 ? parameter : second, dense_rows({&field}, b),
                                             joint_mask({&field}, b)),
                         rows.block(b * 6, (b + 1) * 6)),
                kRounding)
          << plan_name(plan) << " example " << b;
    }
  }
}

TEST(CrossAttendIn, StatesOfPartsMergeInAnyOrder) {
  ThreeSegments segments(1, 0.3);
  Reading model(reading(segments.field.channels(), 2));
  for (const Plan plan : kPlans) {
    const auto queries = model.queries(plan, 1);
    std::vector<ReadState> parts;
    const auto read = [&](MadeUpSource& source, int64_t begin, int64_t end) {
      ReadState state;
      model.cross().read(*queries, source, begin, end, 0, state, model.workspace());
      parts.push_back(state);
    };
    read(segments.tone, 40, 150);
    read(segments.field, 61, 117);
    read(segments.tag, 0, 1);
    read(segments.field, 0, 61);
    read(segments.tone, 0, 40);
    const size_t size = parts[0].mean.size();
    ReadState state = model.cross().empty_state(*queries);
    for (const size_t part : {3, 0, 4, 2, 1}) {
      state.merge(parts[part]);
    }
    EXPECT_EQ(state.tokens, 117 + 150 + 1);
    EXPECT_EQ(state.mean.size(), size) << "the state grew";
    EXPECT_LT(model.distance_of(model.finish(*queries, state), segments.all()), kRounding)
        << plan_name(plan);
  }
}

TEST(CrossAttendIn, MapsAddUpToTheSoftmaxResult) {
  for (const MaskedRows masked_rows : {MaskedRows::kZero, MaskedRows::kMean}) {
    ThreeSegments segments(2, 0.3, true);
    ModelSpec spec = reading(segments.field.channels(), 2);
    spec.compatibility.masked_rows = masked_rows;
    Reading model(spec);
    const int64_t total = 117 + 150 + 1;
    for (const Plan plan : kPlans) {
      const auto queries = model.queries(plan, 2);
      ReadState state;
      for (MadeUpSource* source : segments.all()) {
        model.cross().read(*queries, *source, 0, source->count(), 0, state, model.workspace());
      }
      std::vector<float> map(static_cast<size_t>(2 * 2 * 6 * total), 7.0F);
      int64_t column = 0;
      for (MadeUpSource* source : segments.all()) {
        model.cross().map(*queries, *source, state, column, total, map.data(), model.workspace());
        column += source->count();
      }
      for (const int64_t b : {0, 1}) {
        const Rows wanted = model.plain().map(model.parameter_rows(), dense_rows(segments.all(), b),
                                              joint_mask(segments.all(), b));
        EXPECT_LT(distance(wanted, {map.data() + b * 12 * total, 12, total, total}), kRounding)
            << plan_name(plan) << " example " << b;
      }
    }
  }
}

TEST(CrossAttendIn, RefusesTokensOfAnotherWidthByName) {
  MadeUpSource field({.name = "picture"});
  Reading model(reading(field.channels() + 1, 1));
  const auto queries = model.queries(Plan::kAbsorbed, 1);
  ReadState state;
  try {
    model.cross().read(*queries, field, 0, 1, 0, state, model.workspace());
    FAIL() << "read 13 channels as 14";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kShape);
    EXPECT_NE(std::string(error.what()).find("picture"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace perceiver::runtime::test
