#include "train/optimiser.h"

#include <cmath>

#include <gtest/gtest.h>

#include <ATen/ops/tensor.h>

#include "perceiver/base/error.h"

namespace perceiver::train {
namespace {

using Values = std::vector<double>;

// The same formulas once more, in plain loops over doubles.
struct Peer {
  OptimiserSpec spec;
  bool decayed;
  Values value, first, second;
  int count = 0;

  Peer(const OptimiserSpec& s, bool d, Values v)
      : spec(s), decayed(d), value(std::move(v)), first(value.size()), second(value.size()) {}

  void sgd_step(const Values& gradient, double rate) {
    for (size_t i = 0; i < value.size(); ++i) {
      const double g = gradient[i] + (decayed ? spec.weight_decay : 0) * value[i];
      first[i] = count == 0 ? g : spec.momentum * first[i] + g;
      value[i] -= rate * (spec.nesterov ? g + spec.momentum * first[i] : first[i]);
    }
    ++count;
  }

  void step(const Values& gradient, double rate) {
    if (spec.kind == OptimiserKind::kSgd) {
      sgd_step(gradient, rate);
      return;
    }
    ++count;
    Values change(value.size());
    double value_squares = 0;
    double change_squares = 0;
    const double decay = decayed ? spec.weight_decay : 0;
    for (size_t i = 0; i < value.size(); ++i) {
      first[i] = spec.beta1 * first[i] + (1 - spec.beta1) * gradient[i];
      second[i] = spec.beta2 * second[i] + (1 - spec.beta2) * gradient[i] * gradient[i];
      const double m = first[i] / (1 - std::pow(spec.beta1, count));
      const double v = second[i] / (1 - std::pow(spec.beta2, count));
      change[i] = m / (std::sqrt(v) + spec.epsilon) + decay * value[i];
      value_squares += value[i] * value[i];
      change_squares += change[i] * change[i];
    }
    double trust = 1;
    if (spec.kind == OptimiserKind::kLamb && value_squares > 0 && change_squares > 0) {
      trust = std::sqrt(value_squares / change_squares);
    }
    for (size_t i = 0; i < value.size(); ++i) {
      value[i] -= rate * trust * change[i];
    }
  }
};

at::Tensor tensor_of(const Values& values) {
  return at::tensor(values, at::kDouble);
}

nn::Parameters make_parameters() {
  nn::Parameters parameters;
  const auto add = [&](const char* name, const Values& values) {
    ParameterInfo info;
    info.name = name;
    info.shape = {static_cast<int64_t>(values.size())};
    parameters.add(info, tensor_of(values));
  };
  add("encoder.block.0.0.query.weight", {0.5, -1.5, 2.0});
  add("encoder.block.0.0.query.bias", {0.1, -0.2});
  add("encoder.block.0.0.norm_mlp.weight", {1.0, 1.0});
  add("inputs.text.position.table", {0.3, 0.7});
  add("decoder.final.weight", {0.0, 0.0});  // LAMB: trust ratio 1
  parameters.requires_grad(true);
  return parameters;
}

Values gradient_of(size_t tensor, size_t count, int step) {
  Values gradient(count);
  for (size_t i = 0; i < count; ++i) {
    gradient[i] = std::sin(static_cast<double>(tensor * 10 + i) + step) * (1 + 0.3 * step);
  }
  return gradient;
}

void expect_equals_peer(const OptimiserSpec& spec) {
  nn::Parameters parameters = make_parameters();
  Optimiser optimiser(spec, parameters);
  std::vector<Peer> peers;
  for (const auto& entry : parameters.entries()) {
    const double* data = entry.tensor.const_data_ptr<double>();
    peers.emplace_back(spec, is_decayed(entry.info.name),
                       Values(data, data + entry.tensor.numel()));
  }
  for (int step = 0; step < 5; ++step) {
    const double rate = spec.learning_rate / (1 + step);
    for (size_t k = 0; k < peers.size(); ++k) {
      auto& entry = parameters.entries()[k];
      const Values gradient = gradient_of(k, peers[k].value.size(), step);
      entry.tensor.mutable_grad() = tensor_of(gradient);
      peers[k].step(gradient, rate);
    }
    optimiser.step(rate);
  }
  for (size_t k = 0; k < peers.size(); ++k) {
    const auto& entry = parameters.entries()[k];
    for (size_t i = 0; i < peers[k].value.size(); ++i) {
      EXPECT_NEAR(entry.tensor.const_data_ptr<double>()[i], peers[k].value[i], 1e-12)
          << entry.info.name << "[" << i << "]";
    }
  }
}

TEST(Optimiser, AdamWEqualsPlainLoops) {
  OptimiserSpec spec;
  spec.kind = OptimiserKind::kAdamW;
  spec.learning_rate = 0.05;
  spec.weight_decay = 0.1;
  expect_equals_peer(spec);
}

TEST(Optimiser, LambEqualsPlainLoops) {
  OptimiserSpec spec;
  spec.kind = OptimiserKind::kLamb;
  spec.learning_rate = 0.05;
  spec.weight_decay = 0.1;
  expect_equals_peer(spec);
}

TEST(Optimiser, SgdEqualsPlainLoops) {
  for (const bool nesterov : {false, true}) {
    OptimiserSpec spec;
    spec.kind = OptimiserKind::kSgd;
    spec.momentum = 0.9;
    spec.nesterov = nesterov;
    spec.weight_decay = 0.05;
    expect_equals_peer(spec);
  }
}

TEST(Optimiser, DecaysMatricesAndTablesOnly) {
  EXPECT_TRUE(is_decayed("latents"));
  EXPECT_TRUE(is_decayed("inputs.image.position.table"));
  EXPECT_TRUE(is_decayed("inputs.text.embedding.weight"));
  EXPECT_TRUE(is_decayed("encoder.cross_attend.0.mlp_in.weight"));
  EXPECT_FALSE(is_decayed("encoder.cross_attend.0.mlp_in.bias"));
  EXPECT_FALSE(is_decayed("encoder.cross_attend.0.norm_inputs.weight"));
  EXPECT_FALSE(is_decayed("inputs.image.batch_norm.0.weight"));
  EXPECT_FALSE(is_decayed("outputs.logits.head.bias"));
}

TEST(Optimiser, LeavesParametersWithoutGradientAlone) {
  nn::Parameters parameters = make_parameters();
  OptimiserSpec spec;
  spec.weight_decay = 0.5;
  Optimiser optimiser(spec, parameters);
  optimiser.step(0.1);
  EXPECT_EQ(parameters.entries()[0].tensor.const_data_ptr<double>()[1], -1.5);
}

TEST(Optimiser, StateContinuesExactly) {
  OptimiserSpec spec;
  nn::Parameters straight = make_parameters();
  nn::Parameters broken = make_parameters();
  const auto feed = [](nn::Parameters& parameters, int step) {
    for (size_t k = 0; k < parameters.entries().size(); ++k) {
      at::Tensor& tensor = parameters.entries()[k].tensor;
      tensor.mutable_grad() = tensor_of(gradient_of(k, static_cast<size_t>(tensor.numel()), step));
    }
  };
  Optimiser first(spec, straight);
  auto second = std::make_unique<Optimiser>(spec, broken);
  for (int step = 0; step < 4; ++step) {
    if (step == 2) {
      const ArrayMap state = second->state();
      second = std::make_unique<Optimiser>(spec, broken);
      second->load_state(state, "state");
      EXPECT_EQ(second->steps(), 2);
    }
    feed(straight, step);
    feed(broken, step);
    first.step(0.01);
    second->step(0.01);
  }
  for (size_t k = 0; k < straight.entries().size(); ++k) {
    EXPECT_TRUE(straight.entries()[k].tensor.equal(broken.entries()[k].tensor));
  }
}

TEST(Optimiser, ACheckpointNeedsNoSecondCopyOfTheMoments) {
  nn::Parameters parameters = make_parameters();
  const Optimiser optimiser(OptimiserSpec{}, parameters);
  const ArrayMap state = optimiser.state();
  size_t shared = 0;
  for (const at::Tensor& tensor : optimiser.tensors()) {
    for (const auto& [name, array] : state) {
      shared += array.bytes() == tensor.const_data_ptr() ? 1 : 0;
    }
  }
  EXPECT_EQ(shared, optimiser.tensors().size());
  EXPECT_EQ(state.size(), shared + 1);  // and the number of steps
}

TEST(Optimiser, RefusesAStateThatDoesNotFit) {
  nn::Parameters parameters = make_parameters();
  Optimiser optimiser(OptimiserSpec{}, parameters);
  ArrayMap state = optimiser.state();
  state["first.decoder.final.weight"] = Array::zeros(DType::kF64, {3});
  try {
    optimiser.load_state(state, "file");
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(),
                 "file: optimiser tensor first.decoder.final.weight has shape [3], needs [2]");
  }
}

TEST(ClipGradients, ScalesAllByOneFactorWhenTheNormIsTooLarge) {
  nn::Parameters parameters = make_parameters();
  parameters.entries()[0].tensor.mutable_grad() = tensor_of({3, 0, 0});
  parameters.entries()[1].tensor.mutable_grad() = tensor_of({0, 4});
  EXPECT_DOUBLE_EQ(clip_gradients(parameters, 10), 5);
  EXPECT_DOUBLE_EQ(parameters.entries()[1].tensor.grad().const_data_ptr<double>()[1], 4);
  EXPECT_DOUBLE_EQ(clip_gradients(parameters, 1), 5);
  EXPECT_DOUBLE_EQ(parameters.entries()[0].tensor.grad().const_data_ptr<double>()[0], 0.6);
  EXPECT_DOUBLE_EQ(parameters.entries()[1].tensor.grad().const_data_ptr<double>()[1], 0.8);
}

}  // namespace
}  // namespace perceiver::train
