#include "train/losses.h"

#include <ATen/ops/cross_entropy_loss.h>

namespace perceiver::train {

at::Tensor softmax_cross_entropy(const at::Tensor& logits, const at::Tensor& labels,
                                 double label_smoothing) {
  constexpr int64_t kMean = 1;           // at::Reduction::Mean
  constexpr int64_t kIgnoreNone = -100;  // no label has this value
  return at::cross_entropy_loss(logits, labels, {}, kMean, kIgnoreNone, label_smoothing);
}

at::Tensor masked_rows(const at::Tensor& values, const at::Tensor& mask) {
  return values.flatten(0, 1).index_select(0, mask.flatten().nonzero().squeeze(1));
}

at::Tensor masked_cross_entropy(const at::Tensor& logits, const at::Tensor& tokens,
                                const at::Tensor& mask) {
  const at::Tensor rows = masked_rows(logits, mask);
  if (rows.size(0) == 0) {
    return logits.sum().mul(0);
  }
  return softmax_cross_entropy(rows, masked_rows(tokens, mask));
}

}  // namespace perceiver::train
