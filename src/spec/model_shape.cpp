#include "perceiver/spec/model_shape.h"

#include <algorithm>

#include "spec/checks.h"
#include "spec/validate.h"

namespace perceiver {
namespace {

using spec_detail::checked_product;
using spec_detail::kMaxCount;
using spec_detail::kMaxExtent;
using spec_detail::place_of;
using spec_detail::require;

template <typename Part>
std::vector<const Part*> in_name_order(const std::vector<Part>& parts) {
  std::vector<const Part*> order;
  for (const Part& part : parts) {
    order.push_back(&part);
  }
  std::sort(order.begin(), order.end(),
            [](const Part* a, const Part* b) { return a->name < b->name; });
  return order;
}

// One axis through one layer of the conv stem: 7x7/2 convolution, then 3x3/2 max-pool.
int64_t conv_layer_extent(int64_t extent, ConvPadding padding, const std::string& place) {
  const int64_t convolved = (extent + 1) / 2;  // pads (2, 3) and (3, 3) give the same count
  if (padding == ConvPadding::kSame) {
    return (convolved + 1) / 2;
  }
  require(convolved >= 3, place, "extent ", extent,
          " is too small for the unpadded 3x3 max-pool of the conv stem, which needs at least 5");
  return (convolved - 3) / 2 + 1;
}

std::vector<int64_t> conv_grid(const InputSpec& input, ConvPadding padding) {
  std::vector<int64_t> grid = input.index_dims;
  for (size_t axis = grid.size() - 2; axis < grid.size(); ++axis) {
    for (int64_t layer = 0; layer < input.num_conv_layers; ++layer) {
      grid[axis] = conv_layer_extent(grid[axis], padding, place_of(input));
    }
  }
  return grid;
}

std::vector<int64_t> patch_grid(const InputSpec& input) {
  std::vector<int64_t> grid = input.index_dims;
  for (size_t axis = 0; axis < input.downsample.size(); ++axis) {
    require(grid[axis] % input.downsample[axis] == 0, place_of(input), "index_dims ",
            shape_string(input.index_dims), " must be divisible by the patch extents downsample ",
            shape_string(input.downsample));
    grid[axis] /= input.downsample[axis];
  }
  // Frames stacked into one token leave a plane, not a video of one frame (optical flow).
  if (grid.size() == 3 && grid[0] == 1 && input.index_dims[0] > 1) {
    grid.erase(grid.begin());
  }
  return grid;
}

std::vector<int64_t> token_grid(const InputSpec& input, ConvPadding padding) {
  if (input.kind == InputKind::kLabel) {
    return {1};
  }
  if (input.stem == Stem::kConv) {
    return conv_grid(input, padding);
  }
  if (input.stem == Stem::kPatches) {
    return patch_grid(input);
  }
  std::vector<int64_t> grid = input.index_dims;
  for (size_t axis = 0; axis < input.downsample.size(); ++axis) {
    grid[axis] = (grid[axis] + input.downsample[axis] - 1) / input.downsample[axis];
  }
  return grid;
}

int64_t content_width(const InputSpec& input) {
  if (input.kind == InputKind::kText) {
    return input.embedding_channels;
  }
  if (input.out_channels > 0) {
    return input.out_channels;
  }
  if (input.stem == Stem::kPatches) {
    const int64_t patch = checked_product(input.downsample, place_of(input), "downsample");
    return checked_product({patch, input.channels}, place_of(input), "patch and channels");
  }
  return input.channels;
}

// Width of an encoding over `axes` axes before any projection.
int64_t encoding_width(const PositionSpec& position, size_t axes, const std::string& place) {
  switch (position.kind) {
    case PositionKind::kNone:
      require(position.num_channels == 0 && position.project_channels == 0 &&
                  position.num_extra_linears == 0,
              place, "position 'none' takes no num_channels, project_channels, num_extra_linears");
      return 0;
    case PositionKind::kTrainable:
      require(position.num_channels > 0, place, "position.num_channels (", position.num_channels,
              ") of trainable positions must be positive");
      return position.num_channels;
    case PositionKind::kFourier:
      break;
  }
  require(position.max_resolution.empty() || position.max_resolution.size() == axes, place,
          "position.max_resolution ", shape_string(position.max_resolution),
          " must have one entry per position axis, of which there are ", axes);
  const int64_t waves = position.num_bands * (position.sine_only ? 1 : 2);
  return static_cast<int64_t>(axes) * (waves + (position.concat_pos ? 1 : 0));
}

int64_t projected(const PositionSpec& position, int64_t width) {
  return position.project_channels > 0 ? position.project_channels : width;
}

TokenShape resolve_input(const InputSpec& input, ConvPadding padding) {
  const std::string place = place_of(input);
  TokenShape tokens;
  tokens.name = input.name;
  tokens.index_dims = token_grid(input, padding);
  tokens.tokens = checked_product(tokens.index_dims, place, "token grid");
  tokens.content_channels = content_width(input);
  const size_t axes = input.kind == InputKind::kSet ? static_cast<size_t>(input.coordinates)
                                                    : tokens.index_dims.size();
  tokens.position_table_channels = encoding_width(input.position, axes, place);
  const int64_t width = projected(input.position, tokens.position_table_channels);
  if (input.position.use == PositionUse::kConcat) {
    require(input.kind != InputKind::kText || width == 0, place,
            "positions of a text are added: position.use must be 'add'");
    tokens.position_channels = width;
  } else {
    require(width == 0 || width == tokens.content_channels, place, "position channels (", width,
            ") must equal the content channels (", tokens.content_channels, ") to be added");
  }
  require(tokens.channels() > 0 && tokens.channels() <= kMaxExtent, place, "token width (",
          tokens.channels(), ") must be between 1 and 2^31");
  return tokens;
}

void resolve_inputs(const ModelSpec& spec, ModelShape& shape) {
  for (const InputSpec* input : in_name_order(spec.inputs)) {
    shape.inputs.push_back(resolve_input(*input, spec.compatibility.conv_padding));
  }
  const TokenShape& first = shape.inputs.front();
  int64_t widest = 0;
  for (const TokenShape& tokens : shape.inputs) {
    require(spec.pad_inputs || tokens.channels() == first.channels(), "model", "input ",
            printable(tokens.name), " has ", tokens.channels(), " channels and input ",
            printable(first.name), " ", first.channels(),
            ": set pad_inputs to bring them to one width");
    widest = std::max(widest, tokens.channels());
    shape.num_inputs += tokens.tokens;
  }
  shape.input_channels = widest;
  if (spec.pad_inputs) {
    shape.input_channels += spec.min_padding_size;
    for (TokenShape& tokens : shape.inputs) {
      tokens.padding_channels = shape.input_channels - tokens.channels();
    }
  }
}

const TokenShape& tokens_of(const ModelShape& shape, const std::string& name) {
  return *std::find_if(shape.inputs.begin(), shape.inputs.end(),
                       [&](const TokenShape& tokens) { return tokens.name == name; });
}

// Rows and width of queries taken from, or joined with, the tokens of an input.
void resolve_input_query(const OutputSpec& output, const ModelShape& shape, QueryShape& query) {
  const TokenShape& tokens = tokens_of(shape, output.of_input);
  const int64_t asked = checked_product(output.index_dims, place_of(output), "index_dims");
  require(output.index_dims.empty() || asked == tokens.tokens, place_of(output), "index_dims ",
          shape_string(output.index_dims), " has ", asked, " rows, but input ",
          printable(tokens.name), " has ", tokens.tokens, " tokens");
  query.rows = tokens.tokens;
  query.query_channels +=
      output.query == QueryKind::kInputTokens ? tokens.channels() : tokens.content_channels;
}

QueryShape resolve_query(const OutputSpec& output, const ModelShape& shape) {
  QueryShape query;
  query.name = output.name;
  const std::string place = place_of(output);
  switch (output.query) {
    case QueryKind::kLearned:
      query.rows = checked_product(output.index_dims, place, "index_dims");
      query.query_channels = projected(output.position, output.channels);
      break;
    case QueryKind::kFourier:
      query.rows = checked_product(output.index_dims, place, "index_dims");
      [[fallthrough]];
    case QueryKind::kCoordinates:
      query.query_channels = projected(
          output.position, encoding_width(output.position, output.index_dims.size(), place));
      break;
    case QueryKind::kInputTokens:
    case QueryKind::kInputContent:
      resolve_input_query(output, shape, query);
      break;
    case QueryKind::kCaller:
      query.query_channels = output.channels;
      break;
  }
  if (output.concat_input) {
    resolve_input_query(output, shape, query);
  }
  require(query.query_channels > 0 && query.query_channels <= kMaxExtent, place, "query width (",
          query.query_channels, ") must be between 1 and 2^31");
  return query;
}

void resolve_outputs(const ModelSpec& spec, ModelShape& shape) {
  if (spec.decoder.kind == DecoderKind::kProjection) {
    shape.outputs.push_back({spec.outputs.front().name, 1, 0, 0});
    shape.num_outputs = 1;
    return;
  }
  for (const OutputSpec* output : in_name_order(spec.outputs)) {
    shape.outputs.push_back(resolve_query(*output, shape));
  }
  const QueryShape& first = shape.outputs.front();
  int64_t widest = 0;
  for (const QueryShape& query : shape.outputs) {
    require(spec.decoder.pad_queries || query.query_channels == first.query_channels, "decoder",
            "queries of output ", printable(query.name), " have ", query.query_channels,
            " channels and those of output ", printable(first.name), " ", first.query_channels,
            ": set pad_queries to bring them to one width");
    widest = std::max(widest, query.query_channels);
    shape.num_outputs += query.rows;
  }
  shape.query_channels = widest;
  if (spec.decoder.pad_queries) {
    shape.query_channels += spec.decoder.min_padding_size;
    for (QueryShape& query : shape.outputs) {
      query.padding_channels = shape.query_channels - query.query_channels;
    }
  }
}

AttentionShape resolve_attention(const AttentionSpec& spec, int64_t query_channels,
                                 int64_t input_channels, bool self, const std::string& place) {
  AttentionShape shape;
  shape.self = self;
  shape.query_channels = query_channels;
  shape.input_channels = input_channels;
  shape.num_heads = spec.num_heads;
  const bool by_query = self || spec.shape_for_attention == ShapeForAttention::kQueries;
  shape.qk_channels =
      spec.qk_channels > 0 ? spec.qk_channels : (by_query ? query_channels : input_channels);
  shape.v_channels = spec.v_channels > 0 ? spec.v_channels : shape.qk_channels;
  shape.output_channels = query_channels;
  shape.mlp_channels = spec.widening_factor * query_channels;
  shape.use_query_residual = spec.use_query_residual;
  require(shape.qk_channels % shape.num_heads == 0, place, "qk_channels (", shape.qk_channels,
          ") must be divisible by num_heads (", shape.num_heads, ")");
  require(shape.v_channels % shape.num_heads == 0, place, "v_channels (", shape.v_channels,
          ") must be divisible by num_heads (", shape.num_heads, ")");
  require(!self || shape.v_channels == query_channels, place, "v_channels (", shape.v_channels,
          ") must equal latent_channels (", query_channels, ")");
  return shape;
}

// Width of a decoded row as the head receives it.
int64_t row_width(const ModelSpec& spec, const ModelShape& shape) {
  return spec.decoder.final_project ? spec.decoder.output_channels : shape.query_channels;
}

int64_t output_width(const OutputSpec& output, const ModelSpec& spec, int64_t width) {
  if (output.head == HeadKind::kTiedEmbedding) {
    return spec.input(output.of_input).vocab_size;
  }
  return output.head == HeadKind::kNone ? width : output.head_channels;
}

void check_heads(const ModelSpec& spec, const ModelShape& shape) {
  const int64_t width = row_width(spec, shape);
  bool labels_fit = spec.labels.empty();
  for (size_t i = 0; i < spec.outputs.size(); ++i) {
    const OutputSpec& output = *in_name_order(spec.outputs)[i];
    const int64_t rows = shape.outputs[i].rows;
    const std::string place = place_of(output);
    require(!output.single_row || rows == 1, place, "single_row with ", rows, " rows");
    require(!output.keep_grid || !output.index_dims.empty(), place, "keep_grid without index_dims");
    if (output.head == HeadKind::kTiedEmbedding) {
      const int64_t embedding = spec.input(output.of_input).embedding_channels;
      require(width == embedding, place, "decoded rows have ", width,
              " channels, the tied embedding of input ", printable(output.of_input), " has ",
              embedding);
    }
    if (output.head == HeadKind::kDepthToSpace) {
      std::vector<int64_t> block = output.head_factors;
      block.push_back(output.head_channels);
      const int64_t needed = checked_product(block, place, "head_factors and head_channels");
      require(width == needed, place, "decoded rows have ", width,
              " channels, head 'depth_to_space' needs ", needed);
    }
    labels_fit =
        labels_fit || output_width(output, spec, width) == static_cast<int64_t>(spec.labels.size());
  }
  require(labels_fit, "model", spec.labels.size(), " labels, but no output has as many channels");
}

}  // namespace

ModelShape resolve(const ModelSpec& spec) {
  spec_detail::check_fields(spec);
  ModelShape shape;
  resolve_inputs(spec, shape);
  resolve_outputs(spec, shape);
  const EncoderSpec& encoder = spec.encoder;
  const int64_t latent_channels = encoder.latent_channels;
  shape.encoder_cross = resolve_attention(encoder.cross_attend, latent_channels,
                                          shape.input_channels, false, "encoder.cross_attend");
  shape.self = resolve_attention(encoder.self_attend, latent_channels, latent_channels, true,
                                 "encoder.self_attend");
  if (spec.decoder.kind == DecoderKind::kCrossAttend) {
    shape.decoder_cross = resolve_attention(spec.decoder.cross_attend, shape.query_channels,
                                            latent_channels, false, "decoder.cross_attend");
  }
  check_heads(spec, shape);
  return shape;
}

std::vector<EncoderStep> encoder_steps(const EncoderSpec& encoder) {
  std::vector<EncoderStep> steps;
  const auto add_cross = [&](int64_t k) {
    int64_t set = encoder.share_later_cross_attends ? std::min<int64_t>(k, 1) : k;
    if (encoder.share_first_cross_attend) {
      set = std::max<int64_t>(set - 1, 0);  // the first uses the weights of the second
    }
    steps.push_back({true, set});
  };
  const bool at_start = encoder.cross_placement == CrossPlacement::kAtStart;
  const int64_t blocks = encoder.num_blocks;
  const int64_t before = at_start || blocks == 0 ? encoder.num_cross_attends : 0;
  for (int64_t k = 0; k < before; ++k) {
    add_cross(k);
  }
  for (int64_t block = 0; block < blocks; ++block) {
    if (!at_start && block < encoder.num_cross_attends) {
      add_cross(block);
    }
    steps.push_back({false, encoder.share_blocks ? 0 : block});
  }
  return steps;
}

}  // namespace perceiver
