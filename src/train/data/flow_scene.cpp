#include "train/data/flow_scene.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"

namespace perceiver::train {
namespace {

constexpr double kTurn = 2 * std::numbers::pi;
constexpr double kFinestCell = 2;  // pixels
// A wave of 1.5 periods per frame and 0.05 of its side bends by at most 0.47 pixels a pixel; with
// the smallest scale that is still a contraction, so backward() converges.
constexpr double kMaxBend = 0.05, kMaxPeriods = 1.5, kMaxScale = 0.3, kMaxRotation = 30;

uint64_t hash(uint64_t x) {  // SplitMix64's finaliser
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

// Three values in [0, 1) at a point of the noise's lattice.
Colour lattice(uint64_t seed, int64_t x, int64_t y) {
  const uint64_t bits = hash(seed ^ hash(static_cast<uint64_t>(x) * 0x9E3779B97F4A7C15u +
                                         static_cast<uint64_t>(y) * 0xC2B2AE3D27D4EB4Fu));
  Colour values{};
  for (size_t c = 0; c < 3; ++c) {
    values[c] = static_cast<double>(bits >> (21 * c) & 0x1FFFFF) * 0x1p-21;
  }
  return values;
}

double smooth(double t) {
  return t * t * (3 - 2 * t);
}

Colour mix(const Colour& a, const Colour& b, double t) {
  return {a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t, a[2] + (b[2] - a[2]) * t};
}

Colour lattice_noise(uint64_t seed, double x, double y) {
  const double x0 = std::floor(x), y0 = std::floor(y);
  const auto ix = static_cast<int64_t>(x0), iy = static_cast<int64_t>(y0);
  const double tx = smooth(x - x0), ty = smooth(y - y0);
  return mix(mix(lattice(seed, ix, iy), lattice(seed, ix + 1, iy), tx),
             mix(lattice(seed, ix, iy + 1), lattice(seed, ix + 1, iy + 1), tx), ty);
}

// 0 1 2 1 0 1 ... : a picture goes on mirrored beyond its border.
int64_t mirrored(int64_t i, int64_t size) {
  const int64_t period = std::max<int64_t>(1, 2 * size - 2);
  const int64_t at = ((i % period) + period) % period;
  return at < size ? at : period - at;
}

uint8_t level(double value) {
  return static_cast<uint8_t>(std::clamp(std::lround(value), 0L, 255L));
}

bool inside(const FlowSceneSpec& spec, Point p) {
  return p.x >= -0.5 && p.y >= -0.5 && p.x < static_cast<double>(spec.width) - 0.5 &&
         p.y < static_cast<double>(spec.height) - 0.5;
}

}  // namespace

void check_scene_spec(const FlowSceneSpec& spec, const std::string& where) {
  const double most = kMaxBend * static_cast<double>(std::min(spec.height, spec.width));
  const auto check = [&](const char* name, double value, double maximum) {
    if (!(value >= 0 && value <= maximum)) {
      throw Error(ErrorCode::kArgument,
                  cat(where, ".", name, " is ", value, ", must be between 0 and ", maximum,
                      " for frames of ", spec.height, "x", spec.width));
    }
  };
  check("rotation", spec.rotation, kMaxRotation);
  check("scale", spec.scale, kMaxScale);
  check("bend", spec.bend, most);
  check("shift", spec.shift, static_cast<double>(std::max(spec.height, spec.width)));
}

LayerMotion::LayerMotion(const FlowSceneSpec& spec, Point middle, Random& random)
    : middle_(middle) {
  const double angle = random.uniform(-spec.rotation, spec.rotation) * kTurn / 360;
  const double scale = 1 + random.uniform(-spec.scale, spec.scale);
  a_ = scale * std::cos(angle);
  b_ = scale * std::sin(angle);
  const double length = spec.shift * random.uniform();  // short ones are more frequent per area
  const double direction = random.uniform(0, kTurn);
  shift_ = {length * std::cos(direction), length * std::sin(direction)};
  for (Wave& wave : waves_) {
    const double periods = random.uniform(0.5, kMaxPeriods);
    const double heading = random.uniform(0, kTurn);
    const double side = static_cast<double>(std::min(spec.height, spec.width));
    wave.x = kTurn * periods * std::cos(heading) / side;
    wave.y = kTurn * periods * std::sin(heading) / side;
    wave.phase = random.uniform(0, kTurn);
    const double towards = random.uniform(0, kTurn);
    const double amplitude = spec.bend / 2 * random.uniform();
    wave.along_x = amplitude * std::cos(towards);
    wave.along_y = amplitude * std::sin(towards);
  }
}

Point LayerMotion::bend(Point p) const {
  Point sum;
  for (const Wave& wave : waves_) {
    if (wave.along_x == 0 && wave.along_y == 0) {
      continue;
    }
    const double height = std::sin(wave.x * p.x + wave.y * p.y + wave.phase);
    sum.x += wave.along_x * height;
    sum.y += wave.along_y * height;
  }
  return sum;
}

Point LayerMotion::forward(Point p) const {
  const double x = p.x - middle_.x, y = p.y - middle_.y;
  const Point bent = bend(p);
  return {middle_.x + a_ * x - b_ * y + bent.x + shift_.x,
          middle_.y + b_ * x + a_ * y + bent.y + shift_.y};
}

Point LayerMotion::backward(Point q) const {
  constexpr int kMaxRounds = 60;
  constexpr double kNear = 1e-6;
  const double norm = a_ * a_ + b_ * b_;
  Point p = q;
  for (int round = 0; round < kMaxRounds; ++round) {
    const Point bent = bend(p);
    const double x = q.x - middle_.x - shift_.x - bent.x;
    const double y = q.y - middle_.y - shift_.y - bent.y;
    const Point next{middle_.x + (a_ * x + b_ * y) / norm, middle_.y + (a_ * y - b_ * x) / norm};
    const double change = std::max(std::fabs(next.x - p.x), std::fabs(next.y - p.y));
    p = next;
    if (change < kNear) {
      break;
    }
  }
  return p;
}

Texture::Texture(const FlowSceneSpec& spec, const Array& picture, Random& random)
    : picture_(picture), seed_(random.next()) {
  const double angle = random.uniform(0, kTurn);
  // Invented: the coarsest octave has cells of 6 to 24 pixels, up to twice as long as wide. Parts
  // of pictures keep their upright sense, at half to all of their resolution.
  const double cell = std::exp2(random.uniform(std::log2(6.0), std::log2(24.0)));
  const double step = picture.defined() ? random.uniform(1, 2) : 1 / cell;
  const double stretch = picture.defined() ? 1 : random.uniform(0.5, 1);
  const double cosine = picture.defined() ? 1 : std::cos(angle);
  const double sine = picture.defined() ? 0 : std::sin(angle);
  a_ = step * cosine;
  b_ = -step * sine;
  c_ = step * stretch * sine;
  d_ = step * stretch * cosine;
  const double span =
      picture.defined()
          ? static_cast<double>(std::max({picture.size(0), picture.size(1), spec.width}))
          : 1000;
  origin_ = {random.uniform(0, span), random.uniform(0, span)};
  for (size_t c = 0; c < 3; ++c) {
    low_[c] = random.uniform(0, 255);
    high_[c] = random.uniform(0, 255);
  }
  double sum = 0;
  double octave_cell = cell;
  for (double& weight : octaves_) {
    const double drawn = random.uniform(0.1, 1);
    weight = octave_cell >= kFinestCell ? drawn : 0;  // finer ones would be noise to the pixels
    octave_cell /= 2;
    sum += weight;
  }
  for (double& weight : octaves_) {
    weight /= sum;
  }
}

Colour Texture::at(Point p) const {
  const Point t{origin_.x + a_ * p.x + b_ * p.y, origin_.y + c_ * p.x + d_ * p.y};
  return picture_.defined() ? from_picture(t) : noise(t);
}

Colour Texture::noise(Point p) const {
  Colour value{};
  double frequency = 1;
  for (size_t octave = 0; octave < octaves_.size(); ++octave, frequency *= 2) {
    const Colour here = lattice_noise(seed_ + octave, p.x * frequency, p.y * frequency);
    for (size_t c = 0; c < 3; ++c) {
      // the mean of several octaves is seldom near 0 or 1: stretched about the middle
      value[c] += octaves_[octave] * (here[c] * 2 - 0.5);
    }
  }
  Colour out{};
  for (size_t c = 0; c < 3; ++c) {
    out[c] = std::clamp(low_[c] + (high_[c] - low_[c]) * value[c], 0.0, 255.0);
  }
  return out;
}

Colour Texture::from_picture(Point p) const {
  const int64_t height = picture_.size(0), width = picture_.size(1);
  const double x0 = std::floor(p.x), y0 = std::floor(p.y);
  const auto pixel = [&](int64_t dy, int64_t dx) {
    const int64_t y = mirrored(static_cast<int64_t>(y0) + dy, height);
    const int64_t x = mirrored(static_cast<int64_t>(x0) + dx, width);
    const uint8_t* rgb = picture_.data<uint8_t>() + 3 * (y * width + x);
    return Colour{static_cast<double>(rgb[0]), static_cast<double>(rgb[1]),
                  static_cast<double>(rgb[2])};
  };
  return mix(mix(pixel(0, 0), pixel(0, 1), p.x - x0), mix(pixel(1, 0), pixel(1, 1), p.x - x0),
             p.y - y0);
}

bool FlowScene::Shape::holds(Point p) const {
  const double dx = p.x - middle.x, dy = p.y - middle.y;
  const double reach = radius * (1 + wave);
  if (dx * dx + dy * dy > reach * reach) {
    return false;
  }
  const double x = std::cos(turn) * dx + std::sin(turn) * dy;
  const double y = (std::cos(turn) * dy - std::sin(turn) * dx) / stretch;
  const double edge =
      radius * (1 + wave * std::sin(static_cast<double>(lobes) * std::atan2(y, x) + phase));
  return x * x + y * y < edge * edge;
}

FlowScene::FlowScene(const FlowSceneSpec& spec, Random random) : spec_(spec) {
  const double height = static_cast<double>(spec.height), width = static_cast<double>(spec.width);
  const int64_t shapes = spec.layers > 0 ? random.below(spec.layers + 1) : 0;
  for (int64_t i = 0; i <= shapes; ++i) {
    Layer layer;
    layer.everywhere = i == shapes;
    Shape& shape = layer.shape;
    shape.middle = {random.uniform(0, width), random.uniform(0, height)};
    shape.radius = std::min(width, height) * random.uniform(0.12, 0.45);
    shape.stretch = random.uniform(0.4, 1);
    shape.turn = random.uniform(0, kTurn);
    shape.wave = random.uniform(0, 0.4);
    shape.phase = random.uniform(0, kTurn);
    shape.lobes = 2 + random.below(5);
    const Point middle = layer.everywhere ? Point{width / 2, height / 2} : shape.middle;
    layer.motion = LayerMotion(spec, middle, random);
    layer.moved_middle = layer.motion.forward(middle);
    layer.moved_reach = shape.radius * (1 + shape.wave) * (1 + spec.scale) + 2 * spec.bend;
    Array picture;
    if (!spec.pictures.empty()) {
      const int64_t chosen = random.below(static_cast<int64_t>(spec.pictures.size()));
      picture = io::to_rgb(io::read_image(spec.pictures[static_cast<size_t>(chosen)])).pixels;
    }
    layer.texture = Texture(spec, picture, random);
    layers_.push_back(std::move(layer));
  }
}

bool FlowScene::Layer::may_show(Point q) const {
  const double x = q.x - moved_middle.x, y = q.y - moved_middle.y;
  return everywhere || x * x + y * y <= moved_reach * moved_reach;
}

size_t FlowScene::top_first(Point p) const {
  size_t i = 0;
  while (!layers_[i].holds(p)) {
    ++i;
  }
  return i;
}

size_t FlowScene::top_second(Point q, Point& source) const {
  for (size_t i = 0;; ++i) {
    if (layers_[i].may_show(q)) {
      source = layers_[i].motion.backward(q);
      if (layers_[i].holds(source)) {
        return i;
      }
    }
  }
}

Colour FlowScene::second(Point q) const {
  Point source;
  const size_t layer = top_second(q, source);
  return layers_[layer].texture.at(source);
}

bool FlowScene::occluded(Point p) const {
  const size_t layer = top_first(p);
  const Point q = layers_[layer].motion.forward(p);
  if (!inside(spec_, q)) {
    return true;
  }
  for (size_t i = 0; i < layer; ++i) {
    if (layers_[i].may_show(q) && layers_[i].holds(layers_[i].motion.backward(q))) {
      return true;
    }
  }
  return false;
}

FlowPair FlowScene::render() const {
  const int64_t height = spec_.height, width = spec_.width;
  FlowPair pair{Array::zeros(DType::kU8, {height, width, 3}),
                Array::zeros(DType::kU8, {height, width, 3}),
                io::make_flow(Array::zeros(DType::kF32, {height, width, 2})),
                Array::zeros(DType::kBool, {height, width})};
  const double parts = static_cast<double>(spec_.samples);
  for (int64_t i = 0; i < height * width; ++i) {
    const Point middle{static_cast<double>(i % width), static_cast<double>(i / width)};
    Colour first{}, second{};
    for (int64_t k = 0; k < spec_.samples * spec_.samples; ++k) {
      const Point p{middle.x + (static_cast<double>(k % spec_.samples) + 0.5) / parts - 0.5,
                    middle.y + (static_cast<double>(k / spec_.samples) + 0.5) / parts - 0.5};
      const Colour here = this->first(p), there = this->second(p);
      for (size_t c = 0; c < 3; ++c) {
        first[c] += here[c];
        second[c] += there[c];
      }
    }
    for (int64_t c = 0; c < 3; ++c) {
      const auto channel = static_cast<size_t>(c);
      pair.first.mutable_data<uint8_t>()[3 * i + c] = level(first[channel] / (parts * parts));
      pair.second.mutable_data<uint8_t>()[3 * i + c] = level(second[channel] / (parts * parts));
    }
    const Point to = moved(middle);
    pair.flow.uv.mutable_data<float>()[2 * i] = static_cast<float>(to.x - middle.x);
    pair.flow.uv.mutable_data<float>()[2 * i + 1] = static_cast<float>(to.y - middle.y);
    pair.occluded.mutable_data<bool>()[i] = occluded(middle);
  }
  return pair;
}

}  // namespace perceiver::train
