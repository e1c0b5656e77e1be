#include "nn/neighbours.h"

#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/zeros.h>

namespace perceiver::nn {
namespace {

using Tensors = std::vector<at::Tensor>;

at::Tensor numbered(at::IntArrayRef shape) {
  return at::arange(c10::multiply_integers(shape), at::kFloat).view(shape);
}

bool same_memory(const at::Tensor& a, const at::Tensor& b) {
  return a.const_data_ptr() == b.const_data_ptr();
}

/// 2, 3 and 4 rows or columns of 9.
Tensors three_parts(const at::Tensor& whole, int64_t dim) {
  return parted(whole, {numbered({2}), numbered({3}), numbered({4})}, dim);
}

TEST(Neighbours, RowsOfOneMemoryAreOneTensor) {
  const at::Tensor whole = numbered({9, 4});
  const Tensors parts = three_parts(whole, 0);
  const at::Tensor rows = as_rows(parts);
  ASSERT_TRUE(rows.defined());
  EXPECT_TRUE(same_memory(rows, whole));
  EXPECT_TRUE(rows.equal(whole));
  EXPECT_TRUE(as_rows({parts[1], parts[2]}).equal(whole.narrow(0, 2, 7)));
  const at::Tensor vector = numbered({7});
  EXPECT_TRUE(as_rows({vector.narrow(0, 0, 3), vector.narrow(0, 3, 4)}).equal(vector));
}

TEST(Neighbours, OtherRowsAreNot) {
  const at::Tensor whole = numbered({9, 4});
  const at::Tensor first = whole.narrow(0, 0, 4), second = whole.narrow(0, 4, 5);
  EXPECT_FALSE(as_rows({second, first}).defined()) << "another order";
  EXPECT_FALSE(as_rows({first, second.clone()}).defined()) << "other memory";
  EXPECT_FALSE(as_rows({first, whole.narrow(0, 5, 4)}).defined()) << "a gap";
  EXPECT_FALSE(as_rows({first, whole.narrow(0, 3, 4)}).defined()) << "an overlap";
  EXPECT_FALSE(as_rows({first, second.view({10, 2})}).defined()) << "another width";
  EXPECT_FALSE(as_rows({first.view(at::kInt), second}).defined()) << "another type";
  const at::Tensor columns = numbered({4, 9}).t();
  EXPECT_FALSE(as_rows({columns.narrow(0, 0, 4), columns.narrow(0, 4, 5)}).defined());
  // a single row is dense whatever the distance to the next
  const at::Tensor row = whole.flatten().as_strided({1, 4}, {9, 1});
  EXPECT_TRUE(as_rows({row, whole.narrow(0, 1, 2)}).equal(whole.narrow(0, 0, 3)));
}

TEST(Neighbours, ColumnsOfOneMatrixAreOneMatrix) {
  const at::Tensor whole = numbered({5, 9});
  const Tensors parts = three_parts(whole, 1);
  const at::Tensor columns = as_columns(parts);
  ASSERT_TRUE(columns.defined());
  EXPECT_TRUE(same_memory(columns, whole));
  EXPECT_TRUE(columns.equal(whole));
  const at::Tensor inner = as_columns({parts[1], parts[2]});
  EXPECT_TRUE(inner.equal(whole.narrow(1, 2, 7)));
  EXPECT_FALSE(as_columns({parts[0], parts[2]}).defined()) << "a gap";
  EXPECT_FALSE(as_columns({parts[0], parts[1].clone()}).defined()) << "other memory";
  EXPECT_FALSE(as_columns({parts[0], parts[1].narrow(0, 0, 4)}).defined()) << "fewer rows";
  const at::Tensor skewed = whole.as_strided({4, 3}, {10, 1}, 2);
  EXPECT_FALSE(as_columns({parts[0].narrow(0, 0, 4), skewed}).defined()) << "another stride";
  // dense rows behind each other are no columns
  const at::Tensor dense = numbered({6, 3});
  EXPECT_FALSE(as_columns({dense.narrow(0, 0, 3), dense.narrow(0, 3, 3)}).defined());
}

TEST(Neighbours, ZerosLieAsTheirPartsDo) {
  const at::Tensor whole = numbered({5, 9}) + 1;
  const Tensors parts = three_parts(whole, 1);
  const Tensors zeros = zeros_lying_as(parts);
  ASSERT_TRUE(as_columns(zeros).defined());
  EXPECT_TRUE(as_columns(zeros).equal(at::zeros({5, 9})));
  EXPECT_FALSE(same_memory(zeros[0], whole));
  for (const Tensors& apart : {Tensors{parts[0], parts[2]}, Tensors{parts[0], whole.clone()}}) {
    const Tensors made = zeros_lying_as(apart);
    for (size_t i = 0; i < made.size(); ++i) {
      EXPECT_TRUE(made[i].equal(at::zeros(apart[i].sizes())));
    }
  }
}

}  // namespace
}  // namespace perceiver::nn
