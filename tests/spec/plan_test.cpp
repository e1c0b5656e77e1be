#include "perceiver/spec/plan.h"

#include <map>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "perceiver/base/error.h"
#include "perceiver/spec/cost.h"
#include "perceiver/spec/model_shape.h"
#include "perceiver/spec/presets.h"

namespace perceiver {
namespace {

using testing::HasSubstr;

std::map<std::string, AttentionPlan> plans_of(const ModelSpec& spec,
                                              const PlanRequest& request = {}) {
  std::map<std::string, AttentionPlan> plans;
  for (const AttentionPlan& plan : plan_attentions(spec, request)) {
    plans[plan.attention] = plan;
  }
  return plans;
}

PlanRequest wanting(Plan plan) {
  PlanRequest request;
  request.wanted = plan;
  return request;
}

const StageCost& stage(const ModelCost& cost, const std::string& name) {
  for (const StageCost& entry : cost.stages) {
    if (entry.stage == name) {
      return entry;
    }
  }
  throw Error(ErrorCode::kInternal, name);
}

TEST(PlanNames, ThereAndBack) {
  for (const Plan plan : {Plan::kAuto, Plan::kTextbook, Plan::kAbsorbed, Plan::kFactored}) {
    EXPECT_EQ(parse_plan(plan_name(plan)), plan);
  }
  try {
    parse_plan("magic");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kArgument);
    EXPECT_THAT(error.what(), HasSubstr("\"magic\""));
    EXPECT_THAT(error.what(), HasSubstr("absorbed"));
  }
}

// Two pieces of code count the textbook order; nothing is constant in either.
TEST(PlanCosts, TextbookIsWhatTheCostTableCounts) {
  for (const PresetInfo& info : preset_list()) {
    SCOPED_TRACE(info.name);
    const ModelSpec spec = preset(info.name);
    const ModelShape shape = resolve(spec);
    const ModelCost cost = textbook_cost(spec);
    PlanRequest request = wanting(Plan::kTextbook);
    request.constant_latents = false;
    double encode = 0, process = 0, decode = 0;
    for (const AttentionPlan& plan : plan_attentions(spec, request)) {
      EXPECT_EQ(plan.plan, Plan::kTextbook);
      EXPECT_DOUBLE_EQ(plan.flops, plan.textbook_flops);
      (plan.attention == "encoder.self_attend"              ? process
       : plan.attention.starts_with("encoder.cross_attend") ? encode
                                                            : decode) += plan.flops;
    }
    EXPECT_NEAR(encode, stage(cost, "encode").flops, 1e-9 * cost.flops);
    EXPECT_NEAR(process, stage(cost, "process").flops, 1e-9 * cost.flops);
    if (spec.decoder.kind == DecoderKind::kCrossAttend) {
      double last = 0;  // the final linear is no part of the attention
      if (spec.decoder.final_project) {
        last = 2.0 * static_cast<double>(shape.num_outputs * shape.query_channels *
                                         spec.decoder.output_channels);
      }
      EXPECT_NEAR(decode, stage(cost, "decode").flops - last, 1e-9 * cost.flops);
    } else {
      EXPECT_EQ(decode, 0);
    }
  }
}

struct Expected {
  const char* model;
  Plan encode, decode;
  double encode_giga, decode_giga;
};

// docs/plans.md; the two products of the flow encoder alone are 4 N M (64 + 1) = 97.2 GFLOP.
TEST(PlanChoice, ReleasedModels) {
  const Expected rows[] = {
      {"language-perceiver", Plan::kTextbook, Plan::kTextbook, 9.0, 9.0},
      {"vision-perceiver-learned", Plan::kAbsorbed, Plan::kTextbook, 55.6, 2.2},
      {"vision-perceiver-fourier", Plan::kFactored, Plan::kTextbook, 3.0, 2.2},
      {"vision-perceiver-conv", Plan::kFactored, Plan::kTextbook, 3.0, 2.2},
      {"optical-flow-perceiver", Plan::kFactored, Plan::kFactored, 100.9, 369.7},
      {"multimodal-perceiver", Plan::kFactored, Plan::kFactored, 11.2, 4690.6},
  };
  for (const Expected& row : rows) {
    SCOPED_TRACE(row.model);
    const auto plans = plans_of(preset(row.model));
    ASSERT_EQ(plans.size(), 3u);
    EXPECT_EQ(plans.at("encoder.cross_attend.0").plan, row.encode);
    EXPECT_EQ(plans.at("encoder.self_attend").plan, Plan::kTextbook);
    EXPECT_EQ(plans.at("decoder.cross_attend").plan, row.decode);
    EXPECT_NEAR(plans.at("encoder.cross_attend.0").flops / 1e9, row.encode_giga, 0.06);
    EXPECT_NEAR(plans.at("decoder.cross_attend").flops / 1e9, row.decode_giga, 0.06);
    for (const auto& [name, plan] : plans) {
      EXPECT_LE(plan.flops, plan.textbook_flops * (1 + 1e-12)) << name;
      EXPECT_FALSE(plan.reason.empty());
      EXPECT_EQ(plan.reason.find('\n'), std::string::npos);
    }
  }
}

TEST(PlanChoice, RewrittenTotalsOfTheReleasedModels) {
  const std::map<std::string, double> totals{{"optical-flow-perceiver", 831e9},
                                             {"multimodal-perceiver", 4732e9},
                                             {"vision-perceiver-fourier", 366e9},
                                             {"vision-perceiver-learned", 419e9}};
  for (const auto& [name, expected] : totals) {
    double flops = 0;
    for (const AttentionPlan& plan : plan_attentions(preset(name))) {
      flops += plan.flops;
    }
    EXPECT_NEAR(flops, expected, 0.005 * expected) << name;
  }
}

TEST(PlanChoice, AnAttentionPerWeightSetInTheOrderOfTheWalk) {
  std::vector<std::string> names;
  for (const AttentionPlan& plan : plan_attentions(preset("perceiver-imagenet"))) {
    names.push_back(plan.attention);
  }
  EXPECT_EQ(names, (std::vector<std::string>{"encoder.cross_attend.0", "encoder.self_attend",
                                             "encoder.cross_attend.1"}));
  ModelSpec spec = preset("perceiver-imagenet");
  spec.encoder.share_later_cross_attends = false;
  EXPECT_EQ(plan_attentions(spec).size(), 9u);
}

TEST(PlanChoice, SomeRowsOfAGridDoNotFactor) {
  PlanRequest some;
  some.num_outputs = 1000;
  const AttentionPlan plan =
      plans_of(preset("optical-flow-perceiver"), some).at("decoder.cross_attend");
  EXPECT_NE(plan.plan, Plan::kFactored);
  EXPECT_THAT(plan.reason, HasSubstr("only some rows"));
}

TEST(PlanChoice, CostsFollowTheCounts) {
  const ModelSpec spec = preset("language-perceiver");
  PlanRequest request;
  const double one = plans_of(spec).at("encoder.cross_attend.0").flops;
  request.num_inputs = 64;
  EXPECT_LT(plans_of(spec, request).at("encoder.cross_attend.0").flops, 0.4 * one);
  request = {};
  request.batch = 3;
  EXPECT_NEAR(plans_of(spec, request).at("encoder.cross_attend.0").flops, 3 * one, 1e-6 * one);
  request = {};
  request.constant_latents = false;
  EXPECT_GT(plans_of(spec, request).at("encoder.cross_attend.0").flops, one);
}

TEST(PlanForced, AbsorbedAppliesToEveryCrossAttend) {
  for (const PresetInfo& info : preset_list()) {
    for (const auto& [name, plan] : plans_of(preset(info.name), wanting(Plan::kAbsorbed))) {
      EXPECT_EQ(plan.plan, name == "encoder.self_attend" ? Plan::kTextbook : Plan::kAbsorbed)
          << info.name << " " << name;
    }
  }
}

TEST(PlanForced, FactoredFallsBackToAbsorbedAndSaysWhy) {
  const auto plans = plans_of(preset("vision-perceiver-learned"), wanting(Plan::kFactored));
  const AttentionPlan& encode = plans.at("encoder.cross_attend.0");
  EXPECT_EQ(encode.plan, Plan::kAbsorbed);
  EXPECT_THAT(encode.reason, HasSubstr("factored does not apply"));
  EXPECT_THAT(encode.reason, HasSubstr("learned positions"));
  EXPECT_THAT(plans.at("encoder.self_attend").reason, HasSubstr("factored does not apply"));
  EXPECT_THAT(plans.at("decoder.cross_attend").reason, HasSubstr("learned queries"));
}

TEST(PlanForced, WhatKeepsAnInputFromFactoring) {
  struct Change {
    const char* says;
    void (*make)(InputSpec&);
  };
  const Change changes[] = {
      {"positions added",
       [](InputSpec& input) {
         input.position.use = PositionUse::kAdd;
         input.stem = Stem::kLinear;
         input.out_channels = 258;
       }},
      {"linear layer after", [](InputSpec& input) { input.position.project_channels = 258; }},
      {"linear layer after", [](InputSpec& input) { input.position.num_extra_linears = 1; }},
      {"replaced at random", [](InputSpec& input) { input.mask_probability = 0.5; }},
  };
  for (const Change& change : changes) {
    ModelSpec spec = preset("vision-perceiver-fourier");
    spec.architecture.clear();
    change.make(spec.inputs[0]);
    const AttentionPlan plan =
        plans_of(spec, wanting(Plan::kFactored)).at("encoder.cross_attend.0");
    EXPECT_EQ(plan.plan, Plan::kAbsorbed) << change.says;
    EXPECT_THAT(plan.reason, HasSubstr(change.says));
  }
}

TEST(PlanForced, OneFactorableModalityIsEnough) {
  const AttentionPlan plan = plans_of(preset("multimodal-perceiver"), wanting(Plan::kFactored))
                                 .at("encoder.cross_attend.0");
  EXPECT_EQ(plan.plan, Plan::kFactored);
  EXPECT_THAT(plan.reason, HasSubstr("label"));
}

}  // namespace
}  // namespace perceiver
