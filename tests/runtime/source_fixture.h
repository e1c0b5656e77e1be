#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "perceiver/base/array.h"
#include "perceiver/base/error.h"
#include "perceiver/nn/model.h"
#include "perceiver/nn/tensor.h"
#include "perceiver/spec/parameters.h"
#include "runtime/token_source.h"

// Small specs, weights and raw arrays for the tests of the reading side, and the nn engine's
// answer.

namespace perceiver::runtime::fixture {

/// Reproducible numbers in [-1, 1).
class Numbers {
 public:
  explicit Numbers(uint64_t seed) : state_(seed * 2 + 1) {}
  float next() {
    state_ = state_ * 6364136223846793005U + 1442695040888963407U;
    return static_cast<float>(static_cast<double>(state_ >> 11) * 0x1p-52 - 1);
  }
  Array floats(const std::vector<int64_t>& shape) {
    Array array = Array::zeros(DType::kF32, shape);
    for (int64_t i = 0; i < array.numel(); ++i) {
      array.mutable_data<float>()[i] = next();
    }
    return array;
  }
  Array ids(const std::vector<int64_t>& shape, int64_t vocabulary) {
    Array array = Array::zeros(DType::kI64, shape);
    for (int64_t i = 0; i < array.numel(); ++i) {
      array.mutable_data<int64_t>()[i] = static_cast<int64_t>(state_ >> 33) % vocabulary;
      next();
    }
    return array;
  }
  Array flags(const std::vector<int64_t>& shape) {
    Array array = Array::zeros(DType::kBool, shape);
    for (int64_t i = 0; i < array.numel(); ++i) {
      array.mutable_bytes()[i] = std::byte{static_cast<uint8_t>(next() > 0 ? 1 : 0)};
    }
    return array;
  }

 private:
  uint64_t state_;
};

/// A decoder that asks one learned vector, around whatever inputs a test adds.
inline ModelSpec spec_around() {
  ModelSpec spec;
  spec.encoder = {.num_latents = 3, .latent_channels = 4, .cross_attend = {}, .self_attend = {}};
  spec.encoder.num_self_attends_per_block = 1;
  OutputSpec output;
  output.name = "logits";
  output.index_dims = {1};
  output.channels = 5;
  spec.outputs = {output};
  spec.decoder.output_channels = 4;
  return spec;
}

inline InputSpec picture(const std::vector<int64_t>& extents, int64_t channels) {
  InputSpec input;
  input.name = "picture";
  input.index_dims = extents;
  input.channels = channels;
  return input;
}

/// Every tensor random, biases and norms included; variances positive.
inline ArrayMap random_weights(const ModelSpec& spec, uint64_t seed = 5) {
  Numbers numbers(seed);
  ArrayMap weights;
  for (const ParameterInfo& info : parameter_table(spec)) {
    if (info.dtype == DType::kI64) {
      weights[info.name] = Array::zeros(DType::kI64, info.shape);
      continue;
    }
    Array array = numbers.floats(info.shape);
    for (int64_t i = 0; info.name.ends_with("running_var") && i < array.numel(); ++i) {
      array.mutable_data<float>()[i] += 1.5F;
    }
    weights[info.name] = array;
  }
  return weights;
}

/// One model in both rooms.
struct Both {
  explicit Both(const ModelSpec& wanted, uint64_t seed = 5)
      : spec(wanted),
        shape(resolve(wanted)),
        arrays(random_weights(wanted, seed)),
        weights(spec, arrays),
        model(spec, arrays) {}

  static nn::TensorInputs tensors(const ModelInputs& inputs) {
    return {tensor_map(inputs.arrays), tensor_map(inputs.masks), tensor_map(inputs.replaced)};
  }
  static nn::TensorMap tensor_map(const ArrayMap& given) {
    nn::TensorMap map;
    for (const auto& [name, array] : given) {
      map.emplace(name, nn::to_tensor(array));
    }
    return map;
  }

  std::vector<std::unique_ptr<TokenSource>> sources(const ModelInputs& inputs,
                                                    SourceCache* cache = nullptr) {
    return read_inputs(spec, shape, weights, inputs, workspace, cache);
  }

  ModelSpec spec;
  ModelShape shape;
  ArrayMap arrays;
  Weights weights;
  nn::Model model;
  Workspace workspace;
};

/// All rows of one source, so many at a time: [B, count, channels], or the content only.
inline Array all_rows(TokenSource& source, int64_t block, bool content = false) {
  const int64_t width = content ? source.content_channels() : source.channels();
  Array rows = Array::zeros(DType::kF32, {source.batch(), source.count(), width});
  // wider than needed, to see that strides are honoured and nothing else is written
  std::vector<float> memory;
  for (int64_t b = 0; b < source.batch(); ++b) {
    for (int64_t begin = 0; begin < source.count(); begin += block) {
      const int64_t end = std::min(begin + block, source.count());
      const int64_t stride = width + 3;
      memory.assign(static_cast<size_t>((end - begin) * stride), -77.0F);
      const Matrix out{memory.data(), end - begin, width, stride};
      if (content) {
        source.content(b, begin, end, out);
      } else {
        source.dense(b, begin, end, out);
      }
      for (int64_t i = begin; i < end; ++i) {
        const float* row = out.row(i - begin);
        std::copy_n(row, width, rows.mutable_data<float>() + (b * source.count() + i) * width);
        if (row[width] != -77.0F || row[width + 2] != -77.0F) {
          throw Error(ErrorCode::kInternal, "a row wrote beyond its channels");
        }
      }
    }
  }
  return rows;
}

/// What an expression throws: "code: message", or "nothing".
template <typename Body>
std::string thrown_by(const Body& body) {
  try {
    body();
  } catch (const Error& error) {
    return std::to_string(static_cast<int>(error.code())) + ": " + error.what();
  }
  return "nothing";
}

}  // namespace perceiver::runtime::fixture
