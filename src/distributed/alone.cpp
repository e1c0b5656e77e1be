#include "perceiver/distributed/group.h"

namespace perceiver::distributed {
namespace {

class Done : public Pending {
 public:
  void wait() override {}
};

class Alone : public Group {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  int local_rank() const override { return 0; }
  int local_size() const override { return 1; }
  std::string description() const override { return "one process"; }
  void sum(std::vector<double>& /*values*/) override {}
  void sum(const std::vector<at::Tensor>& /*tensors*/) override {}
  std::unique_ptr<Pending> start_sum(const at::Tensor& /*tensor*/) override {
    return std::make_unique<Done>();
  }
  at::Tensor gather(const at::Tensor& tensor) override { return tensor.unsqueeze(0); }
  void broadcast(const std::vector<at::Tensor>& /*tensors*/) override {}
  void barrier(const std::string& /*what*/) override {}
  void leave(const std::string& /*problem*/) noexcept override {}
};

}  // namespace

std::unique_ptr<Group> alone() {
  return std::make_unique<Alone>();
}

}  // namespace perceiver::distributed
