#include "train/initial.h"

#include <cmath>
#include <numbers>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/spec/model_shape.h"
#include "perceiver/spec/parameters.h"
#include "train/local_start.h"
#include "train/start_from.h"

namespace perceiver::train {
namespace {

void scale(Array& tensor, double factor) {
  float* values = tensor.mutable_data<float>();
  for (int64_t i = 0; i < tensor.numel(); ++i) {
    values[i] *= static_cast<float>(factor);
  }
}

// Row i of n lies at x = linspace(-1, 1, n): sines, then cosines, of frequencies from 1 to
// `top` in equal ratios. Tables of different lengths and equal `top` say the same of the same x.
void fill_waves(Array& table, double top, double amplitude) {
  const int64_t rows = table.size(0);
  const int64_t channels = table.size(1);
  const int64_t bands = std::max<int64_t>(1, channels / 2);
  float* out = table.mutable_data<float>();
  for (int64_t i = 0; i < rows; ++i) {
    const double x =
        rows == 1 ? 0 : -1 + 2 * static_cast<double>(i) / static_cast<double>(rows - 1);
    for (int64_t c = 0; c < channels; ++c) {
      const double place =
          static_cast<double>(c % bands) / static_cast<double>(std::max<int64_t>(1, bands - 1));
      const double angle = std::numbers::pi * x * std::pow(top, place);
      const double wave = c < bands ? std::sin(angle) : std::cos(angle);
      *out++ = static_cast<float>(amplitude * std::numbers::sqrt2 * wave);
    }
  }
}

// Names of the trainable position tables: of inputs, and of learned queries where the decoder asks.
std::vector<std::string> position_tables(const ModelSpec& model) {
  std::vector<std::string> names;
  for (const InputSpec& input : model.inputs) {
    if (input.position.kind == PositionKind::kTrainable) {
      names.push_back("inputs." + input.name + ".position.table");
    }
  }
  for (const OutputSpec& output : model.outputs) {
    if (output.query == QueryKind::kLearned && model.decoder.kind != DecoderKind::kProjection) {
      names.push_back("outputs." + output.name + ".query.table");
    }
  }
  return names;
}

// With latents and positions described by the same waves, and queries projected as keys are, latent
// i starts by reading the i-th part of the input, and row i of the output by reading those latents.
void start_local(const ModelShape& shape, double top, double sharpness, ArrayMap& weights) {
  if (!weights.contains("decoder.cross_attend.key.weight")) {
    throw Error(
        ErrorCode::kArgument,
        "init.local_attention needs a decoder that attends, but decoder.kind is projection");
  }
  fill_waves(weights.at("latents"), top, 1);
  for (const std::string module : {"encoder.cross_attend.0.", "decoder.cross_attend."}) {
    Array& key = weights.at(module + "key.weight");
    Array& query = weights.at(module + "query.weight");
    if (query.shape() != key.shape()) {
      throw Error(
          ErrorCode::kArgument,
          cat("init.local_attention needs equal widths of latents, inputs and queries; they "
              "are ",
              shape.encoder_cross.query_channels, ", ", shape.input_channels, " and ",
              shape.query_channels));
    }
    scale(key, std::sqrt(sharpness));
    query = key.clone();
  }
}

}  // namespace

ArrayMap initial_weights(const Recipe& recipe, StartReport* report) {
  const InitSpec& init = recipe.init;
  ArrayMap weights =
      random_parameters(recipe.model, init.scheme, recipe.seed, init.initializer_range);
  for (const InputSpec& input : recipe.model.inputs) {
    if (input.kind == InputKind::kText) {
      scale(weights.at("inputs." + input.name + ".embedding.weight"), init.embedding_scale);
    }
  }
  const std::vector<std::string> tables = position_tables(recipe.model);
  int64_t longest = 2;
  for (const std::string& name : tables) {
    longest = std::max(longest, weights.at(name).size(0));
  }
  const double top = static_cast<double>(longest) / 2;  // one period over two rows
  for (const std::string& name : tables) {
    if (init.sinusoidal_positions) {
      fill_waves(weights.at(name), top, init.position_scale);
    } else {
      scale(weights.at(name), init.position_scale);
    }
  }
  if (init.local_attention > 0) {
    if (has_fourier_places(recipe.model)) {
      start_local_places(recipe.model, init.local_attention, weights);
    } else {
      start_local(resolve(recipe.model), top, init.local_attention, weights);
    }
  }
  if (!recipe.start_from.model.empty()) {
    StartReport started = take_weights(recipe.start_from, recipe.model, weights);
    if (report != nullptr) {
      *report = std::move(started);
    }
  }
  return weights;
}

}  // namespace perceiver::train
