#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include <ATen/core/Tensor.h>

#include "perceiver/distributed/group.h"
#include "perceiver/nn/parameters.h"

namespace perceiver::train {

/// Sums gradients over a group while the backward pass still makes them. Parameters lie in buckets
/// in the order in which the pass reaches them, from the outputs to the inputs; a full bucket
/// starts on its way at once. Buckets start in one fixed order on every process, so the bits of the
/// sums depend on the number of processes alone.
///
/// A parameter that got no gradient here but on another process counts as zero here; one that got
/// none anywhere stays without.
class GradientSums {
 public:
  /// Small buckets start early, but a ring of n processes cuts each into n parts and none should be
  /// worth less than the time of a message (docs/many-machines.md).
  static int64_t bucket_bytes_of(int num_processes);

  /// @param parameters  trainable float tensors of one dtype; hooks are set on them until the end
  /// @param bucket_bytes  0 = bucket_bytes_of the group's size
  GradientSums(nn::Parameters& parameters, distributed::Group& group, int64_t bucket_bytes = 0);
  ~GradientSums();
  GradientSums(const GradientSums&) = delete;
  GradientSums& operator=(const GradientSums&) = delete;

  /// The next backward pass is the last one of the step: what it finishes may go.
  void begin();
  /// The pass is over: what is not on its way yet starts, in the same order everywhere.
  void start_rest();
  /// Waits for all sums and makes them the gradients. @throws Error(kIo) as Group does
  void finish();

 private:
  struct Place {
    size_t entry;  ///< of the parameters
    size_t bucket;
    int64_t offset;  ///< of its values
    int64_t mark;    ///< offset of the mark that says whether it has a gradient
    bool done = false;
  };
  struct Bucket {
    at::Tensor values;  ///< gradients one after the other, then their marks
    int64_t waiting = 0, places = 0;
    std::unique_ptr<distributed::Pending> sum;
  };
  class Hook;

  void take(Place& place);
  void start_full_buckets();

  nn::Parameters& parameters_;
  distributed::Group& group_;
  std::vector<Place> places_;
  std::vector<Bucket> buckets_;
  size_t next_ = 0;  ///< bucket to start
  bool open_ = false;
};

}  // namespace perceiver::train
