#include "train/tasks/flow_task.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>

#include <ATen/ops/empty.h>
#include <c10/core/GradMode.h>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/spec/model_shape.h"
#include "perceiver/tasks/flow.h"
#include "perceiver/tokens/flow_tiles.h"
#include "train/data/bad_samples.h"
#include "train/data/epoch_order.h"
#include "train/random.h"
#include "train/tasks/flow_errors.h"

namespace perceiver::train {
namespace {

using tokens::Tile;
using tokens::TileSize;

constexpr const char* kTask = "optical_flow";
// Pixels that are measured at once: enough to keep small models busy, one tile of the released one.
constexpr int64_t kTestPixels = int64_t{1} << 16;

bool makes_grid(HeadKind head) {
  return head == HeadKind::kDepthToSpace || head == HeadKind::kConvUpsample ||
         head == HeadKind::kConvexUpsample;
}

// Extents of the output grid and its channels.
std::vector<int64_t> flow_shape(const ModelSpec& model) {
  const OutputSpec& output = model.outputs[0];
  std::vector<int64_t> shape = resolve(model).inputs[0].index_dims;
  for (size_t axis = 0; makes_grid(output.head) && axis < shape.size(); ++axis) {
    shape[axis] *= output.head_factors[axis];
  }
  shape.push_back(output_width(model, output));
  return shape;
}

// @return size of the frames it reads. @throws Error(kArgument)
TileSize check_model(const ModelSpec& model) {
  if (!tasks::is_flow_model(model)) {
    throw Error(ErrorCode::kArgument,
                cat(kTask,
                    " needs a model with one grid input [2, H, W] of 27 channels and one "
                    "output whose queries are its tokens (input_tokens); ",
                    printable(model.name), " is another"));
  }
  const std::vector<int64_t>& dims = model.inputs[0].index_dims;
  const std::vector<int64_t> wanted{dims[1], dims[2], 2};
  if (flow_shape(model) != wanted) {
    throw Error(ErrorCode::kArgument, cat(kTask, ": output ", printable(model.outputs[0].name),
                                          " is ", shape_string(flow_shape(model)),
                                          ", the flow of the frames is ", shape_string(wanted)));
  }
  return {dims[1], dims[2]};
}

// `count` different ones of `all` pixels, in order (selection sampling, Knuth 3.4.2 S).
std::vector<int64_t> draw_points(int64_t count, int64_t all, Random& random) {
  std::vector<int64_t> points;
  points.reserve(static_cast<size_t>(count));
  for (int64_t i = 0; i < all && count > 0; ++i) {
    if (random.below(all - i) < count) {
      points.push_back(i);
      --count;
    }
  }
  return points;
}

// Tiles of the model's size in one tensor.
class TileBatch {
 public:
  TileBatch(int64_t count, const TileSize& size)
      : values_(at::empty({count, 2, size.height, size.width, 27}, at::kFloat)) {}

  void put(int64_t i, const Array& patches) {
    std::memcpy(values_.mutable_data_ptr<float>() + i * patches.numel(), patches.data<float>(),
                static_cast<size_t>(patches.nbytes()));
  }
  const at::Tensor& values() const { return values_; }

 private:
  at::Tensor values_;
};

// A pair whose tiles are being estimated.
struct Measured {
  size_t source = 0;
  FlowPair pair;
  Array first, second;  // normalised and large enough
  std::vector<Tile> tiles;
  tokens::FlowBlender blender;
};

class FlowTask : public Task {
 public:
  FlowTask(const Recipe& recipe, const FlowRecipe& own, const ModelSpec& model, TaskData part)
      : recipe_(recipe), own_(own), size_(check_model(model)), bad_(recipe.skip_bad) {
    input_ = model.inputs[0].name;
    output_ = model.outputs[0].name;
    if (own.points > size_.height * size_.width) {
      throw Error(ErrorCode::kArgument,
                  cat(printable(recipe.path.string()), ": points is ", own.points,
                      ", the model has ", size_.height * size_.width, " output pixels"));
    }
    if (own.points > 0 && makes_grid(model.outputs[0].head)) {
      throw Error(ErrorCode::kArgument, cat(printable(recipe.path.string()), ": points is ",
                                            own.points, ", but the head of output ",
                                            printable(output_), " needs all; leave points out"));
    }
    test_.emplace(own.test, recipe.seed, kFlowTestScene, size_);
    if (part == TaskData::kTrainAndTest) {
      train_.emplace(own.train, recipe.seed, kFlowScene, size_);
      order_.emplace(recipe.seed, train_->count());
    }
  }

  Batch training_batch(int64_t index) override {
    const FlowPhase& phase = phase_of(index / recipe_.accumulate);
    std::vector<int64_t> points;
    if (own_.points > 0) {
      Random random{recipe_.seed, kFlowPoints, static_cast<uint64_t>(index)};
      points = draw_points(own_.points, size_.height * size_.width, random);
    }
    std::vector<FlowPair> examples;
    for (int64_t i = 0; i < recipe_.batch_size; ++i) {
      examples.push_back(example(phase, index * recipe_.batch_size + i));
    }
    return make_batch(examples, points);
  }

  // The mean runs over the pixels that count.
  Counts counts(const Batch& batch) const override { return {batch.mask.sum().item<double>()}; }

  at::Tensor loss(const nn::TensorMap& outputs, const Batch& batch,
                  const Shares& shares) const override {
    const at::Tensor& truth = batch.targets.at(output_);
    const at::Tensor estimate =
        outputs.at(output_).reshape(truth.sizes()).mul(double{tokens::kFlowScaleFactor});
    return flow_loss(own_.loss, estimate, truth, batch.mask).mul(shares.at(0));
  }

  int64_t skipped() const override { return bad_.skipped(); }
  int64_t test_examples() const override { return test_->count(); }

  Metrics evaluate(nn::Model& model, int64_t limit, const ProgressFn& progress) const override {
    const c10::AutoGradMode no_gradients(false);
    const int64_t count = limit > 0 ? std::min(limit, test_->count()) : test_->count();
    const size_t at_once =
        static_cast<size_t>(std::max<int64_t>(1, kTestPixels / (size_.height * size_.width)));
    std::vector<FlowErrors> errors(own_.test.size() + 1);  // of all, then of each source
    for (int64_t done = 0; done < count;) {
      std::vector<Measured> group;
      size_t tiles = 0;
      while (done < count && tiles < at_once) {
        group.push_back(start(done++));
        tiles += group.back().tiles.size();
      }
      estimate(model, at_once, group);
      for (const Measured& one : group) {
        const Array flow = in_pixels(one.blender.finish());
        errors[0].add(flow, one.pair);
        errors[1 + one.source].add(flow, one.pair);
      }
      if (progress) {
        progress({"evaluate", done, count, ""});
      }
    }
    return metrics_of(errors);
  }

 private:
  const FlowPhase& phase_of(int64_t step) const {
    const auto found = std::find_if(own_.phases.begin(), own_.phases.end() - 1,
                                    [&](const FlowPhase& phase) { return step < phase.until; });
    return *found;
  }

  FlowPair example(const FlowPhase& phase, int64_t drawn) {
    const int64_t chosen = order_->at(phase.reversed ? drawn / 2 : drawn);
    FlowPair pair = bad_.read(chosen, train_->count(), [&](int64_t i) { return train_->read(i); });
    if (phase.reversed && drawn % 2 == 1) {
      pair = reversed(pair);
    }
    Random random{recipe_.seed, kFlowAugment, static_cast<uint64_t>(drawn)};
    return augment_flow(pair, phase.augment, own_.crop, size_, random);
  }

  bool counts_at(const FlowPair& pair, int64_t i) const {
    const float* uv = pair.flow.uv.data<float>() + 2 * i;
    return pair.flow.valid.data<bool>()[i] &&
           static_cast<double>(std::hypot(uv[0], uv[1])) < own_.loss.max_flow &&
           (own_.loss.occluded || !pair.occluded.defined() || !pair.occluded.data<bool>()[i]);
  }

  // @param points  empty = all
  Batch make_batch(const std::vector<FlowPair>& examples,
                   const std::vector<int64_t>& points) const {
    const auto count = static_cast<int64_t>(examples.size());
    const int64_t rows =
        points.empty() ? size_.height * size_.width : static_cast<int64_t>(points.size());
    TileBatch inputs(count, size_);
    at::Tensor truth = at::empty({count, rows, 2}, at::kFloat);
    at::Tensor mask = at::empty({count, rows}, at::kBool);
    float* uv = truth.mutable_data_ptr<float>();
    bool* counted = mask.mutable_data_ptr<bool>();
    for (int64_t b = 0; b < count; ++b) {
      const FlowPair& pair = examples[static_cast<size_t>(b)];
      inputs.put(b, tokens::flow_tile_patches(tokens::normalize_frame(pair.first),
                                              tokens::normalize_frame(pair.second), {}, size_));
      for (int64_t row = 0; row < rows; ++row) {
        const int64_t pixel = points.empty() ? row : points[static_cast<size_t>(row)];
        *uv++ = pair.flow.uv.data<float>()[2 * pixel];
        *uv++ = pair.flow.uv.data<float>()[2 * pixel + 1];
        *counted++ = counts_at(pair, pixel);
      }
    }
    Batch batch;
    batch.inputs.arrays.emplace(input_, inputs.values());
    if (!points.empty()) {
      batch.request.points.emplace(output_, points);
    }
    batch.targets.emplace(output_, std::move(truth));
    batch.mask = std::move(mask);
    return batch;
  }

  Metrics metrics_of(const std::vector<FlowErrors>& errors) const {
    Metrics metrics = errors[0].metrics();
    for (size_t i = 0; own_.test.size() > 1 && i < own_.test.size(); ++i) {
      const Metrics own = errors[1 + i].metrics();
      if (!own.empty()) {
        metrics.emplace_back(cat(own_.test[i].name, "_", own[0].first), own[0].second);
      }
    }
    return metrics;
  }

  Measured start(int64_t index) const {
    FlowPair pair = test_->read(index);
    Array first = tokens::pad_to_tile(tokens::normalize_frame(pair.first), size_);
    Array second = tokens::pad_to_tile(tokens::normalize_frame(pair.second), size_);
    const int64_t height = pair.height(), width = pair.width();
    return {test_->source_of(index),
            std::move(pair),
            std::move(first),
            std::move(second),
            tokens::flow_tiles(height, width, size_, tokens::flow_overlap(size_)),
            tokens::FlowBlender(height, width, size_)};
  }

  void estimate(nn::Model& model, size_t at_once, std::vector<Measured>& group) const {
    std::vector<std::pair<Measured*, Tile>> jobs;
    for (Measured& one : group) {
      for (const Tile& tile : one.tiles) {
        jobs.emplace_back(&one, tile);
      }
    }
    for (size_t begin = 0; begin < jobs.size(); begin += at_once) {
      const size_t end = std::min(begin + at_once, jobs.size());
      TileBatch batch(static_cast<int64_t>(end - begin), size_);
      for (size_t i = begin; i < end; ++i) {
        const auto& [one, tile] = jobs[i];
        batch.put(static_cast<int64_t>(i - begin),
                  tokens::flow_tile_patches(one->first, one->second, tile, size_));
      }
      nn::TensorInputs inputs;
      inputs.arrays.emplace(input_, batch.values());
      const at::Tensor flow = model.forward(inputs).at(output_).contiguous();
      const int64_t values = size_.height * size_.width * 2;
      for (size_t i = begin; i < end; ++i) {
        Array tile = Array::zeros(DType::kF32, {size_.height, size_.width, 2});
        std::memcpy(tile.mutable_bytes(),
                    flow.const_data_ptr<float>() + static_cast<int64_t>(i - begin) * values,
                    static_cast<size_t>(tile.nbytes()));
        jobs[i].first->blender.add(jobs[i].second, tile);
      }
    }
  }

  static Array in_pixels(Array flow) {
    float* values = flow.mutable_data<float>();
    for (int64_t i = 0; i < flow.numel(); ++i) {
      values[i] *= tokens::kFlowScaleFactor;
    }
    return flow;
  }

  const Recipe& recipe_;
  const FlowRecipe& own_;
  TileSize size_;
  std::string input_, output_;
  BadSamples bad_;
  std::optional<FlowSet> train_, test_;
  std::optional<EpochOrder> order_;
};

}  // namespace

std::unique_ptr<Task> FlowRecipe::make(const Recipe& recipe, const ModelSpec& model,
                                       TaskData part) const {
  return std::make_unique<FlowTask>(recipe, *this, model, part);
}

}  // namespace perceiver::train
