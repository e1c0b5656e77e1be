#include "train/local_start.h"

#include <cmath>

#include <gtest/gtest.h>

#include <ATen/ops/zeros.h>

#include "perceiver/base/error.h"
#include "perceiver/nn/model.h"
#include "perceiver/train/recipe.h"
#include "train/flow_tiny.h"
#include "train/initial.h"

namespace perceiver::train {
namespace {

constexpr int64_t kRows = 6, kColumns = 8;  // tokens of the tiny flow model

// Mean distance, in tokens, between where a decoder row or latent `i` looks most and place(i).
template <typename Place>
double mean_distance(const at::Tensor& attention, const Place& place) {
  const at::Tensor looked = attention.mean(1)[0].argmax(-1);  // [B, H, Q, K] -> [Q]
  double sum = 0;
  for (int64_t i = 0; i < looked.size(0); ++i) {
    const auto [y, x] = place(i, looked[i].item<int64_t>());
    sum += std::hypot(y, x);
  }
  return sum / static_cast<double>(looked.size(0));
}

struct Distances {
  double encoder = 0, decoder = 0;
};

// 16 latents on 6 x 8 tokens: rows of 4 cells, each two tokens wide and 1.5 high.
Distances distances(double sharpness) {
  Json json = test::flow_recipe();
  json["init"]["local_attention"] = sharpness;
  const Recipe recipe = recipe_from_json(json, "r.json", {});
  nn::Model model(recipe.model, initial_weights(recipe));
  nn::TensorTrace trace{.attention = true, .only = {}, .tensors = {}};
  nn::TensorInputs inputs;
  inputs.arrays.emplace("frames", at::zeros({1, 2, 24, 32, 27}));
  model.forward(inputs, {}, &trace);
  const auto difference = [](int64_t latent, int64_t token) {
    const double y = static_cast<double>(latent / 4) * 1.5 + 0.5;
    const double x = static_cast<double>(latent % 4) * 2 + 1;
    return std::pair(y - static_cast<double>(token / kColumns),
                     x - static_cast<double>(token % kColumns));
  };
  return {mean_distance(trace.tensors.at("attention.encoder"), difference),
          mean_distance(trace.tensors.at("attention.decoder"),
                        [&](int64_t row, int64_t latent) { return difference(latent, row); })};
}

TEST(LocalStart, LatentsOfAGridBeginByReadingTheirOwnPart) {
  const Distances random = distances(0), local = distances(3);
  EXPECT_GT(random.encoder, 2);
  EXPECT_LT(local.encoder, 1);
  // The layers between mix the latents: rows begin nearer to their own part, not at it.
  EXPECT_GT(random.decoder, 3);
  EXPECT_LT(local.decoder, 0.7 * random.decoder);
}

// 16 latents in the square of the coordinates: 4 x 4 places, half a unit apart.
double distance_in_a_set(double sharpness) {
  Json json = Json::parse(R"({
    "name": "points", "task": "entity_sets",
    "model": {"spec": {
      "name": "points",
      "inputs": [{"name": "points", "kind": "set", "index_dims": [256], "coordinates": 2,
                  "channels": 8, "position": {"kind": "fourier", "num_bands": 6,
                                              "max_resolution": [8, 8]}}],
      "encoder": {"num_latents": 16, "latent_channels": 32, "num_self_attends_per_block": 1},
      "decoder": {"output_channels": 32},
      "outputs": [{"name": "owners", "query": "input_tokens", "of_input": "points",
                   "head": "linear", "head_channels": 2}]}},
    "data": {"generated": {}}, "batch_size": 1, "steps": 1})");
  json["init"]["local_attention"] = sharpness;
  const Recipe recipe = recipe_from_json(json, "r.json", {});
  nn::Model model(recipe.model, initial_weights(recipe));
  at::Tensor points = at::zeros({1, 256, 10});
  for (int64_t i = 0; i < 256; ++i) {
    float* point = points.mutable_data_ptr<float>() + 10 * i;
    point[0] = static_cast<float>(i / 16) / 7.5F - 1;
    point[1] = static_cast<float>(i % 16) / 7.5F - 1;
  }
  nn::TensorInputs inputs;
  inputs.arrays.emplace("points", points);
  nn::TensorTrace trace{.attention = true, .only = {}, .tensors = {}};
  model.forward(inputs, {}, &trace);
  const auto place = [](int64_t at, int64_t count) {
    return (static_cast<double>(at) + 0.5) * 2 / static_cast<double>(count) - 1;
  };
  return mean_distance(trace.tensors.at("attention.encoder"), [&](int64_t latent, int64_t point) {
    return std::pair(place(latent / 4, 4) - place(point / 16, 16),
                     place(latent % 4, 4) - place(point % 16, 16));
  });
}

TEST(LocalStart, LatentsOfASetBeginByReadingTheirOwnPart) {
  EXPECT_GT(distance_in_a_set(0), 0.6);
  EXPECT_LT(distance_in_a_set(4), 0.3);
}

TEST(LocalStart, FeaturesMustFitIntoLatents) {
  Json json = test::flow_recipe();
  json["init"]["local_attention"] = 1;
  json["model"]["spec"]["inputs"][0]["position"]["num_bands"] = 9;
  const Recipe recipe = recipe_from_json(json, "r.json", {});
  try {
    initial_weights(recipe);
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("latent_channels is 32, input frames has 38"),
              std::string::npos)
        << error.what();
  }
}

}  // namespace
}  // namespace perceiver::train
