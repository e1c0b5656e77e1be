#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "perceiver/spec/model_spec.h"

// The pieces released models are made of, shared by the presets and the reader of transformers'
// config.json.

namespace perceiver::spec_detail {

PositionSpec fourier(int64_t num_bands, std::vector<int64_t> max_resolution);
PositionSpec trainable(int64_t num_channels, int64_t project_channels = 0);

InputSpec text_input(const std::string& name, int64_t max_length, int64_t vocab_size,
                     int64_t embedding_channels);
InputSpec pixel_input(const std::string& name, std::vector<int64_t> index_dims,
                      PositionSpec position);
InputSpec patch_input(const std::string& name, std::vector<int64_t> index_dims, int64_t channels,
                      std::vector<int64_t> patch, PositionSpec position);
InputSpec label_input(const std::string& name, int64_t num_labels);

/// One learned query whose row is the answer: [B, classes].
OutputSpec class_output(const std::string& name, int64_t query_channels);
OutputSpec fourier_output(const std::string& name, std::vector<int64_t> index_dims,
                          PositionSpec position);

EncoderSpec encoder(int64_t num_latents, int64_t latent_channels, int64_t num_blocks,
                    int64_t num_self_attends_per_block, int64_t self_heads, int64_t cross_heads);

/// The classification decoder of the released vision models.
DecoderSpec class_decoder(int64_t num_labels);
/// Mean over latents, then one linear (original Perceiver). Its output is class_output(name, 0)
/// without a query.
DecoderSpec projection_decoder(int64_t num_labels);
OutputSpec projection_output(const std::string& name);

/// Everything as DeepMind's code, or as transformers, behaves.
Compatibility deepmind_compatibility();
Compatibility transformers_compatibility();

}  // namespace perceiver::spec_detail
