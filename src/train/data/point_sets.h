#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "perceiver/io/point_cloud.h"
#include "train/random.h"

namespace perceiver::train {

/// Points of one object, row by row: x, y, z and, where `columns` is 6, the surface's unit normal.
struct PointSet {
  int64_t columns = 3;
  std::vector<double> values;  ///< [n, columns]

  int64_t count() const { return static_cast<int64_t>(values.size()) / columns; }
};

/// Draws `count` points of a surface, evenly by area.
/// @throws Error(kFormat) with `where` when the surface has no area
PointSet sample_surface(const io::Mesh& mesh, int64_t count, bool normals, Random& random,
                        const std::string& where);

/// Draws `count` of the points [n, 3 or more], none twice while there are enough; with fewer, each
/// is taken equally often. Columns behind the third are normals.
/// @throws Error(kFormat) with `where` when normals are wanted and there are fewer than 6 columns
PointSet choose_points(const Array& points, int64_t count, bool normals, Random& random,
                       const std::string& where);

/// Multiplies every coordinate of every point by a number of its own in [1 - amount, 1 + amount]
/// (arXiv 2103.03206, sec. 4.3). Nothing is drawn when `amount` is 0.
void scale_points(PointSet& points, double amount, Random& random);

/// Moves the mean to 0 and scales so that the largest absolute coordinate is 1: the cube [-1, 1]
/// that Fourier positions expect. A set of equal points becomes zeros.
void normalise_points(PointSet& points);

/// Parametric solids for data sets that need no files, by class: sphere, cylinder, cone, torus,
/// capsule, box, pyramid, prism.
const std::vector<std::string>& solid_names();

/// Points on solid `kind` after a random stretch of each axis by 0.7 to 1.3 and a random turn, each
/// displaced by up to `noise` along every axis (the solid's radius is about 1).
PointSet draw_solid(int64_t kind, int64_t count, bool normals, double noise, Random& random);

}  // namespace perceiver::train
