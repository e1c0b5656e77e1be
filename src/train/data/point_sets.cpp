#include "train/data/point_sets.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <numeric>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"

namespace perceiver::train {
namespace {

using Vector = std::array<double, 3>;

Vector row(const Array& vertices, int64_t index) {
  const double* at = vertices.data<double>() + 3 * index;
  return {at[0], at[1], at[2]};
}

Vector minus(const Vector& a, const Vector& b) {
  return {a[0] - b[0], a[1] - b[1], a[2] - b[2]};
}

Vector cross(const Vector& a, const Vector& b) {
  return {a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]};
}

double length(const Vector& a) {
  return std::hypot(a[0], a[1], a[2]);
}

struct Triangle {
  Vector corner, first, second;                           // a corner and the two edges from it
  Vector normal() const { return cross(first, second); }  // twice the area long
};

Triangle triangle(const io::Mesh& mesh, int64_t index) {
  const int32_t* corners = mesh.triangles.data<int32_t>() + 3 * index;
  const Vector origin = row(mesh.vertices, corners[0]);
  return {origin, minus(row(mesh.vertices, corners[1]), origin),
          minus(row(mesh.vertices, corners[2]), origin)};
}

// A uniform rotation (Shoemake 1992: a uniform unit quaternion), as a matrix.
std::array<Vector, 3> random_rotation(Random& random) {
  const double u = random.uniform();
  const double a = random.uniform(0, 2 * std::numbers::pi);
  const double b = random.uniform(0, 2 * std::numbers::pi);
  const double x = std::sqrt(1 - u) * std::sin(a);
  const double y = std::sqrt(1 - u) * std::cos(a);
  const double z = std::sqrt(u) * std::sin(b);
  const double w = std::sqrt(u) * std::cos(b);
  return {Vector{1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)},
          Vector{2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)},
          Vector{2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)}};
}

// --- solids of revolution: a profile of (radius, height) turned in so many steps
// ------------------

using Profile = std::vector<std::array<double, 2>>;
constexpr int kRound = 32;  // steps of what is round

// Arc of a circle about (centre, height), from angle `begin` to `end` measured from straight down.
void add_arc(Profile& profile, double centre, double height, double radius, double begin,
             double end) {
  for (int i = 0; i <= kRound / 2; ++i) {
    const double angle = begin + (end - begin) * i / (kRound / 2);
    profile.push_back({centre + radius * std::sin(angle), height - radius * std::cos(angle)});
  }
}

io::Mesh revolve(const Profile& profile, int steps) {
  std::vector<double> vertices;
  for (int step = 0; step < steps; ++step) {
    const double angle = 2 * std::numbers::pi * step / steps;
    for (const auto& [radius, height] : profile) {
      vertices.insert(vertices.end(), {radius * std::cos(angle), radius * std::sin(angle), height});
    }
  }
  const auto ring = static_cast<int32_t>(profile.size());
  std::vector<int32_t> triangles;
  for (int step = 0; step < steps; ++step) {
    const int32_t here = step * ring;
    const int32_t there = (step + 1) % steps * ring;
    for (int32_t i = 0; i + 1 < ring; ++i) {
      triangles.insert(triangles.end(),
                       {here + i, there + i, there + i + 1, here + i, there + i + 1, here + i + 1});
    }
  }
  return {Array::of<double>({static_cast<int64_t>(vertices.size()) / 3, 3}, vertices),
          Array::of<int32_t>({static_cast<int64_t>(triangles.size()) / 3, 3}, triangles)};
}

// In the order of solid_names().
std::vector<io::Mesh> make_solids() {
  constexpr double kPi = std::numbers::pi;
  const Profile cylinder{{0, -1}, {1, -1}, {1, 1}, {0, 1}};
  const Profile cone{{0, -1}, {1, -1}, {0, 1}};
  Profile sphere, torus, capsule;
  add_arc(sphere, 0, 0, 1, 0, kPi);
  add_arc(torus, 0.75, 0, 0.3, 0, 2 * kPi);
  add_arc(capsule, 0, -0.7, 0.5, 0, kPi / 2);
  add_arc(capsule, 0, 0.7, 0.5, kPi / 2, kPi);
  std::vector<io::Mesh> solids;
  solids.push_back(revolve(sphere, kRound));
  solids.push_back(revolve(cylinder, kRound));
  solids.push_back(revolve(cone, kRound));
  solids.push_back(revolve(torus, kRound));
  solids.push_back(revolve(capsule, kRound));
  solids.push_back(revolve(cylinder, 4));
  solids.push_back(revolve(cone, 4));
  solids.push_back(revolve(cylinder, 3));
  return solids;
}

io::Mesh stretched(const io::Mesh& mesh, const Vector& factors) {
  io::Mesh result{mesh.vertices.clone(), mesh.triangles};
  double* values = result.vertices.mutable_data<double>();
  for (int64_t i = 0; i < result.vertices.numel(); ++i) {
    values[i] *= factors[static_cast<size_t>(i % 3)];
  }
  return result;
}

}  // namespace

PointSet sample_surface(const io::Mesh& mesh, int64_t count, bool normals, Random& random,
                        const std::string& where) {
  const int64_t triangles = mesh.triangles.size(0);
  std::vector<double> until(static_cast<size_t>(triangles));  // area of this and all before
  double area = 0;
  for (int64_t i = 0; i < triangles; ++i) {
    area += length(triangle(mesh, i).normal());
    until[static_cast<size_t>(i)] = area;
  }
  if (!(area > 0)) {
    throw Error(ErrorCode::kFormat,
                cat(where, ": a surface of ", triangles, " triangles without any area"));
  }
  PointSet points{normals ? 6 : 3, {}};
  for (int64_t i = 0; i < count; ++i) {
    const auto found = std::upper_bound(until.begin(), until.end(), random.uniform(0, area));
    const auto index = std::min<int64_t>(found - until.begin(), triangles - 1);
    const Triangle chosen = triangle(mesh, index);
    double u = random.uniform();
    double v = random.uniform();
    if (u + v > 1) {  // the other half of the parallelogram, folded back
      u = 1 - u;
      v = 1 - v;
    }
    for (size_t axis = 0; axis < 3; ++axis) {
      points.values.push_back(chosen.corner[axis] + u * chosen.first[axis] +
                              v * chosen.second[axis]);
    }
    if (normals) {
      const Vector normal = chosen.normal();
      const double size = std::max(length(normal), 1e-300);
      for (const double part : normal) {
        points.values.push_back(part / size);
      }
    }
  }
  return points;
}

PointSet choose_points(const Array& points, int64_t count, bool normals, Random& random,
                       const std::string& where) {
  const int64_t columns = points.size(1);
  PointSet chosen{normals ? 6 : 3, {}};
  if (columns < chosen.columns) {
    throw Error(ErrorCode::kFormat, cat(where, ": ", columns, " values a point, the model needs ",
                                        chosen.columns, " (x y z nx ny nz)"));
  }
  const int64_t held = points.size(0);
  std::vector<int64_t> order(static_cast<size_t>(held));
  std::iota(order.begin(), order.end(), 0);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t place = i % held;
    if (place + 1 < held) {  // the next of a random order, made as it is asked for
      std::swap(order[static_cast<size_t>(place)],
                order[static_cast<size_t>(place + random.below(held - place))]);
    }
    const double* from = points.data<double>() + order[static_cast<size_t>(place)] * columns;
    chosen.values.insert(chosen.values.end(), from, from + chosen.columns);
  }
  return chosen;
}

void scale_points(PointSet& points, double amount, Random& random) {
  if (amount == 0) {
    return;
  }
  for (int64_t i = 0; i < points.count(); ++i) {
    for (int64_t axis = 0; axis < 3; ++axis) {
      points.values[static_cast<size_t>(i * points.columns + axis)] *=
          random.uniform(1 - amount, 1 + amount);
    }
  }
}

void normalise_points(PointSet& points) {
  const int64_t count = points.count();
  Vector mean{};
  const auto at = [&](int64_t point, size_t axis) -> double& {
    return points.values[static_cast<size_t>(point * points.columns) + axis];
  };
  for (int64_t i = 0; i < count; ++i) {
    for (size_t axis = 0; axis < 3; ++axis) {
      mean[axis] += at(i, axis) / static_cast<double>(count);
    }
  }
  double largest = 0;
  for (int64_t i = 0; i < count; ++i) {
    for (size_t axis = 0; axis < 3; ++axis) {
      at(i, axis) -= mean[axis];
      largest = std::max(largest, std::fabs(at(i, axis)));
    }
  }
  for (int64_t i = 0; largest > 0 && i < count; ++i) {
    for (size_t axis = 0; axis < 3; ++axis) {
      at(i, axis) /= largest;
    }
  }
}

const std::vector<std::string>& solid_names() {
  static const std::vector<std::string> names{"sphere",  "cylinder", "cone",    "torus",
                                              "capsule", "box",      "pyramid", "prism"};
  return names;
}

PointSet draw_solid(int64_t kind, int64_t count, bool normals, double noise, Random& random) {
  static const std::vector<io::Mesh> solids = make_solids();
  const Vector factors{random.uniform(0.7, 1.3), random.uniform(0.7, 1.3),
                       random.uniform(0.7, 1.3)};
  const std::array<Vector, 3> rotation = random_rotation(random);
  const io::Mesh mesh = stretched(solids.at(static_cast<size_t>(kind)), factors);
  PointSet points = sample_surface(mesh, count, normals, random, "solid");
  for (size_t begin = 0; begin < points.values.size(); begin += 3) {  // places and normals alike
    double* at = points.values.data() + begin;
    const Vector old{at[0], at[1], at[2]};
    for (size_t axis = 0; axis < 3; ++axis) {
      at[axis] = std::inner_product(old.begin(), old.end(), rotation[axis].begin(), 0.0);
    }
  }
  for (int64_t i = 0; noise > 0 && i < points.count(); ++i) {
    for (int64_t axis = 0; axis < 3; ++axis) {
      points.values[static_cast<size_t>(i * points.columns + axis)] +=
          random.uniform(-noise, noise);
    }
  }
  return points;
}

}  // namespace perceiver::train
