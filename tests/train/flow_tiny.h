#pragma once

#include <string>

#include "perceiver/io/flow_file.h"
#include "perceiver/io/image.h"
#include "train/data/flow_scene.h"
#include "train/tiny.h"

// Flow data sets and recipes small enough to train in a second.

namespace perceiver::train::test {

/// Generated pair `index` of 24x32 pixels.
inline FlowPair tiny_pair(uint64_t index, int64_t height = 24, int64_t width = 32) {
  FlowSceneSpec spec;
  spec.height = height;
  spec.width = width;
  spec.layers = 2;
  spec.shift = 3;
  spec.bend = 0.5;
  spec.samples = 1;
  return FlowScene(spec, Random{index}).render();
}

inline void write_mask(const std::filesystem::path& path, const Array& mask) {
  Array grey = Array::zeros(DType::kU8, {mask.size(0), mask.size(1), 1});
  for (int64_t i = 0; i < mask.numel(); ++i) {
    grey.mutable_data<uint8_t>()[i] = mask.data<bool>()[i] ? 255 : 0;
  }
  io::write_png(path, io::make_image(grey));
}

/// A scene in MPI-Sintel's layout: `pairs` pairs from pairs + 1 frames, occlusions for all.
inline void write_sintel_scene(const std::filesystem::path& root, const std::string& scene,
                               int pairs) {
  for (const char* part : {"clean", "final", "flow", "occlusions"}) {
    std::filesystem::create_directories(root / part / scene);
  }
  for (int i = 0; i <= pairs; ++i) {
    const FlowPair pair = tiny_pair(static_cast<uint64_t>(i));
    const std::string name = "frame_000" + std::to_string(i + 1);
    for (const char* pass : {"clean", "final"}) {
      io::write_png(root / pass / scene / (name + ".png"), io::make_image(pair.first));
    }
    if (i < pairs) {
      io::write_flo(root / "flow" / scene / (name + ".flo"), pair.flow);
      write_mask(root / "occlusions" / scene / (name + ".png"), pair.occluded);
    }
  }
}

/// Frames of 24x32, patches of 4x4, a token each.
inline Json flow_recipe() {
  return Json::parse(R"({
    "name": "tiny-flow", "task": "optical_flow",
    "model": {"spec": {
      "name": "tiny-flow",
      "inputs": [{"name": "frames", "kind": "grid", "index_dims": [2, 24, 32], "channels": 27,
                  "stem": "patches", "downsample": [2, 4, 4], "out_channels": 24,
                  "position": {"kind": "fourier", "num_bands": 4, "max_resolution": [6, 8]}}],
      "encoder": {"num_latents": 16, "latent_channels": 32, "self_attend": {"num_heads": 2},
                  "num_self_attends_per_block": 1},
      "decoder": {"output_channels": 32},
      "outputs": [{"name": "flow", "query": "input_tokens", "of_input": "frames",
                   "index_dims": [6, 8],
                   "head": "depth_to_space", "head_channels": 2, "head_factors": [4, 4],
                   "divide_by": 20}]}},
    "data": {"train": [{"layout": "generated", "examples": 64, "layers": 0, "shift": 2,
                        "rotation": 0, "scale": 0, "bend": 0, "samples": 1}],
             "test": [{"layout": "generated", "examples": 16, "layers": 0, "shift": 2,
                       "rotation": 0, "scale": 0, "bend": 0, "samples": 1}]},
    "optimiser": {"kind": "adamw", "learning_rate": 0.003, "clip_norm": 1},
    "batch_size": 8, "steps": 4, "seed": 5})");
}

/// The same with a token and a row per pixel, as the released model.
inline Json pixel_flow_recipe() {
  Json json = flow_recipe();
  Json& spec = json["model"]["spec"];
  spec["inputs"][0]["downsample"] = {2, 1, 1};
  spec["inputs"][0]["position"]["max_resolution"] = {24, 32};
  spec["decoder"]["output_channels"] = 2;
  spec["outputs"][0]["index_dims"] = {24, 32};
  for (const char* key : {"head", "head_channels", "head_factors"}) {
    spec["outputs"][0].erase(key);
  }
  spec["outputs"][0]["divide_by"] = 100;
  spec["outputs"][0]["keep_grid"] = true;
  return json;
}

}  // namespace perceiver::train::test
