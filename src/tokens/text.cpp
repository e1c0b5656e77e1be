#include "perceiver/tokens/text.h"

#include <algorithm>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"

namespace perceiver::tokens {

TextBatch batch_text(const std::vector<std::vector<int64_t>>& texts, int64_t length,
                     int64_t pad_id) {
  int64_t longest = 0;
  for (const auto& text : texts) {
    longest = std::max(longest, static_cast<int64_t>(text.size()));
  }
  const int64_t width = length == 0 ? longest : length;
  if (texts.empty() || width < 1) {
    throw Error(ErrorCode::kArgument, cat("no text to batch: ", texts.size(),
                                          " texts, the longest of ", longest, " tokens"));
  }
  if (longest > width) {
    throw Error(ErrorCode::kArgument,
                cat("a text of ", longest, " tokens does not fit a length of ", width));
  }
  const std::vector<int64_t> shape{static_cast<int64_t>(texts.size()), width};
  TextBatch batch{Array::zeros(DType::kI64, shape), Array::zeros(DType::kBool, shape)};
  int64_t* ids = batch.ids.mutable_data<int64_t>();
  bool* mask = batch.mask.mutable_data<bool>();
  std::fill_n(ids, batch.ids.numel(), pad_id);
  for (size_t b = 0; b < texts.size(); ++b) {
    const int64_t row = static_cast<int64_t>(b) * width;
    std::copy(texts[b].begin(), texts[b].end(), ids + row);
    std::fill_n(mask + row, texts[b].size(), true);
  }
  return batch;
}

}  // namespace perceiver::tokens
