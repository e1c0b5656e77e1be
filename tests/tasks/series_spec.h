#pragma once

#include <nlohmann/json.hpp>

#include "perceiver/spec/model_spec.h"

namespace perceiver::tasks {

/// The smallest model of a modality of one's own: four steps of a two-channel sensor in, six rows
/// out.
inline ModelSpec series_spec() {
  return spec_from_json(Json::parse(R"({
    "name": "series",
    "inputs": [{"name": "sensor", "kind": "grid", "index_dims": [4], "channels": 2}],
    "encoder": {"num_latents": 3, "latent_channels": 8},
    "decoder": {"output_channels": 5},
    "outputs": [{"name": "state", "query": "learned", "index_dims": [6], "channels": 8}]
  })"),
                        "series");
}

}  // namespace perceiver::tasks
