#include "nn/stems.h"

#include <numbers>

#include <ATen/TensorOperators.h>
#include <ATen/ops/bernoulli.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cos.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/linspace.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/sin.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/upsample_bicubic2d.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include "nn/conv_stem.h"
#include "perceiver/base/error.h"
#include "perceiver/base/str.h"

namespace perceiver::nn {
namespace {

std::string shape_of(const at::Tensor& x) {
  return shape_string(x.sizes().vec());
}

[[noreturn]] void wrong_shape(const InputSpec& input, const std::string& expected,
                              const at::Tensor& given) {
  throw Error(ErrorCode::kShape,
              cat("[input ", input.name, "] expected ", expected, ", got ", shape_of(given)));
}

at::Tensor linear(const StemContext& context, const std::string& prefix, const at::Tensor& x) {
  const at::Tensor& weight = context.parameters.at(prefix + ".weight");
  // a 1x1 convolution keeps its two trailing axes in the checkpoint
  return at::linear(x, weight.view({weight.size(0), weight.size(1)}),
                    context.parameters.at(prefix + ".bias"));
}

/// Every downsample-th element along each axis of [B, axes..., C].
at::Tensor strided(at::Tensor grid, const std::vector<int64_t>& strides) {
  for (size_t axis = 0; axis < strides.size(); ++axis) {
    if (strides[axis] > 1) {
      const int64_t dim = static_cast<int64_t>(axis) + 1;
      grid = grid.slice(dim, 0, grid.size(dim), strides[axis]);
    }
  }
  return grid;
}

at::Tensor patches(const StemContext& context, const InputSpec& input, const std::string& prefix,
                   at::Tensor x) {
  for (size_t axis = 0; axis < input.downsample.size(); ++axis) {
    if (x.size(static_cast<int64_t>(axis) + 1) % input.downsample[axis] != 0) {
      throw Error(ErrorCode::kShape,
                  cat("[input ", input.name, "] extents of ", shape_of(x),
                      " must be divisible by the patch ", shape_string(input.downsample)));
    }
  }
  x = space_to_depth(x, input.downsample);
  if (x.dim() == 5 && x.size(1) == 1 && !input.downsample.empty() && input.downsample[0] > 1) {
    x = x.squeeze(1);  // frames stacked into one token leave a plane (optical flow)
  }
  return input.out_channels > 0 ? linear(context, prefix, x) : x;
}

/// Raw grid [B, extents..., channels] -> content on the token grid [B, token extents..., Cc].
at::Tensor grid_content(const StemContext& context, const InputSpec& input, const at::Tensor& raw) {
  const int64_t axes = static_cast<int64_t>(input.index_dims.size());
  if (raw.dim() != axes + 2 || raw.size(-1) != input.channels) {
    std::vector<int64_t> expected = input.index_dims;
    expected.push_back(input.channels);
    wrong_shape(input, cat("[B] + ", shape_string(expected)), raw);
  }
  const std::string stem = cat("inputs.", input.name, ".stem");
  switch (input.stem) {
    case Stem::kPixels:
      return strided(raw, input.downsample);
    case Stem::kLinear:
    case Stem::kConv1x1:
      return linear(context, stem, strided(raw, input.downsample));
    case Stem::kConv:
      return conv_stem(context, input, raw);
    case Stem::kPatches:
      return patches(context, input, stem, raw);
  }
  throw Error(ErrorCode::kInternal, "unknown stem");
}

/// A learned table for another grid than it was made for: bicubic, as transformers resizes it.
at::Tensor resized_table(const InputSpec& input, const at::Tensor& table,
                         const std::vector<int64_t>& trained, const std::vector<int64_t>& wanted) {
  if (trained == wanted) {
    return table;
  }
  if (trained.size() != 2) {
    throw Error(ErrorCode::kShape, cat("[input ", input.name, "] learned positions for a grid of ",
                                       shape_string(trained), " can't be resized to ",
                                       shape_string(wanted), ": only planes can"));
  }
  const int64_t channels = table.size(1);
  const at::Tensor plane = table.view({1, trained[0], trained[1], channels}).permute({0, 3, 1, 2});
  const at::Tensor resized =
      at::upsample_bicubic2d(plane, {wanted[0], wanted[1]}, /*align_corners=*/false);
  return resized.view({channels, -1}).transpose(0, 1);
}

/// Position features of a segment's tokens: [M_m, P].
at::Tensor position_rows(GridTablesCache& grids, const std::string& input,
                         const tokens::SeparablePositions& positions, const TokenSegment& segment) {
  const auto grid = grids.get(cat("inputs.", input), positions, segment.content.options());
  return grid_rows(*grid, segment.begin, segment.tokens);
}

void add_grid_positions(const StemContext& context, const InputSpec& input,
                        const TokenShape& tokens, TokenSegment& segment) {
  const std::string prefix = cat("inputs.", input.name, ".position");
  const PositionSpec& position = input.position;
  segment.add_positions = position.use == PositionUse::kAdd;
  if (position.kind == PositionKind::kTrainable) {
    const at::Tensor table = resized_table(input, context.parameters.at(prefix + ".table"),
                                           tokens.index_dims, segment.index_dims)
                                 .narrow(0, segment.begin, segment.tokens);
    segment.positions = position_linears(context.parameters, prefix, position, table);
  } else if (position.kind == PositionKind::kFourier) {
    tokens::SeparablePositions grid =
        tokens::fourier_grid(position, segment.index_dims, AxisGrid::kInclusive, context.tables);
    if (position.num_extra_linears == 0 && position.project_channels == 0) {
      segment.separable = std::move(grid);  // dense rows only where a plan reads them
    } else {
      segment.positions = position_linears(context.parameters, prefix, position,
                                           position_rows(context.grids, input.name, grid, segment));
    }
  }
}

TokenSegment text_segment(const StemContext& context, const InputSpec& input,
                          const at::Tensor& ids) {
  // looked at where they were given: mostly on the host
  if (ids.dim() != 2 || ids.size(1) < 1 || ids.size(1) > input.index_dims[0]) {
    wrong_shape(input, cat("token ids [B, T] with 1 <= T <= ", input.index_dims[0]), ids);
  }
  if (ids.is_floating_point()) {
    throw Error(ErrorCode::kShape, cat("[input ", input.name, "] token ids must be integers"));
  }
  if (ids.numel() > 0) {
    const at::Tensor range = at::stack({ids.min(), ids.max()}).to(at::kCPU, at::kLong);
    const int64_t smallest = range[0].item<int64_t>();
    const int64_t largest = range[1].item<int64_t>();
    if (smallest < 0 || largest >= input.vocab_size) {
      throw Error(ErrorCode::kArgument,
                  cat("[input ", input.name, "] token id ", smallest < 0 ? smallest : largest,
                      " is outside the vocabulary of ", input.vocab_size));
    }
  }
  const at::Tensor long_ids = ids.to(context.options.device(), at::kLong);
  TokenSegment segment;
  segment.tokens = ids.size(1);
  segment.index_dims = {segment.tokens};
  segment.content = at::embedding(
      context.parameters.at(cat("inputs.", input.name, ".embedding.weight")), long_ids);
  if (input.position.kind == PositionKind::kTrainable) {
    const std::string prefix = cat("inputs.", input.name, ".position");
    const at::Tensor table = context.parameters.at(prefix + ".table").narrow(0, 0, segment.tokens);
    segment.positions = position_linears(context.parameters, prefix, input.position, table);
    segment.add_positions = true;
  } else {
    TokenShape grid;
    grid.index_dims = segment.index_dims;
    add_grid_positions(context, input, grid, segment);
  }
  return segment;
}

/// The part of `raw` this process reads; raw is the whole input or that part already.
InputPart own_part(const StemContext& context, const InputSpec& input, const at::Tensor& raw) {
  const InputPart part = input_part(input, context.merger->rank(), context.merger->size());
  const auto axes = static_cast<int64_t>(input.index_dims.size());
  bool fits =
      raw.dim() == axes + 2 && (raw.size(1) == input.index_dims[0] || raw.size(1) == part.length);
  for (int64_t axis = 1; fits && axis < axes; ++axis) {
    fits = raw.size(axis + 1) == input.index_dims[static_cast<size_t>(axis)];
  }
  if (!fits) {
    wrong_shape(
        input,
        cat(shape_string(input.index_dims), ", or of the first axis the ", part.length,
            " that process ", context.merger->rank(), " of ", context.merger->size(), " reads"),
        raw);
  }
  return part;
}

TokenSegment grid_segment(const StemContext& context, const InputSpec& input,
                          const TokenShape& tokens, const at::Tensor& raw) {
  at::Tensor own = raw;
  int64_t first = 0;  // slice of the token grid
  if (context.merger != nullptr) {
    const InputPart part = own_part(context, input, raw);
    own = raw.size(1) == part.length ? raw : raw.narrow(1, part.begin, part.length);
    first = part.begin / (input.downsample.empty() ? 1 : input.downsample[0]);
  }
  const at::Tensor content = grid_content(context, input, own.to(context.options));
  TokenSegment segment;
  segment.index_dims = content.sizes().slice(1, static_cast<size_t>(content.dim()) - 2).vec();
  segment.tokens = element_count(segment.index_dims);
  if (context.merger != nullptr) {
    segment.begin = first * (segment.tokens / segment.index_dims[0]);
    segment.index_dims = tokens.index_dims;
  }
  segment.content = content.reshape({content.size(0), segment.tokens, content.size(-1)});
  add_grid_positions(context, input, tokens, segment);
  return segment;
}

TokenSegment label_segment(const StemContext& context, const InputSpec& input,
                           const at::Tensor& raw) {
  if (raw.dim() != 2 || raw.size(1) != input.channels) {
    wrong_shape(input, cat("[B, ", input.channels, "]"), raw);
  }
  TokenSegment segment;
  segment.tokens = 1;
  segment.index_dims = {1};
  segment.content = raw.to(context.options).unsqueeze(1);
  return segment;
}

TokenSegment set_segment(const StemContext& context, const InputSpec& input,
                         const at::Tensor& raw) {
  if (raw.dim() != 3 || raw.size(1) < 1 || raw.size(1) > input.index_dims[0] ||
      raw.size(2) != input.coordinates + input.channels) {
    wrong_shape(input,
                cat("[B, M, ", input.coordinates + input.channels,
                    "] with 1 <= M <= ", input.index_dims[0]),
                raw);
  }
  const at::Tensor values = raw.to(context.options);
  TokenSegment segment;
  segment.tokens = raw.size(1);
  segment.index_dims = {segment.tokens};
  if (input.channels > 0) {
    segment.content = values.narrow(2, input.coordinates, input.channels);
    if (input.stem == Stem::kLinear || input.stem == Stem::kConv1x1) {
      segment.content = linear(context, cat("inputs.", input.name, ".stem"), segment.content);
    }
  }
  if (input.coordinates > 0 && input.position.kind == PositionKind::kFourier) {
    segment.positions = position_linears(
        context.parameters, cat("inputs.", input.name, ".position"), input.position,
        fourier_features(input.position, input.index_dims, values.narrow(2, 0, input.coordinates)));
    segment.add_positions = input.position.use == PositionUse::kAdd;
  }
  return segment;
}

void add_mask_token(const StemContext& context, const InputSpec& input, const TensorInputs& inputs,
                    int64_t batch, TokenSegment& segment) {
  if (input.mask_probability < 0) {
    return;
  }
  const auto given = inputs.replaced.find(input.name);
  if (given != inputs.replaced.end()) {
    segment.replaced = given->second.to(context.options.device(), at::kBool);
    if (segment.replaced.sizes() != at::IntArrayRef({batch, segment.tokens})) {
      wrong_shape(input, cat("replaced tokens ", shape_string({batch, segment.tokens})),
                  segment.replaced);
    }
  } else if (input.mask_probability > 0) {
    const at::Tensor chance =
        at::ones({batch, segment.tokens}, context.options).mul_(input.mask_probability);
    segment.replaced = at::bernoulli(chance).to(at::kBool);
  }
  if (segment.replaced.defined()) {
    segment.replacement = context.parameters.at(cat("inputs.", input.name, ".mask_token"));
  }
}

}  // namespace

int64_t batch_of(const TokenSegment& segment) {
  return segment.content.defined() ? segment.content.size(0) : segment.positions.size(0);
}

TokenSegment make_segment(const StemContext& context, const TokenShape& tokens,
                          const TensorInputs& inputs) {
  const InputSpec& input = context.spec.input(tokens.name);
  const auto found = inputs.arrays.find(input.name);
  if (found == inputs.arrays.end()) {
    throw Error(ErrorCode::kArgument, cat("[input ", input.name, "] is missing"));
  }
  const bool text = input.kind == InputKind::kText;
  const at::Tensor raw = text ? found->second : found->second.to(context.options.device());
  TokenSegment segment;
  switch (input.kind) {
    case InputKind::kText:
      segment = text_segment(context, input, raw);
      break;
    case InputKind::kGrid:
      segment = grid_segment(context, input, tokens, raw);
      break;
    case InputKind::kLabel:
      segment = label_segment(context, input, raw);
      break;
    case InputKind::kSet:
      segment = set_segment(context, input, raw);
      break;
  }
  segment.modality = input.name;
  const auto mask = inputs.masks.find(input.name);
  if (mask != inputs.masks.end()) {
    if (context.merger != nullptr) {
      throw Error(ErrorCode::kUnsupported,
                  cat("[input ", input.name, "] is read by ", context.merger->size(),
                      " processes together and can't have a mask"));
    }
    segment.mask = mask->second.to(context.options.device(), at::kBool);
    if (segment.mask.sizes() != at::IntArrayRef({raw.size(0), segment.tokens})) {
      wrong_shape(input, cat("a mask of ", shape_string({raw.size(0), segment.tokens})),
                  segment.mask);
    }
  }
  if (context.spec.pad_inputs) {
    segment.constant = context.parameters.at(cat("inputs.", input.name, ".padding"));
  }
  add_mask_token(context, input, inputs, raw.size(0), segment);
  return segment;
}

at::Tensor positioned(const TokenSegment& segment, GridTablesCache& grids) {
  at::Tensor positions = segment.positions;
  if (segment.separable && !positions.defined()) {
    positions = position_rows(grids, segment.modality, *segment.separable, segment);
  }
  if (!positions.defined()) {
    return segment.content;
  }
  if (segment.add_positions) {
    return segment.content + positions;
  }
  if (!segment.content.defined()) {
    return positions;
  }
  if (positions.dim() == 2) {
    positions = positions.unsqueeze(0).expand({segment.content.size(0), -1, -1});
  }
  return at::cat({segment.content, positions}, 2);
}

at::Tensor dense_tokens(const TokenSegment& segment, GridTablesCache& grids) {
  at::Tensor tokens = positioned(segment, grids);
  if (segment.constant.defined()) {
    const at::Tensor padding =
        segment.constant.unsqueeze(0).expand({tokens.size(0), tokens.size(1), -1});
    tokens = at::cat({tokens, padding}, 2);
  }
  return segment.replaced.defined()
             ? at::where(segment.replaced.unsqueeze(-1), segment.replacement, tokens)
             : tokens;
}

at::Tensor space_to_depth(const at::Tensor& grid, const std::vector<int64_t>& block) {
  const int64_t axes = grid.dim() - 2;
  std::vector<int64_t> split{grid.size(0)}, order{0}, inner, merged{grid.size(0)};
  int64_t channels = grid.size(-1);
  for (int64_t axis = 0; axis < axes; ++axis) {
    const int64_t extent = block.empty() ? 1 : block[static_cast<size_t>(axis)];
    split.push_back(grid.size(axis + 1) / extent);
    split.push_back(extent);
    order.push_back(2 * axis + 1);
    inner.push_back(2 * axis + 2);
    merged.push_back(grid.size(axis + 1) / extent);
    channels *= extent;
  }
  split.push_back(grid.size(-1));
  order.insert(order.end(), inner.begin(), inner.end());
  order.push_back(2 * axes + 1);
  merged.push_back(channels);
  return grid.reshape(split).permute(order).reshape(merged);
}

at::Tensor depth_to_space(const at::Tensor& grid, const std::vector<int64_t>& block) {
  const int64_t axes = grid.dim() - 2;
  std::vector<int64_t> split(grid.sizes().begin(), grid.sizes().end() - 1), order{0},
      merged{grid.size(0)};
  int64_t channels = grid.size(-1);
  for (int64_t axis = 0; axis < axes; ++axis) {
    const int64_t extent = block[static_cast<size_t>(axis)];
    split.push_back(extent);
    order.push_back(axis + 1);
    order.push_back(axes + 1 + axis);
    merged.push_back(grid.size(axis + 1) * extent);
    channels /= extent;
  }
  split.push_back(channels);
  order.push_back(2 * axes + 1);
  merged.push_back(channels);
  return grid.reshape(split).permute(order).reshape(merged);
}

at::Tensor position_linears(const Parameters& parameters, const std::string& prefix,
                            const PositionSpec& position, at::Tensor encoding) {
  const auto apply = [&](const std::string& name, const at::Tensor& x) {
    return at::linear(x, parameters.at(name + ".weight"), parameters.at(name + ".bias"));
  };
  for (int64_t i = 0; i < position.num_extra_linears; ++i) {
    encoding = encoding + apply(cat(prefix, ".extra.", i), encoding);
    if (i + 1 < position.num_extra_linears) {
      encoding = at::relu(encoding);
    }
  }
  return position.project_channels > 0 ? apply(prefix + ".projection", encoding) : encoding;
}

at::Tensor fourier_features(const PositionSpec& position, const std::vector<int64_t>& grid,
                            const at::Tensor& coordinates) {
  const std::vector<int64_t>& resolution =
      position.max_resolution.empty() ? grid : position.max_resolution;
  const int64_t axes = coordinates.size(-1);
  std::vector<at::Tensor> sines, cosines;
  for (int64_t axis = 0; axis < axes; ++axis) {
    const double top = static_cast<double>(resolution[static_cast<size_t>(axis)]) / 2;
    const at::Tensor bands = at::linspace(1.0, top, position.num_bands, coordinates.options());
    const at::Tensor phase = coordinates.narrow(-1, axis, 1) * bands * std::numbers::pi;
    sines.push_back(at::sin(phase));
    if (!position.sine_only) {
      cosines.push_back(at::cos(phase));
    }
  }
  std::vector<at::Tensor> parts;
  if (position.concat_pos) {
    parts.push_back(coordinates);
  }
  parts.insert(parts.end(), sines.begin(), sines.end());
  parts.insert(parts.end(), cosines.begin(), cosines.end());
  return at::cat(parts, -1);
}

}  // namespace perceiver::nn
