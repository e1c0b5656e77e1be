#include "plan_fixture.h"

#include <algorithm>
#include <cmath>
#include <random>

#include "perceiver/base/str.h"
#include "perceiver/spec/parameters.h"

namespace perceiver::runtime::test {
namespace {

size_t index(int64_t i) {
  return static_cast<size_t>(i);
}

Rows layer_norm(const ArrayMap& weights, const std::string& name, const Rows& x, double eps) {
  const float* gamma = weights.at(name + ".weight").data<float>();
  const float* beta = weights.at(name + ".bias").data<float>();
  Rows out = x;
  for (std::vector<double>& row : out) {
    double mean = 0, variance = 0;
    for (const double value : row) {
      mean += value / static_cast<double>(row.size());
    }
    for (const double value : row) {
      variance += (value - mean) * (value - mean) / static_cast<double>(row.size());
    }
    for (size_t c = 0; c < row.size(); ++c) {
      row[c] = (row[c] - mean) / std::sqrt(variance + eps) * static_cast<double>(gamma[c]) +
               static_cast<double>(beta[c]);
    }
  }
  return out;
}

double activated(double x, Activation kind) {
  switch (kind) {
    case Activation::kGeluErf:
      return x * 0.5 * (1 + std::erf(x / std::sqrt(2.0)));
    case Activation::kGeluTanh:
      return x * 0.5 * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case Activation::kRelu:
      return std::max(x, 0.0);
    case Activation::kSilu:
      return x / (1 + std::exp(-x));
  }
  return x;
}

}  // namespace

MadeUpSource::MadeUpSource(const SourceOptions& options) {
  std::mt19937 random(options.seed);
  std::normal_distribution<float> normal;
  name_ = options.name;
  batch_ = options.batch;
  grid_ = options.grid;
  first_row_ = options.first_row;
  count_ = options.rows < 0 ? element_count(grid_) - first_row_ : options.rows;
  content_channels_ = options.content;
  constant_channels_ = options.constants;
  factors_ = options.factors;
  is_constant_ = options.is_constant;
  for (int64_t c = 0; c < constant_channels_; ++c) {
    shared_.push_back(normal(random));
  }
  constant_ = shared_.data();
  Array dense_positions;
  if (options.bands > 0) {
    PositionSpec position;
    position.kind = PositionKind::kFourier;
    position.num_bands = options.bands;
    positions_ = tokens::fourier_grid(position, grid_, options.axis, DType::kF32);
    dense_positions = positions_.dense();
    position_channels_ = dense_positions.size(1);
  }
  for (int64_t i = 0; i < batch_ * count_; ++i) {
    for (int64_t c = 0; c < content_channels_; ++c) {
      rows_.push_back(normal(random) + static_cast<float>(options.content_offset));
    }
    for (int64_t c = 0; c < position_channels_; ++c) {
      rows_.push_back(
          dense_positions.data<float>()[(first_row_ + i % count_) * position_channels_ + c]);
    }
    rows_.insert(rows_.end(), shared_.begin(), shared_.end());
  }
  if (options.masked_share > 0 || options.masked_example) {
    std::bernoulli_distribution masked(options.masked_share);
    for (int64_t i = 0; i < batch_ * count_; ++i) {
      const bool off = masked(random) || (options.masked_example && i < count_);
      mask_.push_back(off ? 0 : 1);
    }
  }
}

void MadeUpSource::content(int64_t b, int64_t begin, int64_t end, Matrix out) {
  for (int64_t i = begin; i < end; ++i) {
    std::copy_n(rows_.data() + (b * count_ + i) * channels(), content_channels_,
                out.row(i - begin));
  }
}

void MadeUpSource::dense(int64_t b, int64_t begin, int64_t end, Matrix out) {
  for (int64_t i = begin; i < end; ++i) {
    std::copy_n(rows_.data() + (b * count_ + i) * channels(), channels(), out.row(i - begin));
  }
}

const uint8_t* MadeUpSource::mask(int64_t b) const {
  return mask_.empty() ? nullptr : mask_.data() + b * count_;
}

void MadeUpSource::replace(int64_t b, int64_t i) {
  float* row = rows_.data() + (b * count_ + i) * channels();
  std::reverse(row, row + channels());
}

ArrayMap random_weights(const ModelSpec& spec, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  ArrayMap weights;
  for (const ParameterInfo& info : parameter_table(spec)) {
    Array array = Array::zeros(info.dtype, info.shape);
    const bool norm = info.name.find("norm_") != std::string::npos;
    const bool matrix = info.shape.size() == 2 && info.name != "latents";
    const float scale = matrix ? 1.2F / std::sqrt(static_cast<float>(info.shape[1]))
                        : norm ? 0.3F
                               : 0.5F;
    const float offset = norm && info.name.ends_with(".weight") ? 1.0F : 0.0F;
    for (int64_t i = 0; i < array.numel(); ++i) {
      array.mutable_data<float>()[i] = offset + scale * normal(random);
    }
    weights[info.name] = array;
  }
  return weights;
}

Rows dense_rows(std::vector<MadeUpSource*> sources, int64_t b) {
  Rows rows;
  for (MadeUpSource* source : sources) {
    std::vector<float> values(index(source->count() * source->channels()));
    source->dense(b, 0, source->count(),
                  {values.data(), source->count(), source->channels(), source->channels()});
    for (auto row = values.begin(); row != values.end(); row += source->channels()) {
      rows.emplace_back(row, row + source->channels());
    }
  }
  return rows;
}

std::vector<uint8_t> joint_mask(const std::vector<MadeUpSource*>& sources, int64_t b) {
  std::vector<uint8_t> mask;
  for (const MadeUpSource* source : sources) {
    for (int64_t i = 0; i < source->count(); ++i) {
      mask.push_back(source->mask(b) == nullptr ? 1 : source->mask(b)[i]);
    }
  }
  return mask;
}

Rows linear(const ArrayMap& weights, const std::string& name, const Rows& x) {
  const Array& weight = weights.at(name + ".weight");
  const float* bias = weights.at(name + ".bias").data<float>();
  Rows out;
  for (const std::vector<double>& row : x) {
    std::vector<double>& y = out.emplace_back();
    for (int64_t o = 0; o < weight.size(0); ++o) {
      double sum = static_cast<double>(bias[o]);
      for (size_t i = 0; i < row.size(); ++i) {
        sum += row[i] * static_cast<double>(weight.data<float>()[index(o) * row.size() + i]);
      }
      y.push_back(sum);
    }
  }
  return out;
}

Rows PlainAttention::map(const Rows& queries, const Rows& inputs,
                         const std::vector<uint8_t>& mask) const {
  const double eps = compatibility.layer_norm_eps;
  const Rows q = linear(weights, prefix + ".query",
                        layer_norm(weights, prefix + ".norm_queries", queries, eps));
  const Rows k =
      linear(weights, prefix + ".key", layer_norm(weights, prefix + ".norm_inputs", inputs, eps));
  const size_t width = index(shape.qk_channels / shape.num_heads);
  const bool any = std::any_of(mask.begin(), mask.end(), [](uint8_t m) { return m != 0; });
  Rows weights_of;
  for (size_t h = 0; h < index(shape.num_heads); ++h) {
    for (const std::vector<double>& row : q) {
      std::vector<double>& p = weights_of.emplace_back();
      double total = 0;
      for (size_t j = 0; j < k.size(); ++j) {
        double score = 0;
        for (size_t c = h * width; c < (h + 1) * width; ++c) {
          score += row[c] * k[j][c] / std::sqrt(static_cast<double>(width));
        }
        p.push_back(!any ? (compatibility.masked_rows == MaskedRows::kMean ? 1.0 : 0.0)
                         : (mask[j] != 0 ? std::exp(score) : 0.0));
        total += p.back();
      }
      for (double& value : p) {
        value /= total > 0 ? total : 1;
      }
    }
  }
  return weights_of;
}

Rows PlainAttention::apply(const Rows& queries, const Rows& inputs,
                           const std::vector<uint8_t>& mask,
                           const std::vector<uint8_t>& query_mask) const {
  const double eps = compatibility.layer_norm_eps;
  const Rows p = map(queries, inputs, mask);
  const Rows v =
      linear(weights, prefix + ".value", layer_norm(weights, prefix + ".norm_inputs", inputs, eps));
  const size_t width = index(shape.v_channels / shape.num_heads);
  Rows attended(queries.size(), std::vector<double>(index(shape.v_channels), 0.0));
  for (size_t i = 0; i < queries.size(); ++i) {
    for (size_t c = 0; c < attended[i].size(); ++c) {
      const std::vector<double>& row = p[c / width * queries.size() + i];
      for (size_t j = 0; j < v.size(); ++j) {
        attended[i][c] += row[j] * v[j][c];
      }
      attended[i][c] *= query_mask.empty() || query_mask[i] != 0 ? 1 : 0;
    }
  }
  Rows x = linear(weights, prefix + ".output", attended);
  for (size_t i = 0; i < x.size() && shape.use_query_residual; ++i) {
    for (size_t c = 0; c < x[i].size(); ++c) {
      x[i][c] += queries[i][c];
    }
  }
  Rows hidden =
      linear(weights, prefix + ".mlp_in", layer_norm(weights, prefix + ".norm_mlp", x, eps));
  for (std::vector<double>& row : hidden) {
    for (double& value : row) {
      value = activated(value, compatibility.activation);
    }
  }
  const Rows change = linear(weights, prefix + ".mlp_out", hidden);
  for (size_t i = 0; i < x.size(); ++i) {
    for (size_t c = 0; c < x[i].size(); ++c) {
      x[i][c] += change[i][c];
    }
  }
  return x;
}

double distance(const Rows& wanted, ConstMatrix got) {
  if (static_cast<int64_t>(wanted.size()) != got.rows ||
      (!wanted.empty() && static_cast<int64_t>(wanted[0].size()) != got.columns)) {
    return INFINITY;
  }
  double largest = 1, apart = 0;
  for (int64_t i = 0; i < got.rows; ++i) {
    for (int64_t c = 0; c < got.columns; ++c) {
      const double value = wanted[index(i)][index(c)];
      const double difference = std::abs(value - static_cast<double>(got.row(i)[c]));
      largest = std::max(largest, std::abs(value));
      apart = difference <= apart ? apart : difference;  // NaN stays
      if (!(difference == difference)) {
        return INFINITY;
      }
    }
  }
  return apart / largest;
}

}  // namespace perceiver::runtime::test
