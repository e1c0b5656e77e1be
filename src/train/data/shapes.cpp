#include "train/data/shapes.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

namespace perceiver::train {
namespace {

constexpr double kTurn = 2 * std::numbers::pi;

// A colour under a plane wave.
struct Texture {
  std::vector<double> colour;
  double along_x = 0, along_y = 0, phase = 0, strength = 0;
};

Texture draw_texture(int64_t channels, Random& random) {
  Texture texture;
  for (int64_t c = 0; c < channels; ++c) {
    texture.colour.push_back(random.uniform(40, 215));
  }
  const double angle = random.uniform(0, kTurn);
  const double wavelength = random.uniform(3, 8);
  texture.along_x = kTurn / wavelength * std::cos(angle);
  texture.along_y = kTurn / wavelength * std::sin(angle);
  texture.phase = random.uniform(0, kTurn);
  texture.strength = random.uniform(10, 30);
  return texture;
}

struct Shape {
  int64_t kind = 0;  // its class
  double x = 0, y = 0, radius = 1, cosine = 1, sine = 0;
  Texture texture;
};

Shape draw_shape(const PictureSize& size, Random& random) {
  Shape shape;
  shape.kind = 1 + random.below(kShapeClasses - 1);
  shape.x = random.uniform(0.15, 0.85) * static_cast<double>(size.width);
  shape.y = random.uniform(0.15, 0.85) * static_cast<double>(size.height);
  shape.radius =
      random.uniform(0.18, 0.36) * static_cast<double>(std::min(size.height, size.width));
  const double angle = random.uniform(0, kTurn);
  shape.cosine = std::cos(angle);
  shape.sine = std::sin(angle);
  shape.texture = draw_texture(size.channels, random);
  return shape;
}

// About as large for every kind: areas 3.1, 2.9 and 2.5 in radii.
bool contains(const Shape& shape, double x, double y) {
  const double dx = (x - shape.x) / shape.radius;
  const double dy = (y - shape.y) / shape.radius;
  const double u = shape.cosine * dx + shape.sine * dy;
  const double v = shape.cosine * dy - shape.sine * dx;
  if (shape.kind == 1) {
    return u * u + v * v <= 1;
  }
  if (shape.kind == 2) {
    return std::max(std::abs(u), std::abs(v)) <= 0.85;
  }
  constexpr double kInner = 0.7;  // radius of the circle inside the triangle
  const double side = std::numbers::sqrt3 / 2;
  return -v <= kInner && side * u + v / 2 <= kInner && -side * u + v / 2 <= kInner;
}

}  // namespace

void draw_scene(const ShapesSpec& spec, const PictureSize& size, Random& random, float* values,
                int64_t* labels) {
  const Texture background = draw_texture(size.channels, random);
  std::vector<Shape> shapes;
  for (int64_t left = 1 + random.below(spec.max_shapes); left > 0; --left) {
    shapes.push_back(draw_shape(size, random));
  }
  for (int64_t row = 0; row < size.height; ++row) {
    for (int64_t column = 0; column < size.width; ++column) {
      const double x = static_cast<double>(column) + 0.5;
      const double y = static_cast<double>(row) + 0.5;
      const auto front = std::find_if(shapes.rbegin(), shapes.rend(),
                                      [&](const Shape& shape) { return contains(shape, x, y); });
      const Texture& texture = front == shapes.rend() ? background : front->texture;
      const double wave =
          texture.strength * std::sin(texture.along_x * x + texture.along_y * y + texture.phase);
      for (const double colour : texture.colour) {
        const double noise = random.uniform(-spec.noise, spec.noise);
        *values++ = static_cast<float>(std::clamp(colour + wave + noise, 0.0, 255.0));
      }
      *labels++ = front == shapes.rend() ? 0 : front->kind;
    }
  }
}

}  // namespace perceiver::train
