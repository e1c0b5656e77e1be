#include <ATen/TensorOperators.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/conv_transpose2d.h>
#include <ATen/ops/conv_transpose3d.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tanh.h>

#include "nn/decoder.h"
#include "perceiver/base/error.h"
#include "perceiver/base/str.h"

namespace perceiver::nn {
namespace {

at::Tensor apply_linear(const Parameters& parameters, const std::string& name,
                        const at::Tensor& x) {
  return at::linear(x, parameters.at(name + ".weight"), parameters.at(name + ".bias"));
}

/// Transposed 4x4(x4) convolutions, each doubling the axes that still lack a factor of two, ReLU
/// between. @param grid [B, axes..., c]
at::Tensor conv_upsample(const StemContext& context, const OutputSpec& output,
                         const at::Tensor& grid) {
  std::vector<int64_t> to_first{0, grid.dim() - 1}, to_last{0};
  for (int64_t axis = 1; axis + 1 < grid.dim(); ++axis) {
    to_first.push_back(axis);
    to_last.push_back(axis + 1);
  }
  to_last.push_back(1);
  at::Tensor x = grid.permute(to_first);
  std::vector<int64_t> left = output.head_factors;
  const std::string prefix = cat("outputs.", output.name, ".head");
  for (int64_t layer = 0; context.parameters.contains(cat(prefix, ".", layer, ".weight"));
       ++layer) {
    std::vector<int64_t> stride, padding, crop_from(left.size());
    for (int64_t& factor : left) {
      stride.push_back(factor > 1 ? 2 : 1);
      factor = factor > 1 ? factor / 2 : 1;
      // SAME: a stride of 2 keeps 2n of 2n + 2 positions; a stride of 1 keeps n of n + 3, and the
      // odd one is dropped at the end
      padding.push_back(1);
    }
    if (layer > 0) {
      x = at::relu(x);
    }
    const at::Tensor& weight = context.parameters.at(cat(prefix, ".", layer, ".weight"));
    const at::Tensor& bias = context.parameters.at(cat(prefix, ".", layer, ".bias"));
    const at::Tensor before = x;
    x = stride.size() == 3 ? at::conv_transpose3d(x, weight, bias, stride, padding)
                           : at::conv_transpose2d(x, weight, bias, stride, padding);
    for (size_t axis = 0; axis < stride.size(); ++axis) {
      const int64_t dim = static_cast<int64_t>(axis) + 2;
      if (stride[axis] == 1) {
        x = x.narrow(dim, 0, before.size(dim));
      }
    }
  }
  return x.permute(to_last);
}

/// RAFT-style upsampling of a coarse field: each fine value is a softmax-weighted combination of
/// the 3x3 coarse neighbours. Weights come from the decoded row; a field of displacements is in
/// pixels of the fine grid already.
/// @param rows [B, h*w, c] decoded rows @return [B, h*fh, w*fw, head_channels]
at::Tensor convex_upsample(const StemContext& context, const OutputSpec& output,
                           const std::vector<int64_t>& grid, const at::Tensor& rows) {
  const std::string prefix = cat("outputs.", output.name, ".head");
  const int64_t batch = rows.size(0), height = grid[0], width = grid[1];
  const int64_t fh = output.head_factors[0], fw = output.head_factors[1];
  const at::Tensor coarse =
      apply_linear(context.parameters, prefix + ".0", rows).view({batch, height, width, -1});
  const at::Tensor weights = at::softmax(
      apply_linear(context.parameters, prefix + ".1", rows).view({batch, height, width, 9, fh, fw}),
      3);
  const at::Tensor padded = at::constant_pad_nd(coarse, {0, 0, 1, 1, 1, 1}, 0);
  at::Tensor fine;
  for (int64_t tap = 0; tap < 9; ++tap) {
    const at::Tensor neighbour = padded.narrow(1, tap / 3, height).narrow(2, tap % 3, width);
    const at::Tensor part = neighbour.view({batch, height, width, -1})
                                .unsqueeze(-1)
                                .unsqueeze(-1)
                                .mul(weights.select(3, tap).unsqueeze(3));  // [B, h, w, c, fh, fw]
    fine = tap == 0 ? part : fine + part;
  }
  return fine.permute({0, 1, 4, 2, 5, 3}).reshape({batch, height * fh, width * fw, -1});
}

bool needs_grid(HeadKind head) {
  return head == HeadKind::kDepthToSpace || head == HeadKind::kConvUpsample ||
         head == HeadKind::kConvexUpsample;
}

}  // namespace

AttentionModule::LastMap final_map(const StemContext& context) {
  if (!context.spec.decoder.final_project) {
    return {};
  }
  return {context.parameters.at("decoder.final.weight"),
          context.parameters.at("decoder.final.bias")};
}

at::Tensor head_rows(const StemContext& context, const OutputSpec& output, const at::Tensor& rows) {
  const Parameters& parameters = context.parameters;
  const std::string head = cat("outputs.", output.name, ".head");
  switch (output.head) {
    case HeadKind::kLinear:
      return apply_linear(parameters, head, rows);
    case HeadKind::kMlp:
      return apply_linear(parameters, head + ".1",
                          at::tanh(apply_linear(parameters, head + ".0", rows)));
    case HeadKind::kTiedEmbedding:
      return at::linear(rows, parameters.at(cat("inputs.", output.of_input, ".embedding.weight")),
                        parameters.at(head + ".bias"));
    default:
      return rows;
  }
}

at::Tensor shape_output(const StemContext& context, const OutputSpec& output,
                        const QueryRows& queries, at::Tensor rows) {
  std::vector<int64_t> grid = queries.grid();
  if (needs_grid(output.head)) {
    if (!queries.whole()) {
      throw Error(ErrorCode::kArgument,
                  cat("[output ", output.name, "] its upsampling head needs every row, but only ",
                      queries.count(), " were asked for"));
    }
    if (output.head == HeadKind::kConvexUpsample) {
      rows = convex_upsample(context, output, grid, rows);
    } else {
      std::vector<int64_t> shape{rows.size(0)};
      shape.insert(shape.end(), grid.begin(), grid.end());
      shape.push_back(rows.size(2));
      rows = output.head == HeadKind::kDepthToSpace
                 ? depth_to_space(rows.view(shape), output.head_factors)
                 : conv_upsample(context, output, rows.view(shape));
    }
    grid = rows.sizes().slice(1, static_cast<size_t>(rows.dim()) - 2).vec();
    rows = rows.reshape({rows.size(0), -1, rows.size(-1)});
  }
  if (output.divide_by != 1) {
    rows = rows / output.divide_by;
  }
  if (output.single_row) {
    return rows.select(1, 0);
  }
  if (output.flatten_channels) {
    return rows.flatten(1, 2);
  }
  if (output.keep_grid && queries.whole()) {
    std::vector<int64_t> shape{rows.size(0)};
    shape.insert(shape.end(), grid.begin(), grid.end());
    shape.push_back(rows.size(2));
    return rows.reshape(shape);
  }
  return rows;
}

}  // namespace perceiver::nn
