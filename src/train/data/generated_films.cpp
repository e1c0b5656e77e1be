#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include "train/data/films.h"
#include "train/random.h"

namespace perceiver::train {
namespace {

using Colour = std::array<double, 3>;

// What moves and sounds for one class.
struct Actor {
  int64_t shape = 0;
  double x = 0, y = 0;            // centre at the first frame, 0..1
  double step_x = 0, step_y = 0;  // per frame
  double radius = 0;              // of the picture's side
  Colour colour{};                // 0..1
  double hertz = 0, phase = 0, loudness = 0;
};

constexpr int64_t kShapes = 5;

// Whether (x, y) in units of the radius, y down, lies in a shape.
bool inside(int64_t shape, double x, double y) {
  const double distance = x * x + y * y;
  switch (shape) {
    case 0:  // disc
      return distance < 1;
    case 1:  // square
      return std::max(std::abs(x), std::abs(y)) < 0.85;
    case 2:  // triangle
      return y < 0.8 && y > -1 && std::abs(x) < (y + 1) * 0.55;
    case 3:  // cross
      return std::min(std::abs(x), std::abs(y)) < 0.3 && std::max(std::abs(x), std::abs(y)) < 1;
    default:  // ring
      return distance < 1 && distance > 0.4;
  }
}

// 0..1 and back: how a ball moves between two walls.
double bounced(double place) {
  const double folded = std::fmod(std::abs(place), 2.0);
  return folded > 1 ? 2 - folded : folded;
}

// The ground behind the shapes: one colour that changes evenly across the picture.
struct Ground {
  Colour middle{}, rightwards{}, downwards{};  // 0..1; change over the whole width and height

  Colour at(double x, double y) const {
    Colour colour{};
    for (size_t c = 0; c < 3; ++c) {
      colour[c] = middle[c] + rightwards[c] * (x - 0.5) + downwards[c] * (y - 0.5);
    }
    return colour;
  }
};

Ground draw_ground(Random& random) {
  Ground ground;
  for (size_t c = 0; c < 3; ++c) {
    ground.middle[c] = random.uniform(0.1, 0.4);
    ground.rightwards[c] = random.uniform(-0.4, 0.4);
    ground.downwards[c] = random.uniform(-0.4, 0.4);
  }
  return ground;
}

Colour bright_colour(Random& random) {
  const double hue = random.uniform(0, 6);
  Colour colour{};
  for (size_t c = 0; c < 3; ++c) {
    const double distance = std::abs(std::fmod(hue - 2 * static_cast<double>(c) + 9, 6.0) - 3);
    colour[c] = std::clamp(distance - 0.5, 0.1, 1.0);
  }
  return colour;
}

Actor draw_actor(int64_t k, double hertz, Random& random) {
  Actor actor;
  actor.shape = k % kShapes;
  actor.radius = random.uniform(0.2, 0.32);
  actor.x = random.uniform();
  actor.y = random.uniform();
  actor.step_x = random.uniform(-0.06, 0.06);
  actor.step_y = random.uniform(-0.06, 0.06);
  actor.colour = bright_colour(random);
  actor.hertz = hertz * random.uniform(0.99, 1.01);
  actor.phase = random.uniform(0, 2 * std::numbers::pi);
  actor.loudness = random.uniform(0.3, 0.5);
  return actor;
}

uint8_t level(double value) {
  return static_cast<uint8_t>(std::lround(std::clamp(value, 0.0, 1.0) * 255));
}

void paint_frame(const std::vector<Actor>& actors, const Ground& ground, int64_t frame,
                 int64_t side, double noise, Random& random, uint8_t* out) {
  const auto size = static_cast<double>(side);
  for (int64_t row = 0; row < side; ++row) {
    for (int64_t column = 0; column < side; ++column, out += 3) {
      const double across = (static_cast<double>(column) + 0.5) / size;
      const double down = (static_cast<double>(row) + 0.5) / size;
      Colour colour = ground.at(across, down);
      for (const Actor& actor : actors) {
        const double travel = 1 - 2 * actor.radius;  // shapes stay inside
        const double x =
            actor.radius + travel * bounced(actor.x + actor.step_x * static_cast<double>(frame));
        const double y =
            actor.radius + travel * bounced(actor.y + actor.step_y * static_cast<double>(frame));
        if (inside(actor.shape, (across - x) / actor.radius, (down - y) / actor.radius)) {
          colour = actor.colour;
        }
      }
      for (size_t c = 0; c < 3; ++c) {
        out[c] = level(colour[c] + noise * random.uniform(-1, 1));
      }
    }
  }
}

void play(const std::vector<Actor>& actors, const tasks::ClipShape& shape, double noise,
          Random& random, float* out) {
  const double share = 1 / std::sqrt(std::max(1.0, static_cast<double>(actors.size())));
  for (int64_t t = 0; t < shape.samples; ++t) {
    const double seconds = static_cast<double>(t) / shape.sample_rate;
    double value = noise * random.uniform(-1, 1);
    for (const Actor& actor : actors) {
      value += share * actor.loudness *
               std::sin(2 * std::numbers::pi * actor.hertz * seconds + actor.phase);
    }
    out[t] = static_cast<float>(std::clamp(value, -1.0, 1.0));
  }
}

}  // namespace

double GeneratedFilms::pitch(int64_t k, int64_t num_classes, int sample_rate) {
  const double place =
      num_classes > 1 ? static_cast<double>(k) / static_cast<double>(num_classes - 1) : 0;
  return sample_rate / 160.0 * std::pow(4.0, place);
}

std::vector<int64_t> GeneratedFilms::classes(int64_t film) const {
  const auto number = static_cast<uint64_t>(options_.first + film);
  Random random{options_.seed, kGeneratedFilm, 0, number};
  if (options_.kind == LabelKind::kSingle) {
    return {random.below(options_.num_classes)};
  }
  std::vector<int64_t> present;
  for (int64_t k = 0; k < options_.num_classes; ++k) {
    if (random.uniform() < spec_.presence) {
      present.push_back(k);
    }
  }
  return present;
}

std::shared_ptr<const FilmClip> GeneratedFilms::read(int64_t film, int64_t /*clip*/) {
  const tasks::ClipShape& shape = options_.shape;
  Random random{options_.seed, kGeneratedFilm, 1, static_cast<uint64_t>(options_.first + film)};
  std::vector<Actor> actors;
  for (const int64_t k : classes(film)) {
    actors.push_back(draw_actor(k, pitch(k, options_.num_classes, shape.sample_rate), random));
  }
  const Ground ground = draw_ground(random);
  auto clip = std::make_shared<FilmClip>();
  if (shape.frames > 0) {
    clip->frames = Array::zeros(DType::kU8, {shape.frames, shape.size, shape.size, 3});
    uint8_t* out = clip->frames.mutable_data<uint8_t>();
    for (int64_t t = 0; t < shape.frames; ++t) {
      paint_frame(actors, ground, t, shape.size, spec_.noise, random,
                  out + t * shape.size * shape.size * 3);
    }
  }
  if (shape.samples > 0) {
    clip->audio = Array::zeros(DType::kF32, {shape.samples, 1});
    play(actors, shape, spec_.noise, random, clip->audio.mutable_data<float>());
  }
  return clip;
}

}  // namespace perceiver::train
