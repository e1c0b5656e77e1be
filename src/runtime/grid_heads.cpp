#include "runtime/grid_heads.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/tokens/patches.h"
#include "runtime/dnnl_cpu.h"
#include "runtime/linear.h"
#include "runtime/stems.h"
#include "runtime/token_source_cache.h"

namespace perceiver::runtime {
namespace {

using dnnl::memory;

memory::format_tag channels_last(size_t axes) {
  return axes == 3 ? memory::format_tag::ndhwc : memory::format_tag::nhwc;
}

/// One transposed 4x4(x4) convolution. @param x [B, axes..., in] @return [B, axes * stride..., out]
Array transposed_convolution(const Array& x, const Array& weight, const Array& bias,
                             const std::vector<int64_t>& stride, bool relu) {
  const size_t axes = stride.size();
  const int64_t out_channels = weight.size(1);
  std::vector<int64_t> shape = x.shape();
  memory::dims from{x.size(0), x.size(-1)}, to{x.size(0), out_channels};
  memory::dims kernel{out_channels, weight.size(0)}, before(axes, 1), after;
  for (size_t axis = 0; axis < axes; ++axis) {
    from.push_back(shape[axis + 1]);
    shape[axis + 1] *= stride[axis];
    to.push_back(shape[axis + 1]);
    kernel.push_back(4);
    // SAME: a stride of 2 keeps 2n of 2n + 2 positions; a stride of 1 keeps n of n + 3, and the
    // odd one is dropped at the end
    after.push_back(stride[axis] == 1 ? 2 : 1);
  }
  shape.back() = out_channels;
  Array result = Array::zeros(DType::kF32, shape);
  constexpr auto kFloat = memory::data_type::f32;
  const memory::desc source(from, kFloat, channels_last(axes));
  const memory::desc target(to, kFloat, channels_last(axes));
  // LibTorch keeps [in, out, ...]
  const memory::desc given(kernel, kFloat,
                           axes == 3 ? memory::format_tag::bacde : memory::format_tag::bacd);
  const memory::desc shift({out_channels}, kFloat, memory::format_tag::x);
  const memory::desc any(kernel, kFloat, memory::format_tag::any);
  dnnl::post_ops post;
  if (relu) {
    post.append_eltwise(1.0F, dnnl::algorithm::eltwise_relu, 0.0F, 0.0F);
  }
  dnnl::primitive_attr attributes;
  attributes.set_post_ops(post);
  const dnnl::deconvolution_forward::desc operation(dnnl::prop_kind::forward_inference,
                                                    dnnl::algorithm::deconvolution_direct, source,
                                                    any, shift, target, stride, before, after);
  const dnnl::deconvolution_forward::primitive_desc description(operation, attributes, cpu());
  const auto memory_of = [](const memory::desc& desc, const float* data) {
    return memory(desc, cpu(), const_cast<float*>(data));  // only the target is written
  };
  memory plain = memory_of(given, weight.data<float>());
  memory packed(description.weights_desc(), cpu());
  dnnl::stream stream(cpu());
  dnnl::reorder(plain, packed).execute(stream, plain, packed);
  dnnl::deconvolution_forward(description)
      .execute(stream, {{DNNL_ARG_SRC, memory_of(source, x.data<float>())},
                        {DNNL_ARG_WEIGHTS, packed},
                        {DNNL_ARG_BIAS, memory_of(shift, bias.data<float>())},
                        {DNNL_ARG_DST, memory_of(target, result.mutable_data<float>())}});
  stream.wait();
  return result;
}

/// Transposed convolutions, each doubling the axes that still lack a factor of two, ReLU between.
Array conv_upsample(const Weights& weights, const OutputSpec& output, Array x) {
  std::vector<int64_t> left = output.head_factors;
  const auto name = [&](int64_t layer, const char* part) {
    return cat("outputs.", output.name, ".head.", layer, ".", part);
  };
  try {
    for (int64_t layer = 0; weights.contains(name(layer, "weight")); ++layer) {
      std::vector<int64_t> stride;
      for (int64_t& factor : left) {
        stride.push_back(factor > 1 ? 2 : 1);
        factor = factor > 1 ? factor / 2 : 1;
      }
      x = transposed_convolution(x, weights.at(name(layer, "weight")),
                                 weights.at(name(layer, "bias")), stride,
                                 weights.contains(name(layer + 1, "weight")));
    }
  } catch (const dnnl::error& error) {
    throw Error(error.status == dnnl_out_of_memory ? ErrorCode::kIo : ErrorCode::kInternal,
                cat("[output ", output.name, "] oneDNN: ", error.message));
  }
  return x;
}

void softmax_over_taps(float* weights, int64_t fine) {
  for (int64_t k = 0; k < fine; ++k) {
    float* first = weights + k;
    float top = first[0], sum = 0;
    for (int64_t tap = 1; tap < 9; ++tap) {
      top = std::max(top, first[tap * fine]);
    }
    for (int64_t tap = 0; tap < 9; ++tap) {
      sum += first[tap * fine] = std::exp(first[tap * fine] - top);
    }
    for (int64_t tap = 0; tap < 9; ++tap) {
      first[tap * fine] /= sum;
    }
  }
}

/// A coarse field [h, w, c] and what is made of it.
struct Field {
  const float* coarse;
  int64_t height, width, channels;
  int64_t down, across;  ///< fine points of one coarse point
};

/// The fine points of coarse point (y, x). @param weights [9, down * across], neighbour-major
/// @param out  the whole fine field [h * down, w * across, c], zero where we write
void combine(const Field& field, int64_t y, int64_t x, const float* weights, float* out) {
  const int64_t line = field.width * field.across * field.channels;
  float* corner = out + y * field.down * line + x * field.across * field.channels;
  for (int64_t tap = 0; tap < 9; ++tap) {
    const int64_t v = y + tap / 3 - 1, u = x + tap % 3 - 1;
    if (v < 0 || v >= field.height || u < 0 || u >= field.width) {
      continue;  // zero beyond the border
    }
    const float* neighbour = field.coarse + (v * field.width + u) * field.channels;
    for (int64_t i = 0; i < field.down * field.across; ++i) {
      const float weight = weights[tap * field.down * field.across + i];
      float* point = corner + i / field.across * line + i % field.across * field.channels;
      for (int64_t c = 0; c < field.channels; ++c) {
        point[c] += neighbour[c] * weight;
      }
    }
  }
}

/// RAFT-style upsampling of a coarse field: each fine value is a softmax-weighted combination of
/// the 3x3 coarse neighbours. @param rows [B, h * w, c] @return [B, h * fh, w * fw, head_channels]
Array convex_upsample(const Weights& weights, const OutputSpec& output,
                      const std::vector<int64_t>& grid, const Array& rows,
                      SourceCache::Parts& cache) {
  const std::string prefix = cat("outputs.", output.name, ".head");
  const auto coarse_linear = cache.linear(weights, prefix + ".0");
  const auto weights_linear = cache.linear(weights, prefix + ".1");
  const Linear& to_coarse = *coarse_linear;
  const Linear& to_weights = *weights_linear;
  const int64_t points = grid[0] * grid[1], width = rows.size(2);
  std::vector<float> coarse(static_cast<size_t>(points * to_coarse.out()));
  std::vector<float> taps;
  const Field field{
      coarse.data(),         grid[0], grid[1], to_coarse.out(), output.head_factors[0],
      output.head_factors[1]};
  Array fine = Array::zeros(
      DType::kF32, {rows.size(0), grid[0] * field.down, grid[1] * field.across, field.channels});
  for (int64_t b = 0; b < rows.size(0); ++b) {
    const ConstMatrix x(rows.data<float>() + b * points * width, points, width, width);
    to_coarse.apply(x, {coarse.data(), points, field.channels, field.channels});
    float* out = fine.mutable_data<float>() + b * fine.numel() / fine.size(0);
    for (int64_t begin = 0; begin < points; begin += kStemRows) {
      const int64_t count = std::min(kStemRows, points - begin);
      const Matrix scores = StemScratch::matrix(taps, count, to_weights.out());
      to_weights.apply(x.block(begin, begin + count), scores);
      for_pieces(count, scores.columns * field.channels, [&](int64_t from, int64_t to) {
        for (int64_t i = from; i < to; ++i) {
          softmax_over_taps(scores.row(i), field.down * field.across);
          combine(field, (begin + i) / field.width, (begin + i) % field.width, scores.row(i), out);
        }
      });
    }
  }
  return fine;
}

bool needs_grid(HeadKind head) {
  return head == HeadKind::kDepthToSpace || head == HeadKind::kConvUpsample ||
         head == HeadKind::kConvexUpsample;
}

/// [B, rows, c] as [B, grid..., c].
Array on_grid(const Array& rows, const std::vector<int64_t>& grid) {
  std::vector<int64_t> shape{rows.size(0)};
  shape.insert(shape.end(), grid.begin(), grid.end());
  shape.push_back(rows.size(-1));
  return rows.reshape(std::move(shape));
}

Array upsampled(const Weights& weights, const OutputSpec& output, const std::vector<int64_t>& grid,
                const Array& rows, SourceCache::Parts& cache) {
  switch (output.head) {
    case HeadKind::kConvexUpsample:
      return convex_upsample(weights, output, grid, rows, cache);
    case HeadKind::kConvUpsample:
      return conv_upsample(weights, output, on_grid(rows, grid));
    default:
      return tokens::depth_to_space(on_grid(rows, grid), output.head_factors);
  }
}

Array divided(const Array& rows, double divisor) {
  const auto by = static_cast<float>(divisor);
  Array result = Array::zeros(DType::kF32, rows.shape());
  std::transform(rows.data<float>(), rows.data<float>() + rows.numel(),
                 result.mutable_data<float>(), [by](float value) { return value / by; });
  return result;
}

/// Row 0 of each example: [B, rows, c] -> [B, c].
Array first_rows(const OutputSpec& output, const Array& rows) {
  const int64_t width = rows.size(2);
  if (rows.size(1) < 1) {
    throw Error(ErrorCode::kArgument, cat("[output ", output.name, "] no row was asked for"));
  }
  if (rows.size(1) == 1) {
    return rows.reshape({rows.size(0), width});
  }
  Array result = Array::zeros(DType::kF32, {rows.size(0), width});
  for (int64_t b = 0; b < rows.size(0); ++b) {
    std::copy_n(rows.data<float>() + b * rows.size(1) * width, width,
                result.mutable_data<float>() + b * width);
  }
  return result;
}

}  // namespace

Array shape_output(const Weights& weights, const OutputSpec& output,
                   const std::vector<int64_t>& grid, bool whole, Array rows, SourceCache* cache) {
  std::vector<int64_t> extents = grid;
  if (needs_grid(output.head)) {
    if (!whole) {
      throw Error(ErrorCode::kArgument,
                  cat("[output ", output.name, "] its upsampling head needs every row, but only ",
                      rows.size(1), " were asked for"));
    }
    std::optional<SourceCache> own;
    rows =
        upsampled(weights, output, grid, rows, (cache != nullptr ? *cache : own.emplace()).parts());
    extents.assign(rows.shape().begin() + 1, rows.shape().end() - 1);
    rows = rows.reshape({rows.size(0), element_count(extents), rows.size(-1)});
  }
  if (output.divide_by != 1) {
    rows = divided(rows, output.divide_by);
  }
  if (output.single_row) {
    return first_rows(output, rows);
  }
  if (output.flatten_channels) {
    return rows.reshape({rows.size(0), rows.size(1) * rows.size(2)});
  }
  return output.keep_grid && whole ? on_grid(rows, extents) : rows;
}

}  // namespace perceiver::runtime
