#include "perceiver/kernels/dispatch.h"

#include <cstdio>
#include <cstdlib>
#include <string>
#include <unistd.h>

#include <gtest/gtest.h>

#include "perceiver/kernels/attend.h"

namespace perceiver::kernels {
namespace {

// The choice is made when first asked, so each of these runs in a program of its own.
class ForcedKernelsDeathTest : public testing::Test {
 protected:
  void SetUp() override { GTEST_FLAG_SET(death_test_style, "threadsafe"); }

  [[noreturn]] static void report(const char* forced) {
    if (forced == nullptr) {
      unsetenv("PERCEIVER_KERNELS");
    } else {
      setenv("PERCEIVER_KERNELS", forced, 1);
    }
    std::fprintf(stderr, "[%s][%s]", active_kernels(), kernel_problem());
    _exit(0);
  }
};

TEST_F(ForcedKernelsDeathTest, TheReferenceCanBeForced) {
  EXPECT_EXIT(report("reference"), testing::ExitedWithCode(0), "\\[reference\\]\\[\\]");
  EXPECT_EXIT(report("portable"), testing::ExitedWithCode(0), "\\[portable\\]\\[\\]");
}

TEST_F(ForcedKernelsDeathTest, AnUnknownNameIsAProblem) {
  EXPECT_EXIT(report("sse9"), testing::ExitedWithCode(0),
              "\\[\\]\\[PERCEIVER_KERNELS=sse9 is not one of .*portable reference\\]");
}

// What this CPU runs, asked without the library, which would choose before the program starts anew.
bool cpu_has_avx2() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  return false;
#endif
}
bool cpu_has_avx512() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
#else
  return false;
#endif
}

TEST_F(ForcedKernelsDeathTest, WithoutAWishTheBestRuns) {
  const std::string best = cpu_has_avx512() ? "avx512" : cpu_has_avx2() ? "avx2" : "portable";
  EXPECT_EXIT(report(nullptr), testing::ExitedWithCode(0), "\\[" + best + "\\]\\[\\]");
  EXPECT_EXIT(report(""), testing::ExitedWithCode(0), "\\[" + best + "\\]\\[\\]");
}

TEST_F(ForcedKernelsDeathTest, ASetThatCannotRunHereIsAProblem) {
  if (cpu_has_avx512()) {
    GTEST_SKIP() << "this CPU runs every set";
  }
  EXPECT_EXIT(report("avx512"), testing::ExitedWithCode(0),
              "\\[\\]\\[PERCEIVER_KERNELS=avx512.* (this CPU|not one of)");
}

TEST(KernelSets, OneIsActiveAndTheOthersSayWhyNot) {
  const std::string before = active_kernels();
  ASSERT_TRUE(use_kernels("portable"));
  int active = 0;
  for (const KernelSet& set : kernel_sets()) {
    active += set.active ? 1 : 0;
    EXPECT_EQ(set.active, set.name == "portable");
    EXPECT_EQ(set.reason.empty(), set.active) << set.name;
    if (set.runs_here && !set.active) {
      EXPECT_EQ(set.reason, "portable is forced");
    }
  }
  EXPECT_EQ(active, 1);
  EXPECT_STREQ(active_kernels(), "portable");
  EXPECT_STREQ(kernel_problem(), "");
  EXPECT_FALSE(use_kernels("sse9"));
  for (const KernelSet& set : kernel_sets()) {
    EXPECT_TRUE(set.runs_here || !use_kernels(set.name)) << set.name;
  }
  EXPECT_STREQ(active_kernels(), "portable");
  ASSERT_TRUE(use_kernels(before));
}

bool cpu_has_avx512bf16() {
#if defined(__x86_64__)
  return cpu_has_avx512() && __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}

TEST(KernelSets, Bfloat16AttentionBelongsToAvx512) {
  const std::string before = active_kernels();
  for (const KernelSet& set : kernel_sets()) {
    if (!use_kernels(set.name)) {
      continue;
    }
    int active = 0;
    for (const KernelSet& bfloat16 : bfloat16_kernel_sets()) {
      active += bfloat16.active ? 1 : 0;
      EXPECT_EQ(bfloat16.reason.empty(), bfloat16.active) << bfloat16.name;
      EXPECT_EQ(bfloat16.active, bfloat16.name == active_bfloat16_kernels());
      EXPECT_TRUE(bfloat16.runs_here || !bfloat16.active);
    }
    EXPECT_EQ(active, set.name == "avx512" && cpu_has_avx512bf16() ? 1 : 0) << set.name;
  }
  ASSERT_TRUE(use_kernels(before));
}

TEST(KernelSets, NativeBfloat16CanBeAsked) {
  EXPECT_EQ(has_native_bfloat16(), has_native_bfloat16());
}

}  // namespace
}  // namespace perceiver::kernels
