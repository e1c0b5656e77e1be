#pragma once

#include <ATen/core/Tensor.h>

namespace perceiver::train {

/// Mean softmax cross-entropy in nats. With smoothing s the target is (1 - s) one-hot + s / K.
/// @param logits [B, K] float
/// @param labels [B] int64, 0..K-1, or [B, K] float: shares of the classes in place of one-hot rows
/// @return [], float
at::Tensor softmax_cross_entropy(const at::Tensor& logits, const at::Tensor& labels,
                                 double label_smoothing = 0);

/// The rows of `values` [B, T, ...] where `mask` [B, T] is true: [n, ...].
at::Tensor masked_rows(const at::Tensor& values, const at::Tensor& mask);

/// Mean softmax cross-entropy in nats over the masked places only; 0 (with a gradient of 0) when
/// nothing is masked.
/// @param logits [B, T, V] float  @param tokens [B, T] int64, the original ids  @param mask [B, T]
/// bool
at::Tensor masked_cross_entropy(const at::Tensor& logits, const at::Tensor& tokens,
                                const at::Tensor& mask);

}  // namespace perceiver::train
