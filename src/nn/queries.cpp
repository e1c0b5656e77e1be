#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/tensor.h>

#include "nn/decoder.h"
#include "perceiver/base/error.h"
#include "perceiver/base/str.h"

namespace perceiver::nn {
namespace {

template <typename... Parts>
[[noreturn]] void fail(ErrorCode code, const OutputSpec& output, const Parts&... parts) {
  throw Error(code, cat("[output ", output.name, "] ", parts...));
}

const TokenSegment& find_segment(const TokenArray& tokens, const OutputSpec& output) {
  for (const TokenSegment& segment : tokens.segments) {
    if (segment.modality == output.of_input) {
      return segment;
    }
  }
  fail(ErrorCode::kArgument, output, "needs the tokens of input ", output.of_input,
       ", which were not given");
}

bool caller_gives_rows(const OutputSpec& output) {
  return output.query == QueryKind::kCaller || output.query == QueryKind::kCoordinates;
}

bool rows_are_inputs(const OutputSpec& output) {
  return output.query == QueryKind::kInputTokens || output.query == QueryKind::kInputContent;
}

/// Outputs tied to a text are as long as the text, not as its table.
bool follows_text(const ModelSpec& spec, const OutputSpec& output) {
  return output.query == QueryKind::kLearned && output.head == HeadKind::kTiedEmbedding &&
         spec.input(output.of_input).kind == InputKind::kText;
}

}  // namespace

QueryRows::QueryRows(const StemContext& context, const OutputSpec& output, const TokenArray& tokens,
                     const TensorRequest& request, int64_t batch)
    : context_(context), output_(output), batch_(batch) {
  find_source(tokens, request);
  find_rows(tokens, request);
  const auto mask = request.query_masks.find(output.name);
  if (mask != request.query_masks.end() && context.spec.compatibility.decoder_uses_query_mask) {
    mask_ = mask->second.to(context.options.device(), at::kBool);
    if (mask_.sizes() != at::IntArrayRef({batch_, count_})) {
      fail(ErrorCode::kShape, output, "query mask must be ", shape_string({batch_, count_}),
           ", got ", shape_string(mask_.sizes().vec()));
    }
  }
}

at::Tensor QueryRows::callers_rows(const TensorRequest& request) const {
  const auto given = request.queries.find(output_.name);
  const bool coordinates = output_.query == QueryKind::kCoordinates;
  const int64_t width =
      coordinates ? static_cast<int64_t>(output_.index_dims.size()) : output_.channels;
  if (given == request.queries.end()) {
    fail(ErrorCode::kArgument, output_, "needs ", coordinates ? "coordinates" : "queries",
         " [B, O, ", width, "] from the caller");
  }
  const at::Tensor rows = given->second.to(context_.options);
  if (rows.dim() != 3 || rows.size(0) != batch_ || rows.size(2) != width) {
    fail(ErrorCode::kShape, output_, coordinates ? "coordinates" : "queries", " must be [", batch_,
         ", O, ", width, "], got ", shape_string(rows.sizes().vec()));
  }
  return coordinates
             ? position_linears(context_.parameters, cat("outputs.", output_.name, ".query"),
                                output_.position,
                                fourier_features(output_.position, output_.index_dims, rows))
             : rows;
}

void QueryRows::find_source(const TokenArray& tokens, const TensorRequest& request) {
  if (output_.concat_input) {
    content_ = find_segment(tokens, output_).content;
  }
  if (output_.query == QueryKind::kLearned) {
    const std::string prefix = cat("outputs.", output_.name, ".query");
    source_ = position_linears(context_.parameters, prefix, output_.position,
                               context_.parameters.at(prefix + ".table"));
  } else if (output_.query == QueryKind::kInputTokens) {
    tokens_ = find_segment(tokens, output_);
  } else if (output_.query == QueryKind::kInputContent) {
    source_ = find_segment(tokens, output_).content;
  } else if (caller_gives_rows(output_)) {
    source_ = callers_rows(request);
  }
}

void QueryRows::find_rows(const TokenArray& tokens, const TensorRequest& request) {
  grid_ = output_.index_dims;
  if (rows_are_inputs(output_)) {
    grid_ = find_segment(tokens, output_).index_dims;
  } else if (caller_gives_rows(output_)) {
    grid_ = {source_.size(1)};
  }
  const int64_t rows = element_count(grid_);
  count_ = rows;
  const auto asked = request.points.find(output_.name);
  if (asked != request.points.end()) {
    whole_ = false;
    points_ = asked->second;
    for (const int64_t point : points_) {
      if (point < 0 || point >= rows) {
        fail(ErrorCode::kArgument, output_, "row ", point, " was asked for, but there are ", rows);
      }
    }
    count_ = static_cast<int64_t>(points_.size());
    device_points_ =
        at::tensor(points_, at::TensorOptions().dtype(at::kLong)).to(context_.options.device());
  } else if (follows_text(context_.spec, output_) && !tokens.segments.empty()) {
    count_ = find_segment(tokens, output_).tokens;
    grid_ = {count_};
  }
  if (output_.query == QueryKind::kFourier) {
    const AxisGrid axis = whole_ ? output_.whole_grid : AxisGrid::kHalfOpen;
    fourier_ = tokens::fourier_grid(output_.position, output_.index_dims, axis, context_.tables);
  }
}

at::Tensor QueryRows::indices(int64_t begin, int64_t end) const {
  return whole_ ? at::arange(begin, end, context_.options.dtype(at::kLong))
                : device_points_.narrow(0, begin, end - begin);
}

at::Tensor QueryRows::select_rows(const at::Tensor& rows, int64_t begin, int64_t end) const {
  const int64_t dim = rows.dim() - 2;
  return whole_ ? rows.narrow(dim, begin, end - begin)
                : at::index_select(rows, dim, indices(begin, end));
}

at::Tensor QueryRows::positions(int64_t begin, int64_t end) const {
  const auto grid = context_.grids.get(grid_name(), *fourier_, context_.options);
  const at::Tensor table = grid_rows(*grid, indices(begin, end));
  return position_linears(context_.parameters, cat("outputs.", output_.name, ".query"),
                          output_.position, table);
}

int64_t QueryRows::first_of_run() const {
  if (whole_) {
    return 0;
  }
  for (size_t i = 1; i < points_.size(); ++i) {
    if (points_[i] != points_[i - 1] + 1) {
      return -1;
    }
  }
  return points_.empty() ? -1 : points_[0];
}

std::string QueryRows::grid_name() const {
  if (tokens_) {
    return cat("inputs.", output_.of_input);
  }
  const bool inclusive = whole_ && output_.whole_grid == AxisGrid::kInclusive;
  return cat("outputs.", output_.name, inclusive ? ".inclusive" : ".half_open");
}

std::optional<AbsorbedRows> QueryRows::factored() const {
  TokenSegment segment;
  if (tokens_ && is_factorable(*tokens_) && !content_.defined()) {
    segment = *tokens_;
  } else if (fourier_ && output_.position.num_extra_linears == 0 &&
             output_.position.project_channels == 0) {
    segment.content = content_;
    segment.separable = fourier_;
  }
  const int64_t first = first_of_run();
  if (first < 0 || !segment.separable || !is_factorable(segment)) {
    return std::nullopt;
  }
  segment.tokens = count_;
  if (segment.content.defined()) {
    segment.content = segment.content.narrow(1, first, count_);
  }
  if (context_.spec.decoder.pad_queries) {
    const at::Tensor& padding = context_.parameters.at(cat("outputs.", output_.name, ".padding"));
    segment.constant =
        segment.constant.defined() ? at::cat({segment.constant, padding}, 1) : padding;
  }
  return factored_rows(segment,
                       context_.grids.get(grid_name(), *segment.separable, context_.options), first,
                       context_.spec.compatibility.layer_norm_eps);
}

at::Tensor QueryRows::input_rows(int64_t begin, int64_t end) const {
  if (whole_) {
    if (!source_.defined()) {
      source_ = dense_tokens(*tokens_, context_.grids);
    }
    return select_rows(source_, begin, end);
  }
  TokenSegment asked = *tokens_;
  asked.tokens = end - begin;
  if (asked.content.defined()) {
    asked.content = select_rows(asked.content, begin, end);
  }
  if (asked.positions.defined()) {
    asked.positions = select_rows(asked.positions, begin, end);
  } else if (asked.separable) {
    const auto grid = context_.grids.get(grid_name(), *asked.separable, context_.options);
    asked.positions = grid_rows(*grid, indices(begin, end).add(asked.begin));
  }
  if (asked.replaced.defined()) {
    asked.replaced = select_rows(asked.replaced.unsqueeze(-1), begin, end).squeeze(-1);
  }
  return dense_tokens(asked, context_.grids);
}

at::Tensor QueryRows::block(int64_t begin, int64_t end) const {
  at::Tensor rows = fourier_  ? positions(begin, end)
                    : tokens_ ? input_rows(begin, end)
                              : select_rows(source_, begin, end);
  if (rows.dim() == 2) {
    rows = rows.unsqueeze(0).expand({batch_, -1, -1});
  }
  std::vector<at::Tensor> parts;
  parts.reserve(3);  // GCC 12 warns of a growing vector here
  if (content_.defined()) {
    parts.push_back(select_rows(content_, begin, end));
  }
  parts.push_back(rows);
  if (context_.spec.decoder.pad_queries) {
    const at::Tensor& padding = context_.parameters.at(cat("outputs.", output_.name, ".padding"));
    parts.push_back(padding.unsqueeze(0).expand({batch_, end - begin, -1}));
  }
  return parts.size() == 1 ? parts[0] : at::cat(parts, 2);
}

at::Tensor QueryRows::mask(int64_t begin, int64_t end) const {
  return mask_.defined() ? mask_.narrow(1, begin, end - begin) : mask_;
}

}  // namespace perceiver::nn
