#include "runtime/workspace.h"

#include <cstdint>

#include <gtest/gtest.h>

#include "perceiver/base/error.h"

namespace perceiver::runtime {
namespace {

bool aligned(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % 64 == 0;
}

TEST(Workspace, WhatIsTakenIsAlignedApartAndStaysWhereItIs) {
  Workspace workspace;
  const Workspace::Scope scope(workspace);
  float* first = workspace.take(7);
  first[6] = 42;
  float* second = workspace.take(1);
  EXPECT_TRUE(aligned(first) && aligned(second) && aligned(workspace.take_bytes(3)));
  EXPECT_GE(second - first, 7);
  // far more than the first chunk: it must grow beside what is in use
  float* large = workspace.take(10 << 20);
  large[(10 << 20) - 1] = 1;
  EXPECT_EQ(first[6], 42);
}

TEST(Workspace, ScopesGiveBackInStackOrder) {
  Workspace workspace;
  const Workspace::Scope outer(workspace);
  workspace.take(16);
  float* inner_first = nullptr;
  for (int round = 0; round < 3; ++round) {
    const Workspace::Scope inner(workspace);
    float* taken = workspace.take(1000);
    EXPECT_TRUE(inner_first == nullptr || taken == inner_first);
    inner_first = taken;
  }
}

TEST(Workspace, TheSecondRunOfTheSameShapesHoldsNothingMore) {
  Workspace workspace;
  const auto run = [&](int64_t scale) {
    const Workspace::Scope scope(workspace);
    workspace.take(1000 * scale);
    for (int64_t i = 1; i < 20; ++i) {
      const Workspace::Scope inner(workspace);
      workspace.take(100000 * i * scale);
      workspace.matrix(100, 512);
    }
  };
  run(1);
  const int64_t held = workspace.held_bytes();
  const int64_t peak = workspace.peak_bytes();
  for (int round = 0; round < 3; ++round) {
    run(1);
    EXPECT_EQ(workspace.held_bytes(), held);
  }
  EXPECT_EQ(workspace.peak_bytes(), peak);
  EXPECT_LE(held, peak + (int64_t{256} << 10) + 4096);  // no gaps kept
  run(2);
  EXPECT_GT(workspace.peak_bytes(), peak);
}

TEST(Workspace, RowsOfAMatrixNeverLieAPowerOfTwoApart) {
  Workspace workspace;
  const Workspace::Scope scope(workspace);
  for (const int64_t columns : {1, 15, 16, 17, 512, 1024, 1536}) {
    const Matrix m = workspace.matrix(3, columns);
    EXPECT_EQ(m.rows, 3);
    EXPECT_EQ(m.columns, columns);
    EXPECT_GE(m.stride, columns);
    EXPECT_EQ(m.stride % 16, 0);
    EXPECT_EQ(m.stride / 16 % 2, 1);
  }
}

TEST(Workspace, SaysWhenMemoryIsRefused) {
  Workspace workspace;
  EXPECT_THROW(workspace.take(INT64_MAX / 8), Error);
  EXPECT_THROW(workspace.matrix(int64_t{1} << 40, int64_t{1} << 40), Error);
  const Workspace::Scope scope(workspace);
  workspace.take(1)[0] = 1;  // and goes on
}

}  // namespace
}  // namespace perceiver::runtime
