#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "perceiver/base/array.h"

namespace perceiver::spec_detail {

/// One tensor a source must hold, under the source's own name.
struct WantedTensor {
  std::string name;
  std::vector<int64_t> shape;
  DType dtype = DType::kF32;  ///< only its kind counts: any float, or any integer
};

/// Compares names, shapes and kinds of dtype.
/// @param where  what to call the source in the message
/// @throws Error(kFormat): one line that lists missing, surplus and misshapen tensors, at most
/// eight
///         of each and how many more
void check_tensors(const std::vector<WantedTensor>& wanted, const ArrayMap& tensors,
                   const std::string& where);

}  // namespace perceiver::spec_detail
