#include "train/local_start.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/spec/model_shape.h"
#include "perceiver/tokens/positions.h"

namespace perceiver::train {
namespace {

// Channels [begin, end) of one side of an attention that hold position features.
struct Features {
  int64_t begin = 0, end = 0;
};

// `count` different tokens spread evenly over the grid (some twice when there are fewer tokens).
std::vector<int64_t> spread_over(const std::vector<int64_t>& grid, int64_t count) {
  std::vector<int64_t> coarse(grid.size(), 1);
  const auto product = [&] {
    int64_t cells = 1;
    for (const int64_t extent : coarse) {
      cells *= extent;
    }
    return cells;
  };
  while (product() < count) {
    size_t widest = 0;  // the axis whose cells are longest is divided once more
    for (size_t axis = 1; axis < grid.size(); ++axis) {
      if (grid[axis] * coarse[widest] > grid[widest] * coarse[axis]) {
        widest = axis;
      }
    }
    ++coarse[widest];
  }
  const int64_t cells = product();
  std::vector<int64_t> tokens;
  for (int64_t i = 0; i < count; ++i) {
    int64_t cell = i * cells / count;
    int64_t token = 0, stride = 1;
    for (size_t axis = grid.size(); axis-- > 0;) {
      const int64_t at = cell % coarse[axis];
      cell /= coarse[axis];
      token += stride * ((2 * at + 1) * grid[axis] / (2 * coarse[axis]));
      stride *= grid[axis];
    }
    tokens.push_back(token);
  }
  return tokens;
}

// Both sides read their position features by one random map, scaled; other channels do not count.
void share_map(const std::string& module, Features query, Features key, double sharpness,
               ArrayMap& weights) {
  Array& to_query = weights.at(module + "query.weight");
  Array& to_key = weights.at(module + "key.weight");
  const auto factor = static_cast<float>(std::sqrt(sharpness));
  for (int64_t row = 0; row < to_key.size(0); ++row) {
    float* keys = to_key.mutable_data<float>() + row * to_key.size(1);
    float* queries = to_query.mutable_data<float>() + row * to_query.size(1);
    std::vector<float> shared(keys + key.begin, keys + key.end);
    std::fill_n(keys, to_key.size(1), 0.0F);
    std::fill_n(queries, to_query.size(1), 0.0F);
    for (size_t c = 0; c < shared.size(); ++c) {
      keys[key.begin + static_cast<int64_t>(c)] = factor * shared[c];
      queries[query.begin + static_cast<int64_t>(c)] = factor * shared[c];
    }
  }
}

// The grid over which latents are spread; coordinates of a set are [-1, 1] along every axis.
std::vector<int64_t> grid_of(const InputSpec& input, const TokenShape& tokens) {
  static constexpr int64_t kPlacesPerAxis = 64;
  return input.kind == InputKind::kSet
             ? std::vector<int64_t>(static_cast<size_t>(input.coordinates), kPlacesPerAxis)
             : tokens.index_dims;
}

bool asks_by_tokens(const ModelSpec& model) {
  return std::any_of(model.outputs.begin(), model.outputs.end(), [](const OutputSpec& output) {
    return output.query == QueryKind::kInputTokens;
  });
}

}  // namespace

bool has_fourier_places(const ModelSpec& model) {
  if (model.inputs.size() != 1) {
    return false;
  }
  const InputSpec& input = model.inputs[0];
  const PositionSpec& position = input.position;
  return (input.kind == InputKind::kGrid ||
          (input.kind == InputKind::kSet && input.coordinates > 0)) &&
         position.kind == PositionKind::kFourier && position.use == PositionUse::kConcat &&
         position.project_channels == 0 && position.num_extra_linears == 0;
}

void start_local_places(const ModelSpec& model, double sharpness, ArrayMap& weights) {
  const InputSpec& input = model.inputs[0];
  const TokenShape tokens = resolve(model).inputs[0];
  const int64_t width = tokens.position_channels;
  Array& latents = weights.at("latents");
  if (width > latents.size(1)) {
    throw Error(ErrorCode::kArgument,
                cat("init.local_attention needs latents as wide as the position features: "
                    "latent_channels is ",
                    latents.size(1), ", input ", printable(tokens.name), " has ", width));
  }
  const std::vector<int64_t> grid = grid_of(input, tokens);
  const Array places = tokens::fourier_grid(input.position, grid, AxisGrid::kInclusive, DType::kF32)
                           .rows(spread_over(grid, latents.size(0)));
  for (int64_t i = 0; i < latents.size(0); ++i) {
    std::copy_n(places.data<float>() + i * width, width,
                latents.mutable_data<float>() + i * latents.size(1));
  }
  const Features of_latents{0, width};
  const Features of_tokens{tokens.content_channels, tokens.content_channels + width};
  share_map("encoder.cross_attend.0.", of_latents, of_tokens, sharpness, weights);
  if (asks_by_tokens(model)) {
    share_map("decoder.cross_attend.", of_tokens, of_latents, sharpness, weights);
  }
}

}  // namespace perceiver::train
