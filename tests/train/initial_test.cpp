#include "train/initial.h"

#include <gtest/gtest.h>

#include "perceiver/base/json.h"
#include "perceiver/spec/model_spec.h"
#include "perceiver/spec/parameters.h"
#include "train/expect_error.h"

namespace perceiver::train {
namespace {

// The original Perceiver: classes are a map of the mean latent, no queries are asked.
Recipe without_queries() {
  Recipe recipe;
  recipe.model = spec_from_json(Json::parse(R"({
    "name": "original",
    "inputs": [{"name": "image", "kind": "grid", "index_dims": [4, 4], "channels": 3,
                "position": {"kind": "trainable", "num_channels": 8}}],
    "encoder": {"num_latents": 4, "latent_channels": 8, "num_self_attends_per_block": 1},
    "decoder": {"kind": "projection", "output_channels": 2},
    "outputs": [{"name": "logits", "index_dims": [1], "single_row": true}]})"),
                                "spec");
  return recipe;
}

TEST(InitialWeights, AModelWithoutQueriesHasItsTensorsToo) {
  const Recipe recipe = without_queries();
  const ArrayMap weights = initial_weights(recipe);
  for (const ParameterInfo& parameter : parameter_table(recipe.model)) {
    ASSERT_TRUE(weights.contains(parameter.name)) << parameter.name;
    EXPECT_EQ(weights.at(parameter.name).shape(), parameter.shape) << parameter.name;
  }
}

TEST(InitialWeights, LocalAttentionNeedsADecoderThatAttends) {
  Recipe recipe = without_queries();
  recipe.init.local_attention = 1;
  test::expect_error([&] { initial_weights(recipe); }, "decoder.kind is projection");
}

}  // namespace
}  // namespace perceiver::train
