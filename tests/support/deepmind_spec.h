#pragma once

#include <filesystem>

#include "perceiver/spec/model_spec.h"

namespace perceiver::test {

/// The model of one folder of DeepMind's oracle fixtures (language, imagenet_*, optical_flow,
/// multimodal, perceiver_projection) from its config.json, every switch as DeepMind's code behaves.
/// Names are those of the released models: input `inputs` and output `logits`, or audio, image and
/// label; flow reads the 3x3 patches [B, 2, H, W, 27].
ModelSpec deepmind_fixture_spec(const std::filesystem::path& folder);

}  // namespace perceiver::test
