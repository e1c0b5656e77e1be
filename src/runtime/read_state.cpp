#include <algorithm>
#include <limits>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/kernels/attend.h"
#include "runtime/encode.h"

namespace perceiver::runtime {

void ReadState::reset(int64_t b, int64_t h, int64_t n, int64_t w) {
  batch = b;
  heads = h;
  latents = n;
  width = w;
  tokens = 0;
  lse.assign(static_cast<size_t>(b * h * n), -std::numeric_limits<float>::infinity());
  mean.assign(static_cast<size_t>(b * h * n * w), 0.0F);
  keep_plain(0);
}

void ReadState::keep_plain(int64_t w) {
  plain_width = w;
  plain.assign(static_cast<size_t>(batch * w), 0.0F);
  plain_tokens.assign(w > 0 ? static_cast<size_t>(batch) : 0, 0.0);
}

void ReadState::add_plain(int64_t b, const float* token_mean, double count) {
  if (plain_width == 0 || count == 0) {
    return;
  }
  double& seen = plain_tokens[static_cast<size_t>(b)];
  float* mine = plain.data() + b * plain_width;
  const double share = count / (seen + count);
  for (int64_t c = 0; c < plain_width; ++c) {
    const double old = static_cast<double>(mine[c]);
    mine[c] = static_cast<float>(old + share * (static_cast<double>(token_mean[c]) - old));
  }
  seen += count;
}

void ReadState::merge(const ReadState& other) {
  if (batch != other.batch || heads != other.heads || latents != other.latents ||
      width != other.width || plain_width != other.plain_width) {
    throw Error(ErrorCode::kArgument,
                cat("[encoder state] a state [batch, heads, latents, width] of ",
                    shape_string({other.batch, other.heads, other.latents, other.width}),
                    " can't be merged into one of ", shape_string({batch, heads, latents, width})));
  }
  kernels::merge_attended(batch * heads * latents, width, mean.data(), width, lse.data(),
                          other.mean.data(), width, other.lse.data());
  for (int64_t b = 0; b < batch && plain_width > 0; ++b) {
    add_plain(b, other.plain.data() + b * plain_width, other.plain_tokens[static_cast<size_t>(b)]);
  }
  tokens += other.tokens;
}

}  // namespace perceiver::runtime
