#include "runtime/conv_stem.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "runtime/dnnl_cpu.h"
#include "runtime/stems.h"

namespace perceiver::runtime {
namespace {

using dnnl::memory;

constexpr double kBatchNormEps = 1e-5;

struct Padding {
  int64_t before = 0;
  int64_t after = 0;
};

/// JAX's SAME: out = ceil(n / 2), the odd pixel of padding goes after.
Padding same_padding(int64_t extent, int64_t kernel) {
  const int64_t out = (extent + 1) / 2;
  const int64_t total = std::max<int64_t>((out - 1) * 2 + kernel - extent, 0);
  return {total / 2, total - total / 2};
}

struct Picture {
  int64_t height = 0;
  int64_t width = 0;
  bool operator==(const Picture&) const = default;
};

int64_t convolved(int64_t extent) {
  return (extent + 1) / 2;  // both paddings
}

Picture pooled(Picture size, ConvPadding padding) {
  const auto extent = [&](int64_t n) {
    return padding == ConvPadding::kSame ? (n + 1) / 2 : (n < 3 ? 0 : (n - 3) / 2 + 1);
  };
  return {extent(size.height), extent(size.width)};
}

/// 3x3/2 max-pool, channels last.
void max_pool(const float* in, Picture size, int64_t channels, ConvPadding padding, float* out) {
  const bool same = padding == ConvPadding::kSame;
  const int64_t top = same ? same_padding(size.height, 3).before : 0;
  const int64_t left = same ? same_padding(size.width, 3).before : 0;
  const auto [rows, columns] = pooled(size, padding);
#pragma omp parallel for schedule(static) if (rows * columns * channels >= kParallelFloats)
  for (int64_t y = 0; y < rows; ++y) {
    for (int64_t x = 0; x < columns; ++x) {
      float* cell = out + (y * columns + x) * channels;
      std::fill_n(cell, channels, -std::numeric_limits<float>::infinity());
      for (int64_t v = std::max<int64_t>(2 * y - top, 0);
           v < std::min(2 * y - top + 3, size.height); ++v) {
        for (int64_t u = std::max<int64_t>(2 * x - left, 0);
             u < std::min(2 * x - left + 3, size.width); ++u) {
          const float* from = in + (v * size.width + u) * channels;
          for (int64_t c = 0; c < channels; ++c) {
            cell[c] = from[c] > cell[c] || std::isnan(from[c]) ? from[c] : cell[c];
          }
        }
      }
    }
  }
}

}  // namespace

/// One convolution with its norm folded in, and the primitive for the last size seen.
class ConvStem::Layer {
 public:
  Layer(const Weights& weights, const std::string& prefix, int64_t index, bool batch_norm) {
    const Array& kernel = weights.at(cat(prefix, ".conv.", index, ".weight"));
    out_ = kernel.size(0);
    in_ = kernel.size(1);
    const float* values = kernel.data<float>();
    kernel_.assign(values, values + kernel.numel());
    bias_.assign(static_cast<size_t>(out_), 0.0F);
    if (batch_norm) {
      fold(weights, cat(prefix, ".batch_norm.", index));
    }
  }

  int64_t out() const { return out_; }

  /// frame [h, w, in] -> ReLU of the convolution [h', w', out]
  void apply(const float* frame, Picture size, ConvPadding padding, float* result) {
    try {
      prepare(size, padding);
      dnnl::stream stream(cpu());
      memory source(source_, cpu(), const_cast<float*>(frame));
      memory target(target_, cpu(), result);
      convolution_.execute(stream, {{DNNL_ARG_SRC, source},
                                    {DNNL_ARG_WEIGHTS, packed_},
                                    {DNNL_ARG_BIAS, bias_memory_},
                                    {DNNL_ARG_DST, target}});
      stream.wait();
    } catch (const dnnl::error& error) {
      throw Error(error.status == dnnl_out_of_memory ? ErrorCode::kIo : ErrorCode::kInternal,
                  cat("[conv stem] oneDNN: ", error.message));
    }
  }

 private:
  void fold(const Weights& weights, const std::string& norm) {
    const float* gain = weights.data(norm + ".weight");
    const float* shift = weights.data(norm + ".bias");
    const float* mean = weights.data(norm + ".running_mean");
    const float* variance = weights.data(norm + ".running_var");
    const int64_t taps = in_ * 49;
    for (int64_t o = 0; o < out_; ++o) {
      const double factor = static_cast<double>(gain[o]) /
                            std::sqrt(static_cast<double>(variance[o]) + kBatchNormEps);
      for (int64_t k = o * taps; k < (o + 1) * taps; ++k) {
        float& weight = kernel_[static_cast<size_t>(k)];
        weight = static_cast<float>(static_cast<double>(weight) * factor);
      }
      bias_[static_cast<size_t>(o)] =
          static_cast<float>(static_cast<double>(shift[o]) - static_cast<double>(mean[o]) * factor);
    }
  }

  void prepare(Picture size, ConvPadding padding) {
    if (size == size_) {
      return;
    }
    const bool same = padding == ConvPadding::kSame;
    const Padding rows = same ? same_padding(size.height, 7) : Padding{3, 3};
    const Padding columns = same ? same_padding(size.width, 7) : Padding{3, 3};
    constexpr auto kFloat = memory::data_type::f32;
    source_ = {{1, in_, size.height, size.width}, kFloat, memory::format_tag::nhwc};
    target_ = {
        {1, out_, convolved(size.height), convolved(size.width)}, kFloat, memory::format_tag::nhwc};
    const memory::desc any({out_, in_, 7, 7}, kFloat, memory::format_tag::any);
    const memory::desc given({out_, in_, 7, 7}, kFloat, memory::format_tag::oihw);
    const memory::desc bias({out_}, kFloat, memory::format_tag::x);
    // "same" needs less padding after than the window allows: oneDNN wants the exact amount
    const auto after = [](int64_t extent, int64_t before) {
      return (convolved(extent) - 1) * 2 + 7 - extent - before;
    };
    const dnnl::convolution_forward::desc operation(
        dnnl::prop_kind::forward_inference, dnnl::algorithm::convolution_auto, source_, any, bias,
        target_, {2, 2}, {rows.before, columns.before},
        {after(size.height, rows.before), after(size.width, columns.before)});
    dnnl::post_ops post;
    post.append_eltwise(1.0F, dnnl::algorithm::eltwise_relu, 0.0F, 0.0F);
    dnnl::primitive_attr attributes;
    attributes.set_post_ops(post);
    const dnnl::convolution_forward::primitive_desc description(operation, attributes, cpu());
    memory plain(given, cpu(), kernel_.data());
    packed_ = memory(description.weights_desc(), cpu());
    dnnl::stream stream(cpu());
    dnnl::reorder(plain, packed_).execute(stream, plain, packed_);
    stream.wait();
    bias_memory_ = memory(bias, cpu(), bias_.data());
    convolution_ = dnnl::convolution_forward(description);
    size_ = size;
  }

  int64_t in_ = 0, out_ = 0;
  std::vector<float> kernel_, bias_;
  Picture size_;
  memory::desc source_, target_;
  memory packed_, bias_memory_;
  dnnl::convolution_forward convolution_;
};

ConvStem::ConvStem(const Weights& weights, const InputSpec& input, ConvPadding padding)
    : name_(input.name), padding_(padding) {
  for (int64_t i = 0; i < input.num_conv_layers; ++i) {
    layers_.push_back(
        std::make_unique<Layer>(weights, cat("inputs.", input.name), i, input.batch_norm));
  }
}

ConvStem::~ConvStem() = default;

Array ConvStem::apply(const Array& raw, Workspace& workspace) const {
  std::vector<int64_t> shape = raw.shape();
  const Picture size{raw.size(-3), raw.size(-2)};
  const int64_t pixels = size.height * size.width * raw.size(-1);
  Picture last = size;
  int64_t largest_convolved = 0, largest_pooled = 0;
  for (const auto& layer : layers_) {
    const Picture inner{convolved(last.height), convolved(last.width)};
    last = pooled(inner, padding_);
    if (last.height < 1 || last.width < 1) {
      throw Error(ErrorCode::kShape,
                  cat("[input ", name_, "] ", shape_string(shape),
                      " is too small for the conv stem's ", layers_.size(), " layers"));
    }
    largest_convolved = std::max(largest_convolved, inner.height * inner.width * layer->out());
    largest_pooled = std::max(largest_pooled, last.height * last.width * layer->out());
  }
  const int64_t channels = layers_.back()->out();
  shape[shape.size() - 3] = last.height;
  shape[shape.size() - 2] = last.width;
  shape.back() = channels;
  const int64_t result_bytes = element_count(shape) * static_cast<int64_t>(sizeof(float));
  if (result_ == nullptr || result_.use_count() > 1 || result_->size() < result_bytes) {
    result_ = std::make_shared<Pages>(std::max<int64_t>(result_bytes, 1));
  }
  auto* result = reinterpret_cast<float*>(result_->data());
  const Workspace::Scope scope(workspace);
  float* values = raw.dtype() == DType::kF32 ? nullptr : workspace.take(pixels);
  float* inner = workspace.take(largest_convolved);
  float* between = workspace.take(largest_pooled);
  RawLayout frame;
  frame.grid = {1};
  frame.steps = {pixels};
  frame.run = frame.example = pixels;
  const int64_t frames = pixels == 0 ? 0 : raw.numel() / pixels;
  for (int64_t i = 0; i < frames; ++i) {
    const float* from = values;
    if (values == nullptr) {
      from = raw.data<float>() + i * pixels;
    } else {
      copy_rows(raw, frame, i, 0, 1, {values, 1, pixels, pixels});
    }
    Picture now = size;
    for (const auto& layer : layers_) {
      layer->apply(from, now, padding_, inner);
      const Picture wide{convolved(now.height), convolved(now.width)};
      now = pooled(wide, padding_);
      float* to =
          layer == layers_.back() ? result + i * now.height * now.width * channels : between;
      max_pool(inner, wide, layer->out(), padding_, to);
      from = to;
    }
  }
  return Array::view(DType::kF32, std::move(shape), result, result_);
}

}  // namespace perceiver::runtime
