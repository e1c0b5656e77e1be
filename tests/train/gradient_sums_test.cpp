#include "train/gradient_sums.h"

#include <string>

#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/full.h>

#include "perceiver/base/str.h"

namespace perceiver::train {
namespace {

/// Two processes of which the other always has the same values; notes what starts when.
class Mirror : public distributed::Group {
 public:
  explicit Mirror(std::vector<std::string>& log) : log_(log) {}
  int rank() const override { return 0; }
  int size() const override { return 2; }
  int local_rank() const override { return 0; }
  int local_size() const override { return 2; }
  std::string description() const override { return "a mirror"; }
  void sum(std::vector<double>& /*values*/) override {}
  void sum(const std::vector<at::Tensor>& /*tensors*/) override {}
  std::unique_ptr<distributed::Pending> start_sum(const at::Tensor& tensor) override {
    log_.push_back(cat("start ", tensor.numel()));
    return std::make_unique<Doubling>(tensor, log_);
  }
  at::Tensor gather(const at::Tensor& tensor) override { return tensor; }
  void broadcast(const std::vector<at::Tensor>& /*tensors*/) override {}
  void barrier(const std::string& /*what*/) override {}
  void leave(const std::string& /*problem*/) noexcept override {}

 private:
  class Doubling : public distributed::Pending {
   public:
    Doubling(at::Tensor tensor, std::vector<std::string>& log)
        : tensor_(std::move(tensor)), log_(log) {}
    void wait() override {
      tensor_.mul_(2);
      log_.emplace_back("wait");
    }

   private:
    at::Tensor tensor_;
    std::vector<std::string>& log_;
  };
  std::vector<std::string>& log_;
};

class GradientSum : public ::testing::Test {
 protected:
  GradientSum() {
    for (const char* name : {"first", "second", "third", "unused"}) {
      ParameterInfo info;
      info.name = name;
      info.shape = {10};
      parameters_.add(info, at::full({10}, 3.0));
    }
    parameters_.requires_grad(true);
  }
  at::Tensor value(size_t i) { return parameters_.entries()[i].tensor; }
  void backward() {
    // reached in the order third, second, first
    (value(0) * value(1) * value(2)).sum().backward();
  }

  nn::Parameters parameters_;
  std::vector<std::string> log_;
  Mirror group_{log_};
};

TEST_F(GradientSum, AddsUpAndLeavesUnreachedParametersWithout) {
  GradientSums sums(parameters_, group_);
  for (int repeat = 0; repeat < 2; ++repeat) {
    sums.begin();
    backward();
    sums.start_rest();
    sums.finish();
    for (size_t i = 0; i < 3; ++i) {
      EXPECT_TRUE(value(i).grad().equal(at::full({10}, 18.0)));
      value(i).mutable_grad().reset();
    }
    EXPECT_FALSE(value(3).grad().defined());
  }
}

TEST_F(GradientSum, FullBucketsLeaveDuringTheBackwardPassLastParametersFirst) {
  GradientSums sums(parameters_, group_, 20 * sizeof(float));  // two parameters each
  backward();                                                  // a micro-batch that is not the last
  EXPECT_TRUE(log_.empty());
  sums.begin();
  backward();
  // [unused, third] waits for `unused`, and the other one for its turn
  EXPECT_TRUE(log_.empty());
  sums.start_rest();
  EXPECT_EQ(log_, (std::vector<std::string>{"start 22", "start 22"}));
  sums.finish();
  EXPECT_TRUE(value(0).grad().equal(at::full({10}, 36.0)));  // both micro-batches, both processes
  for (size_t i = 0; i < 3; ++i) {
    value(i).mutable_grad().reset();
  }
  log_.clear();
  sums.begin();
  (value(0) * value(1) * value(2) * value(3)).sum().backward();
  EXPECT_EQ(log_, (std::vector<std::string>{"start 22", "start 22"}));  // before the pass ended
}

TEST_F(GradientSum, HooksEndWithTheirOwner) {
  { const GradientSums sums(parameters_, group_); }
  backward();
  EXPECT_TRUE(value(0).grad().equal(at::full({10}, 9.0)));
}

}  // namespace
}  // namespace perceiver::train
