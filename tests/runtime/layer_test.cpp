#include "runtime/layer.h"

#include <algorithm>
#include <cmath>
#include <random>

#include <gtest/gtest.h>

#include "perceiver/spec/parameters.h"

// One self-attend against the formula written out in double.

namespace perceiver::runtime {
namespace {

using Rows = std::vector<std::vector<double>>;

struct Reference {
  const ArrayMap& weights;
  std::string prefix;
  AttentionShape shape;
  Activation activation;

  double value(const std::string& name, int64_t i) const {
    return static_cast<double>(weights.at(prefix + "." + name).data<float>()[i]);
  }
  Rows linear(const std::string& name, const Rows& x) const {
    const Array& weight = weights.at(prefix + "." + name + ".weight");
    Rows y(x.size(), std::vector<double>(static_cast<size_t>(weight.size(0))));
    for (size_t r = 0; r < x.size(); ++r) {
      for (int64_t o = 0; o < weight.size(0); ++o) {
        double sum = value(name + ".bias", o);
        for (int64_t i = 0; i < weight.size(1); ++i) {
          sum += value(name + ".weight", o * weight.size(1) + i) * x[r][static_cast<size_t>(i)];
        }
        y[r][static_cast<size_t>(o)] = sum;
      }
    }
    return y;
  }
  Rows norm(const std::string& name, Rows x) const {
    for (auto& row : x) {
      double mean = 0, square = 0;
      const double width = static_cast<double>(row.size());
      for (const double v : row) {
        mean += v / width;
      }
      for (const double v : row) {
        square += (v - mean) * (v - mean) / width;
      }
      for (size_t i = 0; i < row.size(); ++i) {
        row[i] = (row[i] - mean) / std::sqrt(square + 1e-5) *
                     value(name + ".weight", static_cast<int64_t>(i)) +
                 value(name + ".bias", static_cast<int64_t>(i));
      }
    }
    return x;
  }
  double activated(double x) const {
    switch (activation) {
      case Activation::kGeluErf:
        return 0.5 * x * std::erfc(-x / std::sqrt(2.0));
      case Activation::kGeluTanh:
        return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
      case Activation::kRelu:
        return std::max(x, 0.0);
      case Activation::kSilu:
        return x / (1 + std::exp(-x));
    }
    return 0;
  }
  /// Softmax result of head h, [N, N].
  Rows map(const Rows& q, const Rows& k, int64_t h) const {
    const size_t width = static_cast<size_t>(shape.qk_channels / shape.num_heads);
    Rows p(q.size(), std::vector<double>(k.size()));
    for (size_t i = 0; i < q.size(); ++i) {
      double sum = 0;
      for (size_t j = 0; j < k.size(); ++j) {
        double score = 0;
        for (size_t c = 0; c < width; ++c) {
          const size_t at = static_cast<size_t>(h) * width + c;
          score += q[i][at] * k[j][at];
        }
        p[i][j] = std::exp(score / std::sqrt(static_cast<double>(width)));
        sum += p[i][j];
      }
      for (double& each : p[i]) {
        each /= sum;
      }
    }
    return p;
  }
  /// @param maps  receives the softmax result of every head
  Rows apply(const Rows& x, std::vector<Rows>& maps) const {
    const Rows normed = norm("norm_queries", x);
    const Rows q = linear("query", normed), k = linear("key", normed), v = linear("value", normed);
    Rows attended(x.size(), std::vector<double>(static_cast<size_t>(shape.v_channels)));
    const size_t width = static_cast<size_t>(shape.v_channels / shape.num_heads);
    for (int64_t h = 0; h < shape.num_heads; ++h) {
      maps.push_back(map(q, k, h));
      for (size_t i = 0; i < x.size(); ++i) {
        for (size_t j = 0; j < x.size(); ++j) {
          for (size_t c = static_cast<size_t>(h) * width; c < static_cast<size_t>(h + 1) * width;
               ++c) {
            attended[i][c] += maps.back()[i][j] * v[j][c];
          }
        }
      }
    }
    Rows y = linear("output", attended);
    for (size_t i = 0; i < x.size() && shape.use_query_residual; ++i) {
      for (size_t c = 0; c < x[i].size(); ++c) {
        y[i][c] += x[i][c];
      }
    }
    Rows hidden = linear("mlp_in", norm("norm_mlp", y));
    for (auto& row : hidden) {
      for (double& each : row) {
        each = activated(each);
      }
    }
    const Rows update = linear("mlp_out", hidden);
    for (size_t i = 0; i < x.size(); ++i) {
      for (size_t c = 0; c < x[i].size(); ++c) {
        y[i][c] += update[i][c];
      }
    }
    return y;
  }
};

struct Case {
  int64_t latents, channels, heads, qk, v, widening;
  bool residual;
  Activation activation;
};

ModelSpec spec_of(const Case& c) {
  ModelSpec spec;
  InputSpec input;
  input.name = "inputs";
  input.index_dims = {4};
  input.channels = 3;
  spec.inputs = {input};
  OutputSpec output;
  output.name = "logits";
  output.index_dims = {1};
  output.channels = 8;
  spec.outputs = {output};
  spec.decoder.output_channels = 2;
  spec.encoder.num_latents = c.latents;
  spec.encoder.latent_channels = c.channels;
  spec.encoder.self_attend = {.num_heads = c.heads,
                              .qk_channels = c.qk,
                              .v_channels = c.v,
                              .use_query_residual = c.residual,
                              .widening_factor = c.widening};
  spec.compatibility.activation = c.activation;
  return spec;
}

void expect_same(const Case& c, Precision precision, double bar) {
  const ModelSpec spec = spec_of(c);
  ArrayMap arrays = random_parameters(spec, InitScheme::kTransformers, 5, 0.3);
  std::mt19937 generator(3);
  std::normal_distribution<float> normal;
  for (auto& [name, array] : arrays) {  // biases and norms start trivial; they must not stay so
    if (array.dtype() == DType::kF32 && array.dim() == 1) {
      for (int64_t i = 0; i < array.numel(); ++i) {
        array.mutable_data<float>()[i] += 0.3F * normal(generator);
      }
    }
  }
  const std::string prefix = "encoder.block.0.0";
  Weights weights(spec, arrays);
  const AttentionShape shape = resolve(spec).self;
  const SelfAttendLayer layer(weights, prefix, shape, spec.compatibility, precision,
                              ProductOrder::kPlain);
  EXPECT_FALSE(weights.contains(prefix + ".query.weight")) << "packed weights are released";

  constexpr int64_t kBatch = 2;
  Workspace workspace;
  const Workspace::Scope scope(workspace);
  const Matrix latents = workspace.matrix(kBatch * c.latents, c.channels);
  std::vector<Rows> before(kBatch);
  for (int64_t i = 0; i < latents.rows; ++i) {
    auto& row = before[static_cast<size_t>(i / c.latents)].emplace_back();
    for (int64_t k = 0; k < c.channels; ++k) {
      row.push_back(static_cast<double>(latents.row(i)[k] = normal(generator)));
    }
  }
  std::vector<float> maps(static_cast<size_t>(kBatch * c.heads * c.latents * c.latents));
  layer.apply(latents, kBatch, workspace, maps.data());
  const Reference reference{arrays, prefix, shape, c.activation};
  double worst = 0, worst_map = 0;
  for (int64_t b = 0; b < kBatch; ++b) {
    std::vector<Rows> expected_maps;
    const Rows expected = reference.apply(before[static_cast<size_t>(b)], expected_maps);
    for (int64_t i = 0; i < c.latents; ++i) {
      for (int64_t k = 0; k < c.channels; ++k) {
        const double wanted = expected[static_cast<size_t>(i)][static_cast<size_t>(k)];
        const double got = static_cast<double>(latents.row(b * c.latents + i)[k]);
        worst = std::max(worst, std::abs(got - wanted) / (1 + std::abs(wanted)));
      }
      for (int64_t j = 0; j < c.heads * c.latents; ++j) {
        const int64_t h = j / c.latents, key = j % c.latents;
        const double wanted =
            expected_maps[static_cast<size_t>(h)][static_cast<size_t>(i)][static_cast<size_t>(key)];
        const int64_t at = ((b * c.heads + h) * c.latents + i) * c.latents + key;
        worst_map = std::max(worst_map,
                             std::abs(static_cast<double>(maps[static_cast<size_t>(at)]) - wanted));
      }
    }
  }
  EXPECT_LT(worst, bar);
  EXPECT_LT(worst_map, bar);
}

TEST(SelfAttendLayer, IsTheFormulaForEveryWidthAndActivation) {
  const Case cases[] = {
      {5, 8, 2, 0, 0, 1, true, Activation::kGeluErf},
      {17, 40, 4, 8, 40, 2, true, Activation::kGeluTanh},  // narrow queries and keys, as language
      {1, 16, 1, 0, 0, 4, true, Activation::kRelu},
      {33, 24, 3, 12, 24, 1, false, Activation::kSilu},
      {70, 32, 8, 0, 0, 1, true, Activation::kGeluErf},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(testing::Message() << c.latents << " latents of " << c.channels);
    expect_same(c, Precision::kF32, 2e-5);
    expect_same(c, Precision::kBF16, 0.2);
  }
}

TEST(SelfAttendLayer, IsTheSameInEitherOrderOfItsProducts) {
  const ModelSpec spec = spec_of({74, 1024, 4, 0, 0, 1, true, Activation::kGeluErf});
  const ArrayMap arrays = random_parameters(spec, InitScheme::kTransformers, 5);
  std::vector<std::vector<float>> results;
  for (const ProductOrder order : {ProductOrder::kPlain, ProductOrder::kSeven}) {
    Weights weights(spec, arrays);
    const SelfAttendLayer layer(weights, "encoder.block.0.0", resolve(spec).self,
                                spec.compatibility, Precision::kF32, order);
    EXPECT_EQ(layer.wants_gaps(), order == ProductOrder::kSeven);
    std::mt19937 generator(3);
    std::normal_distribution<float> normal;
    std::vector<float>& latents = results.emplace_back(2 * 74 * 1024);
    std::generate(latents.begin(), latents.end(), [&] { return normal(generator); });
    Workspace workspace;
    layer.apply({latents.data(), 2 * 74, 1024, 1024}, 2, workspace);
  }
  for (size_t i = 0; i < results[0].size(); ++i) {
    ASSERT_NEAR(results[0][i], results[1][i], 2e-5) << i;
  }
}

TEST(SelfAttendLayer, TheSecondCallTakesNoMoreScratch) {
  const ModelSpec spec = spec_of({20, 32, 4, 0, 0, 1, true, Activation::kGeluErf});
  Weights weights(spec, random_parameters(spec, InitScheme::kDeepMind, 1));
  const SelfAttendLayer layer(weights, "encoder.block.0.0", resolve(spec).self, spec.compatibility,
                              Precision::kF32, ProductOrder::kSeven);
  Workspace workspace;
  std::vector<float> first(40 * 32, 0.5F), second = first;
  layer.apply({first.data(), 40, 32, 32}, 2, workspace);
  const int64_t held = workspace.held_bytes(), peak = workspace.peak_bytes();
  layer.apply({second.data(), 40, 32, 32}, 2, workspace);
  EXPECT_EQ(workspace.held_bytes(), held);
  EXPECT_EQ(workspace.peak_bytes(), peak);
  EXPECT_EQ(first, second);
}

}  // namespace
}  // namespace perceiver::runtime
