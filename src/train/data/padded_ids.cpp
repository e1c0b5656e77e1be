#include "train/data/padded_ids.h"

#include <algorithm>

#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include "perceiver/io/bytes_tokenizer.h"

namespace perceiver::train {

PaddedIds pad_ids(const std::vector<std::vector<int64_t>>& rows) {
  size_t longest = 1;
  for (const auto& row : rows) {
    longest = std::max(longest, row.size());
  }
  const auto count = static_cast<int64_t>(rows.size());
  const auto length = static_cast<int64_t>(longest);
  PaddedIds padded{at::full({count, length}, io::ByteVocabulary::kPad, at::kLong),
                   at::zeros({count, length}, at::kBool)};
  int64_t* ids = padded.ids.mutable_data_ptr<int64_t>();
  bool* mask = padded.mask.mutable_data_ptr<bool>();
  for (const auto& row : rows) {
    std::copy(row.begin(), row.end(), ids);
    std::fill_n(mask, row.size(), true);
    ids += length;
    mask += length;
  }
  return padded;
}

}  // namespace perceiver::train
