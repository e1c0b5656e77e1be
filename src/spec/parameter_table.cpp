#include <algorithm>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/spec/model_shape.h"
#include "perceiver/spec/parameters.h"
#include "spec/checks.h"
#include "spec/tensor_check.h"

namespace perceiver {
namespace {

using Shape = std::vector<int64_t>;

/// Collects tensors and bounds their sum, so that no later sum can overflow.
class Table {
 public:
  void add(const std::string& name, Shape shape, Init init, int64_t fan_in = 1) {
    const int64_t count = spec_detail::checked_product(shape, name, "shape");
    total_ += count;
    spec_detail::require(total_ <= spec_detail::kMaxCount, "model",
                         "more than 2^40 parameters, reached at ", name, " ", shape_string(shape));
    infos_.push_back({name, std::move(shape), init, fan_in, true, DType::kF32});
  }

  void add_linear(const std::string& name, int64_t in, int64_t out, Init init) {
    add(name + ".weight", {out, in}, init, in);
    add(name + ".bias", {out}, Init::kZeros);
  }

  void add_norm(const std::string& name, int64_t channels) {
    add(name + ".weight", {channels}, Init::kOnes);
    add(name + ".bias", {channels}, Init::kZeros);
  }

  void add_statistic(const std::string& name, Shape shape, Init init, DType dtype) {
    add(name, std::move(shape), init);
    infos_.back().trainable = false;
    infos_.back().dtype = dtype;
  }

  std::vector<ParameterInfo> take() { return std::move(infos_); }

 private:
  std::vector<ParameterInfo> infos_;
  int64_t total_ = 0;
};

void add_attention(Table& table, const std::string& prefix, const AttentionShape& shape) {
  const Init init = Init::kAttentionLinear;
  table.add_norm(prefix + ".norm_queries", shape.query_channels);
  if (!shape.self) {
    table.add_norm(prefix + ".norm_inputs", shape.input_channels);
  }
  table.add_linear(prefix + ".query", shape.query_channels, shape.qk_channels, init);
  table.add_linear(prefix + ".key", shape.input_channels, shape.qk_channels, init);
  table.add_linear(prefix + ".value", shape.input_channels, shape.v_channels, init);
  table.add_linear(prefix + ".output", shape.v_channels, shape.output_channels, init);
  table.add_norm(prefix + ".norm_mlp", shape.query_channels);
  table.add_linear(prefix + ".mlp_in", shape.query_channels, shape.mlp_channels, init);
  table.add_linear(prefix + ".mlp_out", shape.mlp_channels, shape.query_channels, init);
}

// `.extra.<i>` residual linears, then `.projection`, on an encoding of `width` channels.
void add_position_linears(Table& table, const std::string& prefix, const PositionSpec& position,
                          int64_t width) {
  for (int64_t i = 0; i < position.num_extra_linears; ++i) {
    table.add_linear(cat(prefix, ".extra.", i), width, width, Init::kPlainLinear);
  }
  if (position.project_channels > 0) {
    table.add_linear(prefix + ".projection", width, position.project_channels, Init::kPlainLinear);
  }
}

void add_conv_stem(Table& table, const std::string& prefix, const InputSpec& input) {
  int64_t in = input.channels;
  const int64_t out = input.out_channels;
  for (int64_t i = 0; i < input.num_conv_layers; ++i) {
    table.add(cat(prefix, ".conv.", i, ".weight"), {out, in, 7, 7}, Init::kPlainLinear, 49 * in);
    if (input.batch_norm) {
      const std::string norm = cat(prefix, ".batch_norm.", i);
      table.add_norm(norm, out);
      table.add_statistic(norm + ".running_mean", {out}, Init::kZeros, DType::kF32);
      table.add_statistic(norm + ".running_var", {out}, Init::kOnes, DType::kF32);
      table.add_statistic(norm + ".num_batches_tracked", {}, Init::kZeros, DType::kI64);
    }
    in = out;
  }
}

void add_stem(Table& table, const std::string& prefix, const InputSpec& input) {
  switch (input.stem) {
    case Stem::kPixels:
      break;
    case Stem::kLinear:
      table.add_linear(prefix + ".stem", input.channels, input.out_channels, Init::kPlainLinear);
      break;
    case Stem::kConv1x1:
      table.add(prefix + ".stem.weight", {input.out_channels, input.channels, 1, 1},
                Init::kPlainLinear, input.channels);
      table.add(prefix + ".stem.bias", {input.out_channels}, Init::kZeros);
      break;
    case Stem::kConv:
      add_conv_stem(table, prefix, input);
      break;
    case Stem::kPatches:
      if (input.out_channels > 0) {
        const int64_t patch =
            spec_detail::checked_product(input.downsample, prefix, "downsample") * input.channels;
        table.add_linear(prefix + ".stem", patch, input.out_channels, Init::kPlainLinear);
      }
      break;
  }
}

void add_input(Table& table, const ModelSpec& spec, const ModelShape& shape,
               const TokenShape& tokens) {
  const InputSpec& input = spec.input(tokens.name);
  const std::string prefix = "inputs." + input.name;
  if (input.kind == InputKind::kText) {
    table.add(prefix + ".embedding.weight", {input.vocab_size, input.embedding_channels},
              Init::kEmbedding);
  }
  add_stem(table, prefix, input);
  if (input.position.kind == PositionKind::kTrainable) {
    table.add(prefix + ".position.table", {tokens.tokens, tokens.position_table_channels},
              Init::kTable);
  }
  add_position_linears(table, prefix + ".position", input.position, tokens.position_table_channels);
  if (spec.pad_inputs) {
    table.add(prefix + ".padding", {1, tokens.padding_channels}, Init::kTable);
  }
  if (input.mask_probability >= 0) {
    table.add(prefix + ".mask_token", {1, shape.input_channels}, Init::kTable);
  }
}

void add_encoder(Table& table, const EncoderSpec& encoder, const ModelShape& shape) {
  int64_t cross_sets = 0;
  int64_t block_sets = 0;
  for (const EncoderStep& step : encoder_steps(encoder)) {
    int64_t& sets = step.cross ? cross_sets : block_sets;
    sets = std::max(sets, step.weight_set + 1);
  }
  for (int64_t set = 0; set < cross_sets; ++set) {
    add_attention(table, cat("encoder.cross_attend.", set), shape.encoder_cross);
  }
  for (int64_t set = 0; set < block_sets; ++set) {
    for (int64_t layer = 0; layer < encoder.num_self_attends_per_block; ++layer) {
      add_attention(table, cat("encoder.block.", set, ".", layer), shape.self);
    }
  }
}

void add_decoder(Table& table, const ModelSpec& spec, const ModelShape& shape) {
  const bool projection = spec.decoder.kind == DecoderKind::kProjection;
  if (!projection) {
    add_attention(table, "decoder.cross_attend", shape.decoder_cross);
  }
  if (spec.decoder.final_project) {
    const bool divided =
        std::any_of(spec.outputs.begin(), spec.outputs.end(),
                    [](const OutputSpec& output) { return output.divide_by != 1; });
    table.add_linear("decoder.final",
                     projection ? spec.encoder.latent_channels : shape.query_channels,
                     spec.decoder.output_channels,
                     projection || divided ? Init::kZerosByDesign : Init::kPlainLinear);
  }
}

void add_conv_upsample(Table& table, const std::string& prefix, const OutputSpec& output,
                       int64_t in) {
  const int64_t largest = *std::max_element(output.head_factors.begin(), output.head_factors.end());
  int64_t layers = 0;
  while ((int64_t{1} << layers) < largest) {
    ++layers;
  }
  const int64_t taps = output.index_dims.size() == 3 ? 64 : 16;
  for (int64_t i = 0; i < layers; ++i) {
    const int64_t out = output.head_channels << (layers - 1 - i);
    Shape shape{in, out};
    shape.insert(shape.end(), output.index_dims.size(), 4);
    table.add(cat(prefix, ".", i, ".weight"), shape, Init::kPlainLinear, in * taps);
    table.add(cat(prefix, ".", i, ".bias"), {out}, Init::kZeros);
    in = out;
  }
}

void add_head(Table& table, const ModelSpec& spec, const ModelShape& shape,
              const OutputSpec& output) {
  const std::string prefix = "outputs." + output.name + ".head";
  const int64_t width =
      spec.decoder.final_project ? spec.decoder.output_channels : shape.query_channels;
  const Init init = Init::kPlainLinear;
  switch (output.head) {
    case HeadKind::kNone:
    case HeadKind::kDepthToSpace:
      break;
    case HeadKind::kLinear:
      table.add_linear(prefix, width, output.head_channels, init);
      break;
    case HeadKind::kMlp: {
      const int64_t hidden = shape.query_channels > 0 ? shape.query_channels : width;
      table.add_linear(prefix + ".0", width, hidden, init);
      table.add_linear(prefix + ".1", hidden, output.head_channels, init);
      break;
    }
    case HeadKind::kTiedEmbedding:
      table.add(prefix + ".bias", {spec.input(output.of_input).vocab_size}, Init::kZeros);
      break;
    case HeadKind::kConvUpsample:
      add_conv_upsample(table, prefix, output, width);
      break;
    case HeadKind::kConvexUpsample: {
      const int64_t fine = spec_detail::checked_product(output.head_factors, prefix, "factors");
      table.add_linear(prefix + ".0", width, output.head_channels, init);
      table.add_linear(prefix + ".1", width, 9 * fine, init);
      break;
    }
  }
}

void add_output(Table& table, const ModelSpec& spec, const ModelShape& shape,
                const QueryShape& query) {
  const OutputSpec& output = spec.output(query.name);
  const std::string prefix = "outputs." + output.name;
  if (spec.decoder.kind == DecoderKind::kCrossAttend) {
    int64_t width = output.channels;
    if (output.query == QueryKind::kLearned) {
      const int64_t rows = spec_detail::checked_product(output.index_dims, prefix, "index_dims");
      table.add(prefix + ".query.table", {rows, width}, Init::kTable);
    } else if (output.position.kind == PositionKind::kFourier) {
      width = static_cast<int64_t>(output.index_dims.size()) *
              (output.position.num_bands * (output.position.sine_only ? 1 : 2) +
               (output.position.concat_pos ? 1 : 0));
    }
    add_position_linears(table, prefix + ".query", output.position, width);
    if (spec.decoder.pad_queries) {
      table.add(prefix + ".padding", {1, query.padding_channels}, Init::kTable);
    }
  }
  add_head(table, spec, shape, output);
}

}  // namespace

std::vector<ParameterInfo> parameter_table(const ModelSpec& spec) {
  const ModelShape shape = resolve(spec);
  Table table;
  table.add("latents", {spec.encoder.num_latents, spec.encoder.latent_channels}, Init::kTable);
  for (const TokenShape& tokens : shape.inputs) {
    add_input(table, spec, shape, tokens);
  }
  add_encoder(table, spec.encoder, shape);
  add_decoder(table, spec, shape);
  for (const QueryShape& query : shape.outputs) {
    add_output(table, spec, shape, query);
  }
  return table.take();
}

int64_t parameter_count(const ModelSpec& spec) {
  int64_t count = 0;
  for (const ParameterInfo& info : parameter_table(spec)) {
    count += info.trainable ? element_count(info.shape) : 0;
  }
  return count;
}

void check_parameters(const ModelSpec& spec, const ArrayMap& tensors, const std::string& where) {
  std::vector<spec_detail::WantedTensor> wanted;
  for (const ParameterInfo& info : parameter_table(spec)) {
    wanted.push_back({info.name, info.shape, info.dtype});
  }
  spec_detail::check_tensors(wanted, tensors, where);
}

}  // namespace perceiver
