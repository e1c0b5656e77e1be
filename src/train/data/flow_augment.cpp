#include "train/data/flow_augment.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>
#include <vector>

namespace perceiver::train {
namespace {

using Pixel = std::array<float, 3>;

bool happens(double probability, Random& random) {
  return probability > 0 && random.uniform() < probability;
}

float grey_of(const Pixel& p) {
  return 0.299F * p[0] + 0.587F * p[1] + 0.114F * p[2];
}

uint8_t level(float value) {
  return static_cast<uint8_t>(std::clamp(std::lround(value), 0L, 255L));
}

struct ColourChange {
  float brightness = 1, contrast = 1, saturation = 1, hue = 0;
  bool none() const { return brightness == 1 && contrast == 1 && saturation == 1 && hue == 0; }
};

ColourChange draw_colours(const FlowAugmentSpec& spec, Random& random) {
  ColourChange change;
  change.brightness = static_cast<float>(1 + random.uniform(-spec.brightness, spec.brightness));
  change.contrast = static_cast<float>(1 + random.uniform(-spec.contrast, spec.contrast));
  change.saturation = static_cast<float>(1 + random.uniform(-spec.saturation, spec.saturation));
  change.hue = static_cast<float>(random.uniform(-spec.hue, spec.hue));
  return change;
}

// Turns a colour about the grey axis, keeping value and saturation of HSV.
Pixel turned(const Pixel& p, float turns) {
  const float top = std::max({p[0], p[1], p[2]}), bottom = std::min({p[0], p[1], p[2]});
  const float range = top - bottom;
  if (range <= 0) {
    return p;
  }
  float hue = 0;  // sixths of a turn
  if (top == p[0]) {
    hue = (p[1] - p[2]) / range;
  } else if (top == p[1]) {
    hue = 2 + (p[2] - p[0]) / range;
  } else {
    hue = 4 + (p[0] - p[1]) / range;
  }
  hue += 6 * turns;
  const auto channel = [&](float offset) {
    float k = std::fmod(offset + hue, 6.0F);
    k = k < 0 ? k + 6 : k;
    return top - range * std::clamp(std::min(k, 4 - k), 0.0F, 1.0F);
  };
  return {channel(5), channel(3), channel(1)};
}

// Brightness, contrast, saturation, hue, in this order, clipped after each as 8-bit levels are.
void change_colours(const ColourChange& change, Array& frame) {
  if (change.none()) {
    return;
  }
  uint8_t* rgb = frame.mutable_data<uint8_t>();
  const int64_t pixels = frame.numel() / 3;
  double sum = 0;
  for (int64_t i = 0; i < pixels; ++i) {
    Pixel p{};
    for (size_t c = 0; c < 3; ++c) {
      p[c] = std::min(255.0F,
                      static_cast<float>(rgb[3 * i + static_cast<int64_t>(c)]) * change.brightness);
    }
    sum += static_cast<double>(grey_of(p));
  }
  const auto mean = static_cast<float>(sum / static_cast<double>(pixels));
  const auto towards = [](float from, float value, float factor) {
    return std::clamp(from + (value - from) * factor, 0.0F, 255.0F);
  };
  for (int64_t i = 0; i < pixels; ++i, rgb += 3) {
    Pixel p{};
    for (size_t c = 0; c < 3; ++c) {
      p[c] = std::min(255.0F, static_cast<float>(rgb[c]) * change.brightness);
      p[c] = towards(mean, p[c], change.contrast);
    }
    const float grey = grey_of(p);
    for (float& value : p) {
      value = towards(grey, value, change.saturation);
    }
    p = change.hue == 0 ? p : turned(p, change.hue);
    for (size_t c = 0; c < 3; ++c) {
      rgb[c] = level(p[c]);
    }
  }
}

void jitter(const FlowAugmentSpec& spec, Random& random, FlowPair& pair) {
  if (spec.brightness == 0 && spec.contrast == 0 && spec.saturation == 0 && spec.hue == 0) {
    return;
  }
  const bool apart = happens(spec.asymmetric, random);
  const ColourChange first = draw_colours(spec, random);
  change_colours(first, pair.first);
  change_colours(apart ? draw_colours(spec, random) : first, pair.second);
}

void erase(const FlowAugmentSpec& spec, Random& random, Array& frame) {
  if (!happens(spec.eraser, random)) {
    return;
  }
  const int64_t height = frame.size(0), width = frame.size(1);
  uint8_t* rgb = frame.mutable_data<uint8_t>();
  std::array<double, 3> sums{};
  for (int64_t i = 0; i < frame.numel(); ++i) {
    sums[static_cast<size_t>(i % 3)] += rgb[i];
  }
  const auto pixels = static_cast<double>(height * width);
  const int64_t count = 1 + random.below(2);
  for (int64_t k = 0; k < count; ++k) {
    const int64_t left = random.below(width), top = random.below(height);
    const auto right =
        left + static_cast<int64_t>(random.uniform(spec.eraser_min, spec.eraser_max));
    const auto bottom =
        top + static_cast<int64_t>(random.uniform(spec.eraser_min, spec.eraser_max));
    for (int64_t y = top; y < std::min(bottom, height); ++y) {
      for (int64_t x = left; x < std::min(right, width); ++x) {
        for (int64_t c = 0; c < 3; ++c) {
          rgb[3 * (y * width + x) + c] =
              level(static_cast<float>(sums[static_cast<size_t>(c)] / pixels));
        }
      }
    }
  }
}

// Point (x, y) of the example is read at (x * step_x + from_x, y * step_y + from_y); steps are
// negative where the pair is mirrored.
struct Window {
  double from_x = 0, from_y = 0, step_x = 1, step_y = 1;
};

struct Axis {
  double step = 1, from = 0;
};

// @param scaled  extent after scaling; from it `size` pixels are cut, `offset` in [0, 1] of the
// rest
Axis axis_of(double scale, int64_t extent, int64_t size, double offset, bool flip) {
  const double scaled = scale * static_cast<double>(extent);
  const double spare = std::max(0.0, scaled - static_cast<double>(size));
  // pixel middles: i of the enlarged frame is (i + 0.5) / scale - 0.5 of the original
  Axis axis{1 / scale, (spare * offset + 0.5) / scale - 0.5};
  if (flip) {
    axis.from = static_cast<double>(extent - 1) - axis.from;
    axis.step = -axis.step;
  }
  return axis;
}

// Extent of the part of the enlarged frame that exists: beyond it nothing is valid.
Window draw_window(const FlowPair& pair, const FlowAugmentSpec& spec, CropPlace place,
                   const tokens::TileSize& size, Random& random) {
  double scale_x = 1, scale_y = 1;
  if (happens(spec.scale_probability, random)) {
    scale_x = scale_y = std::exp2(random.uniform(spec.scale_min, spec.scale_max));
    if (happens(spec.stretch_probability, random)) {
      scale_x *= std::exp2(random.uniform(-spec.stretch, spec.stretch));
      scale_y *= std::exp2(random.uniform(-spec.stretch, spec.stretch));
    }
    const auto least = [](int64_t wanted, int64_t extent) {
      return std::min(1.0, static_cast<double>(wanted) / static_cast<double>(extent));
    };
    scale_x = std::max(scale_x, least(size.width, pair.width()));
    scale_y = std::max(scale_y, least(size.height, pair.height()));
  }
  const bool flip_x = happens(spec.flip_horizontal, random);
  const bool flip_y = happens(spec.flip_vertical, random);
  const bool anywhere = place == CropPlace::kRandom;
  const double across = anywhere ? random.uniform() : 0.5;
  const double down = anywhere ? random.uniform() : 0.5;
  const Axis x = axis_of(scale_x, pair.width(), size.width, across, flip_x);
  const Axis y = axis_of(scale_y, pair.height(), size.height, down, flip_y);
  return {x.from, y.from, x.step, y.step};
}

// Four pixels around a point and their weights, the border repeated.
struct Around {
  std::array<int64_t, 4> at{};
  std::array<float, 4> weight{};
  int64_t nearest = 0;
  bool inside = false;  // not beyond the frame
};

Around around(double x, double y, int64_t height, int64_t width) {
  const double right = static_cast<double>(width - 1), bottom = static_cast<double>(height - 1);
  Around result;
  result.inside = x >= -0.5 && y >= -0.5 && x <= right + 0.5 && y <= bottom + 0.5;
  x = std::clamp(x, 0.0, right);
  y = std::clamp(y, 0.0, bottom);
  const auto x0 = static_cast<int64_t>(x), y0 = static_cast<int64_t>(y);
  const int64_t x1 = std::min(x0 + 1, width - 1), y1 = std::min(y0 + 1, height - 1);
  const auto fx = static_cast<float>(x - static_cast<double>(x0));
  const auto fy = static_cast<float>(y - static_cast<double>(y0));
  result.at = {y0 * width + x0, y0 * width + x1, y1 * width + x0, y1 * width + x1};
  result.weight = {(1 - fy) * (1 - fx), (1 - fy) * fx, fy * (1 - fx), fy * fx};
  result.nearest = (fy < 0.5F ? y0 : y1) * width + (fx < 0.5F ? x0 : x1);
  return result;
}

void read_colour(const Array& frame, const Around& place, uint8_t* out) {
  const uint8_t* rgb = frame.data<uint8_t>();
  for (int64_t c = 0; c < 3; ++c) {
    float sum = 0;
    for (size_t k = 0; k < 4; ++k) {
      sum += place.weight[k] * static_cast<float>(rgb[3 * place.at[k] + c]);
    }
    out[c] = level(sum);
  }
}

bool one_motion(const io::Flow& flow, const Around& place) {
  constexpr float kOneMotion = 1.0F;  // pixels
  const float* uv = flow.uv.data<float>();
  for (int64_t c = 0; c < 2; ++c) {
    float low = uv[2 * place.at[0] + c], high = low;
    for (const int64_t at : place.at) {
      low = std::min(low, uv[2 * at + c]);
      high = std::max(high, uv[2 * at + c]);
      if (!flow.valid.data<bool>()[at]) {
        return false;
      }
    }
    if (high - low >= kOneMotion) {
      return false;
    }
  }
  return true;
}

// @return whether it is valid   @param out  in pixels of the example
bool read_flow_at(const io::Flow& flow, const Around& place, const Window& window, float* out) {
  if (!place.inside || !flow.valid.data<bool>()[place.nearest]) {
    out[0] = out[1] = 0;
    return false;
  }
  const float* uv = flow.uv.data<float>();
  const std::array<double, 2> steps{window.step_x, window.step_y};
  const bool blend = one_motion(flow, place);
  for (size_t c = 0; c < 2; ++c) {
    const auto channel = static_cast<int64_t>(c);
    float value = uv[2 * place.nearest + channel];
    if (blend) {
      value = 0;
      for (size_t k = 0; k < 4; ++k) {
        value += place.weight[k] * uv[2 * place.at[k] + channel];
      }
    }
    out[c] = static_cast<float>(static_cast<double>(value) / steps[c]);
  }
  return true;
}

FlowPair resampled(const FlowPair& pair, const Window& window, const tokens::TileSize& size) {
  const std::vector<int64_t> plane{size.height, size.width};
  FlowPair out{
      Array::zeros(DType::kU8, {size.height, size.width, 3}),
      Array::zeros(DType::kU8, {size.height, size.width, 3}),
      {Array::zeros(DType::kF32, {size.height, size.width, 2}), Array::zeros(DType::kBool, plane)},
      pair.occluded.defined() ? Array::zeros(DType::kBool, plane) : Array()};
  uint8_t* first = out.first.mutable_data<uint8_t>();
  uint8_t* second = out.second.mutable_data<uint8_t>();
  float* uv = out.flow.uv.mutable_data<float>();
  bool* valid = out.flow.valid.mutable_data<bool>();
  for (int64_t i = 0; i < size.height * size.width; ++i) {
    const double x = window.from_x + window.step_x * static_cast<double>(i % size.width);
    const double y = window.from_y + window.step_y * static_cast<double>(i / size.width);
    const Around place = around(x, y, pair.height(), pair.width());
    read_colour(pair.first, place, first + 3 * i);
    read_colour(pair.second, place, second + 3 * i);
    valid[i] = read_flow_at(pair.flow, place, window, uv + 2 * i);
    if (pair.occluded.defined()) {
      out.occluded.mutable_data<bool>()[i] = pair.occluded.data<bool>()[place.nearest];
    }
  }
  return out;
}

bool keeps_geometry(const FlowAugmentSpec& spec) {
  return spec.scale_probability == 0 && spec.flip_horizontal == 0 && spec.flip_vertical == 0;
}

}  // namespace

FlowPair augment_flow(const FlowPair& pair, const FlowAugmentSpec& spec, CropPlace place,
                      const tokens::TileSize& size, Random& random) {
  FlowPair out;
  if (keeps_geometry(spec)) {
    const auto start = [&](int64_t extent, int64_t wanted) {
      const int64_t spare = std::max<int64_t>(0, extent - wanted);
      return place == CropPlace::kRandom ? random.below(spare + 1) : spare / 2;
    };
    const int64_t y = start(pair.height(), size.height);
    const int64_t x = start(pair.width(), size.width);
    out = crop(pair, y, x, size);
  } else {
    out = resampled(pair, draw_window(pair, spec, place, size, random), size);
  }
  jitter(spec, random, out);
  erase(spec, random, out.second);
  return out;
}

}  // namespace perceiver::train
