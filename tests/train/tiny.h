#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "perceiver/base/json.h"

// Data sets and recipes small enough to train in a second.

namespace perceiver::train::test {

/// A folder that is gone after the test.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "perceiver_train_XXXXXX").string();
    path_ = ::mkdtemp(name.data());
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

inline void write_bytes(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

inline std::string idx(const std::vector<uint32_t>& shape, const std::string& values) {
  std::string bytes{'\0', '\0', '\x08', static_cast<char>(shape.size())};
  for (const uint32_t extent : shape) {
    for (int shift = 24; shift >= 0; shift -= 8) {
      bytes += static_cast<char>(extent >> shift & 0xFF);
    }
  }
  return bytes + values;
}

/// `count` pictures of 4x4: class 0 is bright on the left, class 1 on the right.
inline void write_pictures(const TemporaryFolder& folder, const std::string& part, int count) {
  std::string pixels;
  std::string labels;
  for (int i = 0; i < count; ++i) {
    for (int k = 0; k < 16; ++k) {
      const bool left = k % 4 < 2;
      pixels += static_cast<char>((left == (i % 2 == 0) ? 200 : 20) + (i * 7 + k * 3) % 40);
    }
    labels += static_cast<char>(i % 2);
  }
  write_bytes(folder / (part + "_images"), idx({static_cast<uint32_t>(count), 4, 4}, pixels));
  write_bytes(folder / (part + "_labels"), idx({static_cast<uint32_t>(count)}, labels));
}

inline Json image_recipe() {
  return Json::parse(R"({
    "name": "tiny", "task": "image_classification",
    "model": {"spec": {
      "name": "tiny",
      "inputs": [{"name": "image", "kind": "grid", "index_dims": [4, 4], "channels": 1,
                  "position": {"kind": "fourier", "num_bands": 2}}],
      "encoder": {"num_latents": 4, "latent_channels": 8, "self_attend": {"num_heads": 2},
                  "num_self_attends_per_block": 1},
      "decoder": {"output_channels": 2},
      "outputs": [{"name": "logits", "query": "learned", "index_dims": [1], "channels": 8,
                   "single_row": true}],
      "compatibility": {"dropout": 0.1}}},
    "data": {"train_images": "train_images", "train_labels": "train_labels",
             "test_images": "test_images", "test_labels": "test_labels",
             "augment": {"shift": 0.5, "rotation": 5}},
    "preprocessor": {"image_mean": [0.5], "image_std": [0.25]},
    "optimiser": {"kind": "lamb", "learning_rate": 0.02, "weight_decay": 0.01, "clip_norm": 10},
    "schedule": {"kind": "constant_cosine"},
    "batch_size": 8, "steps": 12, "seed": 3})");
}

inline Json language_recipe() {
  return Json::parse(R"({
    "name": "tiny-text", "task": "masked_language_model",
    "model": {"hugging_face": {
      "architectures": ["PerceiverForMaskedLM"], "model_type": "perceiver", "num_latents": 8,
      "d_latents": 16, "d_model": 16, "num_self_attends_per_block": 1, "num_self_attention_heads": 2,
      "num_cross_attention_heads": 2, "qk_channels": 16, "v_channels": 16,
      "attention_probs_dropout_prob": 0.0, "max_position_embeddings": 16, "vocab_size": 262}},
    "init": {"embedding_scale": 0.1, "sinusoidal_positions": true, "position_scale": 0.1,
             "local_attention": 1.0},
    "data": {"files": [{"path": "text"}], "held_out": 0.2, "short_fraction": 0.5, "short_minimum": 4},
    "masking": {"rate": 0.3, "byte_weight": 1, "word_weight": 1, "span_weight": 1, "visible_weight": 0.5},
    "optimiser": {"kind": "adamw", "learning_rate": 0.01, "beta2": 0.98, "clip_norm": 1},
    "schedule": {"kind": "cosine", "warmup_steps": 3},
    "batch_size": 16, "steps": 30, "seed": 7})");
}

inline Json series_recipe() {
  return Json::parse(R"({
    "name": "tiny-series", "task": "series",
    "model": {"spec": {
      "name": "tiny-series",
      "inputs": [{"name": "sensors", "kind": "grid", "index_dims": [16], "channels": 2,
                  "position": {"kind": "fourier", "num_bands": 4}}],
      "encoder": {"num_latents": 4, "latent_channels": 16, "self_attend": {"num_heads": 2},
                  "num_self_attends_per_block": 1},
      "decoder": {"output_channels": 16, "pad_queries": true},
      "outputs": [{"name": "state", "query": "learned", "index_dims": [1], "channels": 16,
                   "head": "linear", "head_channels": 3, "single_row": true},
                  {"name": "next", "query": "learned", "index_dims": [4], "channels": 16,
                   "head": "linear", "head_channels": 2}]}},
    "data": {"train_examples": 64, "test_examples": 70, "noise": 0},
    "optimiser": {"kind": "adamw", "learning_rate": 0.01, "clip_norm": 1},
    "batch_size": 16, "steps": 60, "seed": 2})");
}

}  // namespace perceiver::train::test
