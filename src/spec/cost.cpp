#include "perceiver/spec/cost.h"

#include <algorithm>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/spec/model_shape.h"
#include "perceiver/spec/parameters.h"
#include "spec/real.h"

namespace perceiver {
namespace {

using spec_detail::d;

double matmul(int64_t rows, int64_t inner, int64_t columns) {
  return 2 * d(rows) * d(inner) * d(columns);
}

// One attention module over `queries` rows and `keys` rows.
double module_flops(const AttentionShape& shape, int64_t queries, int64_t keys) {
  return matmul(queries, shape.query_channels, shape.qk_channels) +
         matmul(keys, shape.input_channels, shape.qk_channels) +
         matmul(keys, shape.input_channels, shape.v_channels) +
         matmul(queries, shape.qk_channels, keys) + matmul(queries, keys, shape.v_channels) +
         matmul(queries, shape.v_channels, shape.output_channels) +
         2 * matmul(queries, shape.query_channels, shape.mlp_channels);
}

double score_bytes(const AttentionShape& shape, int64_t queries, int64_t keys) {
  return 4 * d(shape.num_heads) * d(queries) * d(keys);
}

double position_flops(const PositionSpec& position, int64_t rows, int64_t width) {
  return d(position.num_extra_linears) * matmul(rows, width, width) +
         (position.project_channels > 0 ? matmul(rows, width, position.project_channels) : 0);
}

double conv_stem_flops(const InputSpec& input, ConvPadding padding) {
  double flops = 0;
  std::vector<int64_t> grid = input.index_dims;
  int64_t in = input.channels;
  for (int64_t layer = 0; layer < input.num_conv_layers; ++layer) {
    int64_t positions = 1;
    for (size_t axis = 0; axis < grid.size(); ++axis) {
      const int64_t convolved = axis + 2 < grid.size() ? grid[axis] : (grid[axis] + 1) / 2;
      positions *= convolved;
      if (axis + 2 >= grid.size()) {
        grid[axis] = padding == ConvPadding::kSame ? (convolved + 1) / 2 : (convolved - 1) / 2;
      }
    }
    flops += matmul(positions, 49 * in, input.out_channels);
    in = input.out_channels;
  }
  return flops;
}

StageCost preprocess(const ModelSpec& spec, const ModelShape& shape) {
  StageCost stage{"preprocess", 0, 0, 0};
  for (const TokenShape& tokens : shape.inputs) {
    const InputSpec& input = spec.input(tokens.name);
    if (input.stem == Stem::kConv) {
      stage.flops += conv_stem_flops(input, spec.compatibility.conv_padding);
    } else if (input.out_channels > 0) {
      int64_t patch = 1;
      if (input.stem == Stem::kPatches) {
        for (const int64_t extent : input.downsample) {
          patch *= extent;
        }
      }
      stage.flops += matmul(tokens.tokens, patch * input.channels, input.out_channels);
    }
    // A table is projected once for the whole batch, as transformers and DeepMind do.
    stage.flops += position_flops(input.position, tokens.tokens, tokens.position_table_channels);
  }
  return stage;
}

// Work of the encoder's two kinds of steps.
void encode_and_process(const ModelSpec& spec, const ModelShape& shape, StageCost& encode,
                        StageCost& process) {
  const int64_t latents = spec.encoder.num_latents;
  for (const EncoderStep& step : encoder_steps(spec.encoder)) {
    if (step.cross) {
      encode.flops += module_flops(shape.encoder_cross, latents, shape.num_inputs);
    } else {
      process.flops +=
          d(spec.encoder.num_self_attends_per_block) * module_flops(shape.self, latents, latents);
    }
  }
  encode.score_bytes = score_bytes(shape.encoder_cross, latents, shape.num_inputs);
  if (process.flops > 0) {
    process.score_bytes = score_bytes(shape.self, latents, latents);
  }
}

int64_t query_table_width(const OutputSpec& output) {
  if (output.query == QueryKind::kLearned) {
    return output.channels;
  }
  return static_cast<int64_t>(output.index_dims.size()) *
         (output.position.num_bands * (output.position.sine_only ? 1 : 2) +
          (output.position.concat_pos ? 1 : 0));
}

double head_flops(const ModelSpec& spec, const ModelShape& shape, const OutputSpec& output,
                  int64_t rows) {
  const int64_t width =
      spec.decoder.final_project ? spec.decoder.output_channels : shape.query_channels;
  switch (output.head) {
    case HeadKind::kNone:
    case HeadKind::kDepthToSpace:
      return 0;
    case HeadKind::kLinear:
      return matmul(rows, width, output.head_channels);
    case HeadKind::kMlp: {
      const int64_t hidden = shape.query_channels > 0 ? shape.query_channels : width;
      return matmul(rows, width, hidden) + matmul(rows, hidden, output.head_channels);
    }
    case HeadKind::kTiedEmbedding:
      return matmul(rows, width, spec.input(output.of_input).vocab_size);
    case HeadKind::kConvUpsample: {
      double flops = 0;
      const int64_t largest =
          *std::max_element(output.head_factors.begin(), output.head_factors.end());
      const int64_t taps = output.index_dims.size() == 3 ? 64 : 16;
      int64_t in = width;
      int64_t positions = rows;
      for (int64_t reached = 2; reached <= largest; reached *= 2) {
        const int64_t out = output.head_channels * (largest / reached);
        flops += matmul(positions, in * taps, out);  // every input element meets every tap
        for (const int64_t factor : output.head_factors) {
          positions *= factor >= reached ? 2 : 1;
        }
        in = out;
      }
      return flops;
    }
    case HeadKind::kConvexUpsample: {
      int64_t fine = 1;
      for (const int64_t factor : output.head_factors) {
        fine *= factor;
      }
      return matmul(rows, width, output.head_channels + 9 * fine) +
             matmul(rows * fine, 9, output.head_channels);
    }
  }
  return 0;
}

void decode_and_head(const ModelSpec& spec, const ModelShape& shape, int64_t num_outputs,
                     StageCost& decode, StageCost& head) {
  const int64_t latents = spec.encoder.num_latents;
  const int64_t asked = num_outputs < 0 ? shape.num_outputs : num_outputs;
  // Rows of each output in proportion when only some are asked for.
  const double share = shape.num_outputs > 0 ? d(asked) / d(shape.num_outputs) : 0;
  const bool projection = spec.decoder.kind == DecoderKind::kProjection;
  if (!projection) {
    decode.flops += module_flops(shape.decoder_cross, asked, latents);
    decode.score_bytes = score_bytes(shape.decoder_cross, asked, latents);
  }
  if (spec.decoder.final_project) {
    const int64_t width = projection ? spec.encoder.latent_channels : shape.query_channels;
    decode.flops += matmul(asked, width, spec.decoder.output_channels);
  }
  for (const QueryShape& query : shape.outputs) {
    const OutputSpec& output = spec.output(query.name);
    if (!projection) {
      decode.flops +=
          share * position_flops(output.position, query.rows, query_table_width(output));
    }
    head.flops += share * head_flops(spec, shape, output, query.rows);
  }
}

const char* stage_of(const std::string& tensor) {
  if (tensor.starts_with("inputs.")) {
    return "preprocess";
  }
  if (tensor.starts_with("encoder.block.")) {
    return "process";
  }
  if (tensor.starts_with("decoder.") || tensor.find(".query.") != std::string::npos ||
      tensor.ends_with(".padding")) {
    return "decode";
  }
  return tensor.starts_with("outputs.") ? "head" : "encode";
}

}  // namespace

ModelCost textbook_cost(const ModelSpec& spec, int64_t num_outputs) {
  const ModelShape shape = resolve(spec);
  ModelCost cost;
  cost.stages = {preprocess(spec, shape),
                 {"encode", 0, 0, 0},
                 {"process", 0, 0, 0},
                 {"decode", 0, 0, 0},
                 {"head", 0, 0, 0}};
  encode_and_process(spec, shape, cost.stages[1], cost.stages[2]);
  decode_and_head(spec, shape, num_outputs, cost.stages[3], cost.stages[4]);
  for (const ParameterInfo& info : parameter_table(spec)) {
    const auto stage =
        std::find_if(cost.stages.begin(), cost.stages.end(),
                     [&](const StageCost& entry) { return entry.stage == stage_of(info.name); });
    stage->parameters += info.trainable ? element_count(info.shape) : 0;
  }
  for (const StageCost& stage : cost.stages) {
    cost.parameters += stage.parameters;
    cost.flops += stage.flops;
  }
  return cost;
}

double transformer_flops(const TransformerShape& shape) {
  const int64_t tokens = shape.num_tokens;
  const int64_t attended = shape.num_heads * shape.head_channels;
  for (const int64_t number :
       {tokens, shape.input_channels, shape.channels, shape.num_layers, shape.num_heads,
        shape.head_channels, shape.mlp_channels, shape.output_channels}) {
    if (number < 0) {
      throw Error(ErrorCode::kArgument, cat("a Transformer's shape holds ", number));
    }
  }
  const double layer = 3 * matmul(tokens, shape.channels, attended) +
                       2 * matmul(tokens, attended, tokens) +
                       matmul(tokens, attended, shape.channels) +
                       2 * matmul(tokens, shape.channels, shape.mlp_channels);
  return matmul(tokens, shape.input_channels, shape.channels) +
         matmul(tokens, shape.channels, shape.output_channels) + d(shape.num_layers) * layer;
}

}  // namespace perceiver
