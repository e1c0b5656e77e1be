#include "perceiver/distributed/group.h"

namespace perceiver::distributed {
namespace {

class Alone : public Group {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  void sum(std::vector<double>& /*values*/) override {}
  void sum(const std::vector<at::Tensor>& /*tensors*/) override {}
  void broadcast(const std::vector<at::Tensor>& /*tensors*/) override {}
  void barrier() override {}
};

}  // namespace

std::unique_ptr<Group> alone() {
  return std::make_unique<Alone>();
}

}  // namespace perceiver::distributed
