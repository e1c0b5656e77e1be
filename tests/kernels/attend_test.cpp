#include "perceiver/kernels/attend.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include <gtest/gtest.h>

#include "kernels/attend_case.h"
#include "kernels/kernel_table.h"
#include "kernels/wide_lanes.h"
#include "perceiver/kernels/dispatch.h"

// Every set of kernels that runs here against the formulas in double, over the shape file. A
// failing line is run alone with PERCEIVER_ATTEND_LINE="<the line>".

namespace perceiver::kernels {
namespace {

std::vector<AttendLine> all_lines() {
  if (const char* line = std::getenv("PERCEIVER_ATTEND_LINE")) {
    return {parse_line(line)};
  }
  return read_lines(PERCEIVER_SOURCE_DIR "/tests/shapes/attend.txt");
}

std::string reproducer(const AttendLine& line, const std::string& kernels, int threads) {
  return "PERCEIVER_ATTEND_LINE=\"" + line.text + "\" (" + kernels + ", " +
         std::to_string(threads) + " threads)";
}

AttendResults expected_results(const AttendCase& attend_case) {
  AttendResults results = attend_case.make_results();
  attend_reference(attend_case.call(results));
  return results;
}

AttendResults attend_case_results(const AttendCase& attend_case, int threads) {
  AttendResults results = attend_case.make_results();
  attend(attend_case.call(results), threads);
  return results;
}

class Attend : public testing::Test {
 protected:
  void SetUp() override { before_ = active_kernels(); }
  void TearDown() override { use_kernels(before_); }

  static std::vector<std::string> runnable() {
    std::vector<std::string> names;
    for (const KernelSet& set : kernel_sets()) {
      if (set.runs_here) {
        names.push_back(set.name);
      }
    }
    return names;
  }

 private:
  std::string before_;
};

TEST_F(Attend, EverySetAndThreadCountAgreesWithTheFormulas) {
  for (const AttendLine& line : all_lines()) {
    const AttendCase attend_case(line);
    const AttendResults expected = expected_results(attend_case);
    for (const std::string& kernels : runnable()) {
      ASSERT_TRUE(use_kernels(kernels));
      for (const int threads : {1, 2, 3, 8}) {
        const AttendResults actual = attend_case_results(attend_case, threads);
        EXPECT_EQ(compare(attend_case, expected, actual), "") << reproducer(line, kernels, threads);
        EXPECT_TRUE(actual.intact())
            << "written outside the results: " << reproducer(line, kernels, threads);
      }
    }
  }
}

TEST_F(Attend, TheSameCallGivesTheSameBits) {
  for (const AttendLine& line : all_lines()) {
    const AttendCase attend_case(line);
    for (const int threads : {1, 2, 3, 8}) {
      const AttendResults first = attend_case_results(attend_case, threads);
      EXPECT_EQ(first.difference(attend_case_results(attend_case, threads)), "")
          << reproducer(line, active_kernels(), threads);
    }
  }
}

/// All lines by one kernel that attend() does not know.
void expect_kernel(const ForwardKernel& kernel, const std::string& name, Operands operands) {
  for (const AttendLine& line : all_lines()) {
    const AttendCase attend_case(line);
    AttendResults actual = attend_case.make_results();
    const AttendForward<float> args = attend_case.call(actual);
    const AttendShape& shape = line.shape;
    std::vector<float> scratch(static_cast<size_t>(kernel.scratch(shape, shape.queries) + 16));
    float* aligned = scratch.data() + (64 - reinterpret_cast<uintptr_t>(scratch.data()) % 64) / 4;
    for (int64_t pair = 0; pair < shape.batch * shape.heads; ++pair) {
      kernel.item(args,
                  {.batch = pair / shape.heads,
                   .head = pair % shape.heads,
                   .first_query = 0,
                   .queries = shape.queries,
                   .first_key = 0,
                   .keys = shape.keys},
                  aligned);
    }
    EXPECT_EQ(compare(attend_case, expected_results(attend_case), actual, operands), "")
        << reproducer(line, name, 1);
    EXPECT_TRUE(actual.intact()) << reproducer(line, name, 1);
  }
}

TEST_F(Attend, SixteenLanesAgreeWithTheFormulas) {
  if (wide_lanes_kernels() == nullptr) {
    GTEST_SKIP() << "needs AVX2";
  }
  expect_kernel(wide_lanes_kernels()->attend, "16 lanes", Operands::kFloat32);
}

TEST_F(Attend, EmulatedBfloat16IsWithinItsRounding) {
  if (wide_lanes_bfloat16() == nullptr) {
    GTEST_SKIP() << "needs AVX2";
  }
  expect_kernel(*wide_lanes_bfloat16(), "emulated AVX512_BF16", Operands::kBfloat16);
  expect_kernel(*emulated_amx(), "emulated AMX", Operands::kBfloat16);
}

// The only test of the bfloat16 instructions themselves: on a CPU that has none of them it shows
// that allowing bfloat16 changes nothing.
TEST_F(Attend, AllowingBfloat16RoundsWhereTheCpuMultipliesItOnly) {
  for (const AttendLine& line : all_lines()) {
    const AttendCase attend_case(line);
    const AttendResults expected = expected_results(attend_case);
    for (const std::string& kernels : runnable()) {
      ASSERT_TRUE(use_kernels(kernels));
      for (const int threads : {1, 3}) {
        AttendResults actual = attend_case.make_results();
        AttendForward<float> args = attend_case.call(actual);
        args.bfloat16 = true;
        attend(args, threads);
        const std::string who = reproducer(line, kernels + " allowing bfloat16", threads);
        if (active_bfloat16_kernels()[0] == '\0') {
          EXPECT_EQ(actual.difference(attend_case_results(attend_case, threads)), "") << who;
        } else {
          EXPECT_EQ(compare(attend_case, expected, actual, Operands::kBfloat16), "") << who;
        }
        EXPECT_TRUE(actual.intact()) << who;
      }
    }
  }
}

TEST_F(Attend, LogSumExpIsOptional) {
  for (const char* text : {"q=20 k=77 qk=9 v=9", "q=1 k=2500 qk=9 v=9 grid=keys:2500"}) {
    const AttendCase attend_case(parse_line(text));
    AttendResults with = attend_case.make_results(), without = attend_case.make_results();
    attend(attend_case.call(with), 3);
    AttendForward<float> args = attend_case.call(without);
    args.lse = nullptr;
    attend(args, 3);
    without.lse = with.lse;
    EXPECT_EQ(with.difference(without), "") << text;
  }
}

TEST_F(Attend, AMaskedRowIsZeroAndItsLogSumExpMinusInfinity) {
  const AttendCase attend_case(parse_line("q=3 k=2100 qk=4 v=5 mask=all grid=keys:42x50"));
  for (const int threads : {1, 3}) {
    const AttendResults results = attend_case_results(attend_case, threads);
    for (int64_t i = 0; i < 3; ++i) {
      EXPECT_EQ(results.out.at(0, 0, i, 4), 0);
      EXPECT_EQ(results.sums[0].at(0, 0, i, 41), 0);
      EXPECT_EQ(results.sums[1].at(0, 0, i, 49), 0);
      EXPECT_EQ(results.lse.at(0, 0, 0, i), -std::numeric_limits<float>::infinity());
    }
  }
}

/// The call over keys [first, first + keys) alone.
AttendForward<float> part_of(AttendForward<float> args, int64_t first, int64_t keys) {
  args.shape.keys = keys;
  args.k.data += first * args.k.row;
  args.v.data += first * args.v.row;
  if (args.key_mask != nullptr) {
    args.key_mask += first;
  }
  args.grid.begin += first;
  if (args.grid.scale != nullptr) {
    args.grid.scale += first;
  }
  return args;
}

void merge_rows(GuardedRows& whole, const GuardedRows& part, const std::vector<float>& lse,
                const std::vector<float>& part_lse) {
  std::vector<float> scratch = lse;
  if (whole.width > 0) {
    merge_attended(whole.num_rows, whole.width, whole.rows().data, whole.rows().row, scratch.data(),
                   part.inputs().data, part.inputs().row, part_lse.data());
  }
}

std::vector<float> lse_of(const AttendResults& results) {
  const float* start = results.lse.inputs().data;
  return {start, start + results.lse.width};
}

TEST_F(Attend, ChunksOfKeysMergeIntoTheWhole) {
  for (const char* text : {"q=21 k=700 qk=9 v=33 size=3", "q=21 k=700 qk=9 v=33 mask=last",
                           "q=21 k=700 qk=9 v=33 grid=keys:30x30 begin=111 mask=random",
                           "q=5 k=700 qk=2 v=3 size=100", "q=5 k=700 qk=2 v=3 mask=all"}) {
    const AttendCase attend_case(parse_line(text));
    AttendResults merged = attend_case.make_results();
    attend(part_of(attend_case.call(merged), 0, 1), 1);
    int64_t first = 1;
    for (const int64_t keys : {5, 250, 300, 144}) {
      AttendResults part = attend_case.make_results();
      attend(part_of(attend_case.call(part), first, keys), 2);
      const std::vector<float> lse = lse_of(merged), part_lse = lse_of(part);
      for (int x = 0; x < kMaxGridAxes; ++x) {
        merge_rows(merged.sums[x], part.sums[x], lse, part_lse);
      }
      merge_attended(merged.out.num_rows, merged.out.width, merged.out.rows().data,
                     merged.out.rows().row, merged.lse.rows().data, part.out.inputs().data,
                     part.out.inputs().row, part_lse.data());
      first += keys;
    }
    ASSERT_EQ(first, 700);
    EXPECT_EQ(compare(attend_case, expected_results(attend_case), merged), "") << text;
  }
}

TEST_F(Attend, MergingWithNothingChangesNothing) {
  const float infinity = std::numeric_limits<float>::infinity();
  float out[] = {1, 2, 0, 0, 5, 6}, lse[] = {3, -infinity, -infinity};
  const float part[] = {9, 9, 7, 8, 0, 0}, part_lse[] = {-infinity, 2, -infinity};
  out[4] = out[5] = 0;
  merge_attended(3, 2, out, 2, lse, part, 2, part_lse);
  EXPECT_EQ(std::vector<float>(out, out + 6), (std::vector<float>{1, 2, 7, 8, 0, 0}));
  EXPECT_EQ(std::vector<float>(lse, lse + 3), (std::vector<float>{3, 2, -infinity}));
}

TEST_F(Attend, TheOrderOfKeysDoesNotMatter) {
  const AttendCase attend_case(parse_line("q=50 k=700 qk=16 v=24 size=2"));
  AttendResults permuted = attend_case.make_results();
  AttendForward<float> args = attend_case.call(permuted);
  std::vector<int64_t> order(700);
  std::iota(order.begin(), order.end(), 0);
  std::mt19937 random(5);
  std::shuffle(order.begin(), order.end(), random);
  std::vector<float> keys, values;
  for (const int64_t j : order) {
    keys.insert(keys.end(), args.k.data + j * args.k.row, args.k.data + j * args.k.row + 16);
    values.insert(values.end(), args.v.data + j * args.v.row, args.v.data + j * args.v.row + 24);
  }
  args.k = {keys.data(), 0, 0, 16};
  args.v = {values.data(), 0, 0, 24};
  attend(args, 2);
  EXPECT_EQ(compare(attend_case, expected_results(attend_case), permuted), "");
}

TEST_F(Attend, ABatchIsItsRowsOneByOne) {
  const AttendCase attend_case(
      parse_line("q=50 k=300 batch=3 heads=2 qk=16 v=24 mask=random bias=1"));
  const AttendResults together = attend_case_results(attend_case, 1);
  AttendResults apart = attend_case.make_results();
  for (int64_t b = 0; b < 3; ++b) {
    AttendForward<float> args = attend_case.call(apart);
    args.shape.batch = 1;
    for (Rows<const float>* rows : {&args.q, &args.k, &args.v}) {
      rows->data += b * rows->batch;
    }
    args.out.data += b * args.out.batch;
    args.lse += b * 2 * 50;
    args.key_mask += b * args.key_mask_batch;
    args.key_bias += b * 2 * 300;
    attend(args, 1);
  }
  EXPECT_EQ(together.difference(apart), "");
}

// Vectors reach beyond the last key; what they find there is scratch that earlier calls wrote to.
TEST_F(Attend, WhatAnEarlierCallLeftBehindDoesNotMatter) {
  const AttendCase poison(parse_line("q=60 k=600 qk=4 v=5 grid=keys:600"));
  const std::vector<float> scale(600, std::numeric_limits<float>::quiet_NaN());
  const AttendCase attend_case(parse_line("q=7 k=61 qk=4 v=5 grid=keys:9x13 begin=11"));
  const AttendResults expected = expected_results(attend_case);
  for (const std::string& kernels : runnable()) {
    ASSERT_TRUE(use_kernels(kernels));
    AttendResults ignored = poison.make_results();
    AttendForward<float> args = poison.call(ignored);
    args.grid.scale = scale.data();
    attend(args, 1);
    EXPECT_EQ(compare(attend_case, expected, attend_case_results(attend_case, 1)), "") << kernels;
  }
}

TEST_F(Attend, NotANumberIsNotHidden) {
  const AttendCase attend_case(parse_line("q=3 k=20 qk=4 v=5"));
  for (const std::string& kernels : runnable()) {
    if (kernels == "reference") {
      continue;
    }
    ASSERT_TRUE(use_kernels(kernels));
    AttendResults results = attend_case.make_results();
    AttendForward<float> args = attend_case.call(results);
    std::vector<float> queries(12, 1.0f);
    queries[4] = std::numeric_limits<float>::quiet_NaN();
    args.q = {queries.data(), 0, 0, 4};
    attend(args, 1);
    EXPECT_FALSE(std::isnan(results.out.at(0, 0, 0, 0))) << kernels;
    EXPECT_TRUE(std::isnan(results.out.at(0, 0, 1, 0))) << kernels;
    EXPECT_FALSE(std::isnan(results.out.at(0, 0, 2, 0))) << kernels;
  }
}

TEST(AttendCompare, Bfloat16MayBeOffByItsRoundingOnly) {
  const AttendCase attend_case(parse_line("q=3 k=200 qk=64 v=5"));
  const AttendResults expected = expected_results(attend_case);
  for (const auto& [off, is_allowed] : {std::pair{0.02f, true}, std::pair{0.3f, false}}) {
    AttendResults actual = expected;
    actual.out.at(0, 0, 1, 2) += off;
    EXPECT_NE(compare(attend_case, expected, actual), "") << off;
    EXPECT_EQ(compare(attend_case, expected, actual, Operands::kBfloat16).empty(), is_allowed);
  }
}

TEST(AttendCompare, FindsAnErrorOfAThousandthAndAMinus) {
  const AttendCase attend_case(parse_line("q=3 k=20 qk=4 v=5 grid=keys:20"));
  const AttendResults expected = expected_results(attend_case);
  EXPECT_EQ(compare(attend_case, expected, expected), "");
  for (const float factor : {1.001f, -1.0f, std::numeric_limits<float>::quiet_NaN()}) {
    AttendResults wrong = expected;
    wrong.out.at(0, 0, 1, 2) *= factor;
    EXPECT_NE(compare(attend_case, expected, wrong), "") << factor;
    wrong = expected;
    wrong.sums[0].at(0, 0, 1, 7) *= factor == 1.001f ? 1.1f : factor;
    EXPECT_NE(compare(attend_case, expected, wrong), "") << factor;
    wrong = expected;
    wrong.lse.at(0, 0, 0, 2) *= factor;
    EXPECT_NE(compare(attend_case, expected, wrong), "") << factor;
  }
  AttendResults outside = expected;
  outside.out.rows().data[5] = 0;
  EXPECT_FALSE(outside.intact());
}

}  // namespace
}  // namespace perceiver::kernels
