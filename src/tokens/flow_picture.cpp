#include "perceiver/tokens/flow_picture.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"

namespace perceiver::tokens {
namespace {

using Color = std::array<double, 3>;  // red, green, blue in 0..1

// Steps from red to yellow, green, cyan, blue, magenta and back: more where the eye sees more hues.
constexpr std::array<int, 6> kArcSteps = {15, 6, 4, 11, 13, 6};
constexpr int kWheelSize = 55;

/// On each arc one component rises or falls in whole levels while the others rest at an end.
std::array<Color, kWheelSize> make_wheel() {
  struct Arc {
    Color start;
    size_t moving;
    bool rising;
  };
  static constexpr std::array<Arc, 6> kArcs = {{{{1, 0, 0}, 1, true},
                                                {{1, 1, 0}, 0, false},
                                                {{0, 1, 0}, 2, true},
                                                {{0, 1, 1}, 1, false},
                                                {{0, 0, 1}, 0, true},
                                                {{1, 0, 1}, 2, false}}};
  std::array<Color, kWheelSize> wheel{};
  size_t at = 0;
  for (size_t arc = 0; arc < kArcs.size(); ++arc) {
    for (int step = 0; step < kArcSteps[arc]; ++step) {
      const double moved = std::floor(255.0 * step / kArcSteps[arc]) / 255.0;
      wheel[at] = kArcs[arc].start;
      wheel[at++][kArcs[arc].moving] = kArcs[arc].rising ? moved : 1.0 - moved;
    }
  }
  return wheel;
}

void paint(double u, double v, double max_radius, uint8_t* rgb) {
  static const std::array<Color, kWheelSize> kWheel = make_wheel();
  const double radius = std::hypot(u, v) / max_radius;
  const double turn = (std::atan2(-v, -u) / std::numbers::pi + 1.0) / 2.0;  // 0..1
  const double place = turn * (kWheelSize - 1);
  const auto before = static_cast<size_t>(place);
  const size_t after = (before + 1) % kWheelSize;
  const double fraction = place - static_cast<double>(before);
  for (size_t c = 0; c < 3; ++c) {
    const double hue = (1.0 - fraction) * kWheel[before][c] + fraction * kWheel[after][c];
    constexpr double kDarker = 0.75;
    const double shade = radius <= 1.0 ? 1.0 - radius * (1.0 - hue) : hue * kDarker;
    rgb[c] = static_cast<uint8_t>(std::clamp(std::floor(255.0 * shade), 0.0, 255.0));
  }
}

}  // namespace

Array flow_picture(const Array& uv, const Array& valid, const FlowPictureOptions& options) {
  const bool masked = valid.defined();
  if (uv.dim() != 3 || uv.size(2) != 2 || uv.numel() == 0 ||
      (masked && valid.shape() != std::vector<int64_t>{uv.size(0), uv.size(1)})) {
    throw Error(ErrorCode::kShape,
                cat("a flow must be [H, W, 2] with valid [H, W], got ", shape_string(uv.shape()),
                    masked ? " and " + shape_string(valid.shape()) : std::string()));
  }
  if (!(options.max_radius >= 0.0)) {
    throw Error(ErrorCode::kArgument,
                cat("max_radius must not be negative, got ", options.max_radius));
  }
  const float* values = uv.data<float>();
  const bool* ok = masked ? valid.data<bool>() : nullptr;
  const int64_t count = uv.numel() / 2;
  const auto shown = [&](int64_t i) {
    return (ok == nullptr || ok[i]) && std::isfinite(values[2 * i]) &&
           std::isfinite(values[2 * i + 1]);
  };
  double radius = options.max_radius;
  for (int64_t i = 0; options.max_radius == 0.0 && i < count; ++i) {
    if (shown(i)) {
      radius = std::max(radius, std::hypot(static_cast<double>(values[2 * i]),
                                           static_cast<double>(values[2 * i + 1])));
    }
  }
  radius = radius > 0.0 ? radius : 1.0;
  Array picture = Array::zeros(DType::kU8, {uv.size(0), uv.size(1), 3});
  uint8_t* rgb = picture.mutable_data<uint8_t>();
  for (int64_t i = 0; i < count; ++i) {
    if (shown(i)) {
      paint(static_cast<double>(values[2 * i]), static_cast<double>(values[2 * i + 1]), radius,
            rgb + 3 * i);
    }
  }
  return picture;
}

}  // namespace perceiver::tokens
