#include "runtime/affine.h"

#include <algorithm>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "runtime/rows.h"

namespace perceiver::runtime {

void Affine::fold_norm(const float* gamma, const float* beta) {
  bias.resize(static_cast<size_t>(out), 0.0F);
  for_rows(out, in, [&](int64_t o) {
    float* row = weight.data() + o * in;
    double shift = 0;
    for (int64_t i = 0; i < in; ++i) {
      shift += static_cast<double>(row[i]) * static_cast<double>(beta[i]);
      row[i] = static_cast<float>(static_cast<double>(row[i]) * static_cast<double>(gamma[i]));
    }
    float& b = bias[static_cast<size_t>(o)];
    b = static_cast<float>(static_cast<double>(b) + shift);
  });
}

Affine compose(const Affine& outer, const Affine& inner) {
  if (outer.in != inner.out) {
    throw Error(ErrorCode::kInternal,
                cat("compose: ", outer.in, " inputs after ", inner.out, " outputs"));
  }
  Affine result;
  result.out = outer.out;
  result.in = inner.in;
  result.weight.resize(static_cast<size_t>(result.out * result.in));
  const bool has_bias = !outer.bias.empty() || !inner.bias.empty();
  result.bias.resize(has_bias ? static_cast<size_t>(result.out) : 0);
  for_rows(result.out, result.in, [&](int64_t o) {
    std::vector<double> sums(static_cast<size_t>(inner.in), 0.0);
    double* sum = sums.data();
    double shift = outer.bias.empty() ? 0 : static_cast<double>(outer.bias[static_cast<size_t>(o)]);
    for (int64_t m = 0; m < outer.in; ++m) {
      const double factor =
          static_cast<double>(outer.weight[static_cast<size_t>(o * outer.in + m)]);
      const float* row = inner.weight.data() + m * inner.in;
#pragma omp simd
      for (int64_t i = 0; i < inner.in; ++i) {
        sum[i] += factor * static_cast<double>(row[i]);
      }
      if (!inner.bias.empty()) {
        shift += factor * static_cast<double>(inner.bias[static_cast<size_t>(m)]);
      }
    }
    std::transform(sums.begin(), sums.end(), result.weight.begin() + o * inner.in,
                   [](double value) { return static_cast<float>(value); });
    if (has_bias) {
      result.bias[static_cast<size_t>(o)] = static_cast<float>(shift);
    }
  });
  return result;
}

Affine rows_between(const Affine& affine, int64_t begin, int64_t end) {
  Affine part{end - begin, affine.in, {}, {}};
  part.weight.assign(affine.weight.begin() + begin * affine.in,
                     affine.weight.begin() + end * affine.in);
  if (!affine.bias.empty()) {
    part.bias.assign(affine.bias.begin() + begin, affine.bias.begin() + end);
  }
  return part;
}

Affine stack(const std::vector<const Affine*>& parts) {
  Affine result;
  bool has_bias = false;
  for (const Affine* part : parts) {
    if (result.in != 0 && part->in != result.in) {
      throw Error(ErrorCode::kInternal, cat("stack: maps of ", result.in, " and ", part->in));
    }
    result.in = part->in;
    result.out += part->out;
    has_bias = has_bias || !part->bias.empty();
  }
  result.weight.reserve(static_cast<size_t>(result.out * result.in));
  for (const Affine* part : parts) {
    result.weight.insert(result.weight.end(), part->weight.begin(), part->weight.end());
    if (has_bias && part->bias.empty()) {
      result.bias.resize(result.bias.size() + static_cast<size_t>(part->out), 0.0F);
    } else {
      result.bias.insert(result.bias.end(), part->bias.begin(), part->bias.end());
    }
  }
  return result;
}

}  // namespace perceiver::runtime
