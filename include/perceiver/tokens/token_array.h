#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "perceiver/base/array.h"
#include "perceiver/tokens/positions.h"

namespace perceiver::tokens {

/// One modality's part of a token array, content and positions kept apart: fast plans use the
/// parts, the reference concatenates them to [content | position | constant]. The same type
/// describes inputs and output queries. `Tensor` is Array, or at::Tensor in `nn`.
template <typename Tensor>
struct TokenSegment {
  std::string modality;
  std::vector<int64_t> index_dims;  ///< the grid the tokens lie on; {M} for sets and text
  int64_t tokens = 0;               ///< M_m
  int64_t begin = 0;                ///< grid index of the first token, where a part is read
  Tensor content;                   ///< [B, M_m, Cc]; undefined when there is none
  std::optional<SeparablePositions> separable;  ///< Fourier on a grid
  Tensor positions;            ///< else [M_m, P] or [B, M_m, P]; undefined when none
  bool add_positions = false;  ///< positions are added to the content, not appended
  Tensor constant;             ///< [1, W] channels every token shares; undefined when none
  Tensor mask;                 ///< [B, M_m] bool, true = attend; undefined = all
  /// Learned token [1, C] that stands in for some tokens, and which: [B, M_m] bool.
  Tensor replacement, replaced;
};

/// Tokens of all modalities, in name order.
template <typename Tensor>
struct TokenArray {
  std::vector<TokenSegment<Tensor>> segments;
};

}  // namespace perceiver::tokens
