#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

namespace perceiver::train {

/// Token ids of several texts as one array, padded to the longest with [PAD].
struct PaddedIds {
  at::Tensor ids;   ///< [B, T] int64
  at::Tensor mask;  ///< [B, T] bool, true = a token of the text
};

/// @param rows  not empty
PaddedIds pad_ids(const std::vector<std::vector<int64_t>>& rows);

}  // namespace perceiver::train
