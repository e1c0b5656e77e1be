#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <vector>

#include "perceiver/io/image.h"
#include "train/data/flow_pair.h"
#include "train/random.h"

namespace perceiver::train {

/// What generated pairs look like.
struct FlowSceneSpec {
  int64_t height = 0, width = 0;  ///< of the frames
  int64_t layers = 3;             ///< at most so many moving shapes before the background
  double shift = 8;               ///< pixels: longest translation of a layer
  double rotation = 5;            ///< degrees, about the layer's middle; at most 30
  double scale = 0.05;            ///< fraction: 0.1 = 0.9 to 1.1; at most 0.3
  /// Pixels: amplitude of a smooth displacement of about one wave per frame; at most 0.05 of the
  /// frame's shorter side, beyond which a layer would fold over itself.
  double bend = 1;
  int64_t samples = 2;  ///< a pixel is the mean of samples x samples points
  /// Pictures whose parts become textures; empty = invented textures only.
  std::vector<std::filesystem::path> pictures;
};

/// @throws Error(kArgument) naming the field and both values; @param where  "recipe: data.train[0]"
void check_scene_spec(const FlowSceneSpec& spec, const std::string& where);

struct Point {
  double x = 0, y = 0;  ///< pixels, (0, 0) is the middle of the upper left one
};
using Colour = std::array<double, 3>;  ///< [0, 255]

/// Where a layer's points go from the first frame to the second: turned and scaled about the
/// layer's middle, bent by two long waves, shifted.
class LayerMotion {
 public:
  LayerMotion() = default;
  LayerMotion(const FlowSceneSpec& spec, Point middle, Random& random);
  Point forward(Point p) const;   ///< first frame -> second
  Point backward(Point q) const;  ///< its inverse, to 1e-6 pixels

 private:
  struct Wave {
    double x = 0, y = 0, phase = 0;   // radians per pixel
    double along_x = 0, along_y = 0;  // pixels
  };
  Point bend(Point p) const;

  Point middle_, shift_;
  double a_ = 1, b_ = 0;  // the turn and scale [a -b; b a]
  std::array<Wave, 2> waves_{};
};

/// A colour for every point of the plane: noise of several octaves between two colours, stretched
/// and turned at random, or a part of a picture (mirrored beyond its border).
class Texture {
 public:
  Texture() = default;
  /// @param picture  [h, w, 3] U8; undefined = invented
  Texture(const FlowSceneSpec& spec, const Array& picture, Random& random);
  Colour at(Point p) const;

 private:
  Colour noise(Point p) const;
  Colour from_picture(Point p) const;

  Array picture_;
  uint64_t seed_ = 0;
  double a_ = 1, b_ = 0, c_ = 0, d_ = 1;  // plane -> texture
  Point origin_;
  Colour low_{}, high_{};
  std::array<double, 4> octaves_{};
};

/// Textured layers under smooth motion, defined at every point, not only at pixels: so the flow is
/// exact. What is drawn depends on the given random numbers (and the pictures) alone.
class FlowScene {
 public:
  /// @throws what reading a picture throws
  FlowScene(const FlowSceneSpec& spec, Random random);

  Colour first(Point p) const { return layers_[top_first(p)].texture.at(p); }
  Colour second(Point q) const;
  /// Where the visible point `p` of the first frame is in the second.
  Point moved(Point p) const { return layers_[top_first(p)].motion.forward(p); }
  /// Whether `p` of the first frame leaves the frame or something else covers it.
  bool occluded(Point p) const;
  /// Both frames, flow and occlusion; every pixel of the flow is valid.
  FlowPair render() const;

 private:
  // An ellipse or a rounded star: inside where r < radius(angle).
  struct Shape {
    Point middle;
    double radius = 0, stretch = 1, turn = 0, wave = 0, phase = 0;
    int64_t lobes = 0;
    bool holds(Point p) const;
  };
  struct Layer {
    Texture texture;
    LayerMotion motion;
    Shape shape;
    bool everywhere = false;  // the background
    Point moved_middle;       // of the shape in the second frame, where nothing of it is farther
    double moved_reach = 0;   // from there than this
    bool may_show(Point q) const;
    bool holds(Point p) const { return everywhere || shape.holds(p); }
  };
  size_t top_first(Point p) const;
  /// The layer seen at `q` of the second frame, and which of its points.
  size_t top_second(Point q, Point& source) const;

  FlowSceneSpec spec_;
  std::vector<Layer> layers_;  // front to back; the last is everywhere
};

}  // namespace perceiver::train
