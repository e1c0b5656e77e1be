#pragma once

#include "perceiver/distributed/group.h"
#include "perceiver/nn/merger.h"

namespace perceiver::train {

/// The processes of a group as readers of one input.
class GroupMerger : public nn::Merger {
 public:
  explicit GroupMerger(distributed::Group& group) : group_(group) {}
  int rank() const override { return group_.rank(); }
  int size() const override { return group_.size(); }
  at::Tensor gather(const at::Tensor& x) override { return group_.gather(x); }

 private:
  distributed::Group& group_;
};

}  // namespace perceiver::train
