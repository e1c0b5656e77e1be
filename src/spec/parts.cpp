#include "spec/parts.h"

#include <utility>

namespace perceiver::spec_detail {

PositionSpec fourier(int64_t num_bands, std::vector<int64_t> max_resolution) {
  PositionSpec position;
  position.kind = PositionKind::kFourier;
  position.num_bands = num_bands;
  position.max_resolution = std::move(max_resolution);
  return position;
}

PositionSpec trainable(int64_t num_channels, int64_t project_channels) {
  PositionSpec position;
  position.kind = PositionKind::kTrainable;
  position.num_channels = num_channels;
  position.project_channels = project_channels;
  return position;
}

InputSpec text_input(const std::string& name, int64_t max_length, int64_t vocab_size,
                     int64_t embedding_channels) {
  InputSpec input;
  input.name = name;
  input.kind = InputKind::kText;
  input.index_dims = {max_length};
  input.vocab_size = vocab_size;
  input.embedding_channels = embedding_channels;
  input.position = trainable(embedding_channels);
  input.position.use = PositionUse::kAdd;
  return input;
}

InputSpec pixel_input(const std::string& name, std::vector<int64_t> index_dims,
                      PositionSpec position) {
  InputSpec input;
  input.name = name;
  input.index_dims = std::move(index_dims);
  input.channels = 3;
  input.position = std::move(position);
  return input;
}

InputSpec patch_input(const std::string& name, std::vector<int64_t> index_dims, int64_t channels,
                      std::vector<int64_t> patch, PositionSpec position) {
  InputSpec input = pixel_input(name, std::move(index_dims), std::move(position));
  input.channels = channels;
  input.stem = Stem::kPatches;
  input.downsample = std::move(patch);
  return input;
}

InputSpec label_input(const std::string& name, int64_t num_labels) {
  InputSpec input;
  input.name = name;
  input.kind = InputKind::kLabel;
  input.channels = num_labels;
  return input;
}

OutputSpec class_output(const std::string& name, int64_t query_channels) {
  OutputSpec output;
  output.name = name;
  output.query = QueryKind::kLearned;
  output.index_dims = {1};
  output.channels = query_channels;
  output.single_row = true;
  return output;
}

OutputSpec fourier_output(const std::string& name, std::vector<int64_t> index_dims,
                          PositionSpec position) {
  OutputSpec output;
  output.name = name;
  output.query = QueryKind::kFourier;
  output.index_dims = std::move(index_dims);
  output.position = std::move(position);
  return output;
}

EncoderSpec encoder(int64_t num_latents, int64_t latent_channels, int64_t num_blocks,
                    int64_t num_self_attends_per_block, int64_t self_heads, int64_t cross_heads) {
  EncoderSpec spec;
  spec.num_latents = num_latents;
  spec.latent_channels = latent_channels;
  spec.num_blocks = num_blocks;
  spec.num_self_attends_per_block = num_self_attends_per_block;
  spec.self_attend.num_heads = self_heads;
  spec.cross_attend.num_heads = cross_heads;
  return spec;
}

DecoderSpec class_decoder(int64_t num_labels) {
  DecoderSpec decoder;
  decoder.cross_attend.use_query_residual = true;
  decoder.output_channels = num_labels;
  return decoder;
}

DecoderSpec projection_decoder(int64_t num_labels) {
  DecoderSpec decoder;
  decoder.kind = DecoderKind::kProjection;
  decoder.output_channels = num_labels;
  return decoder;
}

OutputSpec projection_output(const std::string& name) {
  OutputSpec output = class_output(name, 0);
  output.index_dims.clear();
  return output;
}

Compatibility deepmind_compatibility() {
  Compatibility compatibility;
  compatibility.activation = Activation::kGeluTanh;
  compatibility.conv_padding = ConvPadding::kSame;
  compatibility.masked_rows = MaskedRows::kZero;
  compatibility.decoder_uses_query_mask = true;
  compatibility.batch_norm_average = BatchNormAverage::kZeroDebiased;
  return compatibility;
}

Compatibility transformers_compatibility() {
  Compatibility compatibility;
  compatibility.activation = Activation::kGeluErf;
  compatibility.conv_padding = ConvPadding::kTransformers;
  compatibility.masked_rows = MaskedRows::kMean;
  compatibility.decoder_uses_query_mask = false;
  compatibility.batch_norm_average = BatchNormAverage::kPlain;
  compatibility.attention_dropout = 0.1;
  return compatibility;
}

}  // namespace perceiver::spec_detail
