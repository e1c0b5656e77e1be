#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "perceiver/base/array.h"
#include "perceiver/kernels/attend.h"
#include "perceiver/kernels/dispatch.h"
#include "perceiver/kernels/strassen.h"
#include "perceiver/runtime/engine.h"
#include "perceiver/spec/model_spec.h"
#include "perceiver/spec/parameters.h"

// One hot path per name, once to fill what is kept between calls and once inside gate_measured(),
// on one thread with fixed values. instructions_test.py counts that one under callgrind.

using namespace perceiver;

namespace {

std::vector<float> values(int64_t count, uint32_t seed) {
  std::vector<float> out(static_cast<size_t>(count));
  uint32_t state = seed;
  for (float& value : out) {
    state = state * 1664525U + 1013904223U;
    value = static_cast<float>(state >> 8) * 0x1p-23F - 1.0F;  // [-1, 1)
  }
  return out;
}

class HotPath {
 public:
  virtual ~HotPath() = default;
  virtual void run() = 0;
};

kernels::Rows<const float> rows(const std::vector<float>& data, int64_t heads, int64_t count,
                                int64_t width) {
  return {data.data(), heads * count * width, count * width, width};
}

/// Attention with one batch; `side` says which side lies on a 64 x 64 grid.
class Attend : public HotPath {
 public:
  Attend(kernels::AttendShape shape, kernels::GridSide side) {
    const int64_t h = shape.heads;
    q_ = values(h * shape.queries * shape.qk_dim, 1);
    k_ = values(h * shape.keys * shape.qk_dim, 2);
    v_ = values(h * shape.keys * shape.v_dim, 3);
    out_.resize(static_cast<size_t>(h * shape.queries * shape.v_dim));
    lse_.resize(static_cast<size_t>(h * shape.queries));
    args_.shape = shape;
    args_.q = rows(q_, h, shape.queries, shape.qk_dim);
    args_.k = rows(k_, h, shape.keys, shape.qk_dim);
    args_.v = rows(v_, h, shape.keys, shape.v_dim);
    args_.scale = 0.125F;
    args_.out = {out_.data(), 0, shape.queries * shape.v_dim, shape.v_dim};
    args_.lse = lse_.data();
    if (side != kernels::GridSide::kNone) {
      place_on_grid(side);
    }
  }
  void run() override { kernels::attend(args_, 1); }

 private:
  static constexpr int64_t kExtent = 64;

  void place_on_grid(kernels::GridSide side) {
    const bool keys = side == kernels::GridSide::kKeys;
    scale_ = values(kExtent * kExtent, 4);
    args_.grid.side = side;
    args_.grid.num_axes = 2;
    args_.grid.scale = scale_.data();
    for (int axis = 0; axis < 2; ++axis) {
      const int64_t count = keys ? args_.shape.queries : kExtent;
      const int64_t width = keys ? kExtent : args_.shape.keys;
      tables_[axis] = values(count * width, 5 + static_cast<uint32_t>(axis));
      args_.grid.extents[axis] = kExtent;
      args_.grid.tables[axis] = rows(tables_[axis], 1, count, width);
      if (keys) {
        sums_[axis].resize(static_cast<size_t>(count * width));
        args_.sums[axis] = {sums_[axis].data(), 0, 0, width};
      }
    }
  }

  std::vector<float> q_, k_, v_, out_, lse_, scale_, tables_[2], sums_[2];
  kernels::AttendForward<float> args_;
};

/// 128 rows of 256 channels to 256 by seven products.
class SevenProducts : public HotPath {
 public:
  SevenProducts() {
    const std::vector<float> weight = values(kWidth * kWidth, 1);
    // cache lines begin at a multiple of 16 floats
    packed_.resize(static_cast<size_t>(kernels::strassen_floats(kWidth, kWidth)) + 15);
    void* first = packed_.data();
    size_t room = packed_.size() * sizeof(float);
    std::align(64, room - 60, first, room);
    weight_ = kernels::strassen_pack(kWidth, kWidth, {weight.data(), 1, kWidth}, nullptr,
                                     static_cast<float*>(first));
    product_.rows = kRows;
    product_.x_stride = product_.y_stride = kWidth;
    for (int half = 0; half < 2; ++half) {
      product_.x[half] = x_.data() + half * kWidth / 2;
      product_.y[half] = y_.data() + half * kWidth / 2;
    }
    product_.threads = 1;
  }
  void run() override { kernels::strassen_multiply(weight_, product_); }

 private:
  static constexpr int64_t kRows = 128, kWidth = 256;

  std::vector<float> packed_, x_ = values(kRows * kWidth, 2), y_ = values(kRows * kWidth, 3);
  kernels::StrassenWeight weight_;
  kernels::StrassenProduct product_;
};

/// A picture of 32 x 32 through 64 latents to 10 classes.
class Forward : public HotPath {
 public:
  Forward() {
    ModelSpec spec;
    InputSpec input;
    input.name = "picture";
    input.index_dims = {32, 32};
    input.channels = 3;
    input.position = {.kind = PositionKind::kFourier, .num_bands = 16, .max_resolution = {32, 32}};
    spec.inputs = {input};
    spec.encoder.num_latents = 64;
    spec.encoder.latent_channels = 128;
    spec.encoder.self_attend.num_heads = 4;
    spec.encoder.num_blocks = 2;
    spec.encoder.num_self_attends_per_block = 2;
    spec.decoder.output_channels = 10;
    OutputSpec output;
    output.name = "class";
    output.index_dims = {1};
    output.channels = 64;
    output.single_row = true;
    spec.outputs = {output};
    weights_ = random_parameters(spec, InitScheme::kDeepMind, 1);
    engine_ = runtime::make_engine(spec, weights_, {.num_threads = 1});
    Array picture = Array::zeros(DType::kF32, {1, 32, 32, 3});
    const std::vector<float> pixels = values(picture.numel(), 7);
    std::memcpy(picture.mutable_bytes(), pixels.data(), pixels.size() * sizeof(float));
    inputs_.arrays["picture"] = picture;
  }
  void run() override { engine_->forward(inputs_); }

 private:
  ArrayMap weights_;
  std::unique_ptr<Engine> engine_;
  ModelInputs inputs_;
};

std::unique_ptr<HotPath> make(const std::string& name) {
  using kernels::GridSide;
  if (name == "encode_factored") {
    return std::make_unique<Attend>(
        kernels::AttendShape{.queries = 64, .keys = 4096, .qk_dim = 64, .v_dim = 64},
        GridSide::kKeys);
  }
  if (name == "decode_factored") {
    return std::make_unique<Attend>(
        kernels::AttendShape{.queries = 4096, .keys = 64, .qk_dim = 32, .v_dim = 64},
        GridSide::kQueries);
  }
  if (name == "self_attention") {
    return std::make_unique<Attend>(
        kernels::AttendShape{.heads = 4, .queries = 256, .keys = 256, .qk_dim = 32, .v_dim = 160},
        GridSide::kNone);
  }
  if (name == "seven_products") {
    return std::make_unique<SevenProducts>();
  }
  return name == "engine_forward" ? std::make_unique<Forward>() : nullptr;
}

}  // namespace

// A plain name for callgrind's --toggle-collect.
extern "C" __attribute__((noinline)) void gate_measured(HotPath* path) {
  path->run();
}

int main(int argc, char** argv) {
  const std::unique_ptr<HotPath> path = argc == 2 ? make(argv[1]) : nullptr;
  if (path == nullptr) {
    std::fprintf(stderr,
                 "usage: gate_hot_paths encode_factored|decode_factored|self_attention|"
                 "seven_products|engine_forward\n");
    return 2;
  }
  path->run();
  gate_measured(path.get());
  std::printf("%s\n", kernels::active_kernels());
  return 0;
}
