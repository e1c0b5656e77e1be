#include "train/tasks/image_task.h"

#include <algorithm>
#include <optional>
#include <utility>

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "train/data/bad_samples.h"
#include "train/data/epoch_order.h"
#include "train/data/normalisation.h"
#include "train/fields.h"
#include "train/losses.h"
#include "train/random.h"

namespace perceiver::train {
namespace {

constexpr const char* kTask = "image_classification";
constexpr int64_t kTestBatch = 250;
constexpr int64_t kTestValues = int64_t{1} << 22;  // of a batch's pictures: large ones go in few

// One part of the data, and which of its pictures could not be read.
class Part {
 public:
  Part(std::unique_ptr<Pictures> pictures, int64_t skip_bad)
      : pictures_(std::move(pictures)), bad_(std::make_unique<BadSamples>(skip_bad)) {}

  int64_t count() const { return pictures_->count(); }
  int64_t skipped() const { return bad_->skipped(); }

  // prepare(picture) of picture `index`, or of the next that can be read. Returns the label.
  template <typename Prepare>
  int64_t read(int64_t index, const Prepare& prepare) const {
    const int64_t used = bad_->read(index, count(), [&](int64_t at) {
      const Array picture = pictures_->read(at);
      try {
        prepare(picture);
      } catch (const Error& error) {
        throw Error(ErrorCode::kFormat, cat(pictures_->name(at), ": ", error.what()));
      }
      return at;
    });
    return pictures_->label(used);
  }

 private:
  std::unique_ptr<Pictures> pictures_;
  std::unique_ptr<BadSamples> bad_;
};

PictureSize picture_size(const InputSpec& input) {
  if (input.index_dims.size() != 2) {
    throw Error(ErrorCode::kArgument,
                cat(kTask, " needs an input of height and width; ", printable(input.name), " has ",
                    input.index_dims.size(), " axes"));
  }
  return {input.index_dims[0], input.index_dims[1], input.channels};
}

class ImageTask : public Task {
 public:
  ImageTask(const Recipe& recipe, const ImageRecipe& own, const ModelSpec& model, TaskData data)
      : recipe_(recipe),
        own_(own),
        input_(only_input(model, InputKind::kGrid, kTask)),
        output_(only_output(model, kTask).name),
        size_(picture_size(input_)),
        classes_(class_count(model, kTask)),
        normalisation_(read_normalisation(recipe, input_.channels)),
        preparer_(size_, read_processor(recipe, size_, own.data.on_disk()), own.data.plain_resize),
        test_(open_pictures(own.data, DataPart::kTest, model, classes_), recipe.skip_bad) {
    if (own.data.augment.rand_augment.layers > 0 && size_.channels != 1 && size_.channels != 3) {
      throw Error(ErrorCode::kArgument, cat(kTask, ": rand_augment needs 1 or 3 channels; ",
                                            printable(input_.name), " has ", size_.channels));
    }
    if (own.data.permute_pixels) {
      Random random{recipe.seed, kPermutation};
      permutation_ = random_order(size_.height * size_.width, random);
    }
    if (data == TaskData::kTrainAndTest) {
      train_.emplace(open_pictures(own.data, DataPart::kTrain, model, classes_), recipe.skip_bad);
      order_.emplace(recipe.seed, train_->count());
    }
  }

  Batch training_batch(int64_t index) override {
    const int64_t first = index * recipe_.batch_size;
    return own_.data.mix.any() ? mixed_batch(first) : plain_batch(first);
  }

  at::Tensor loss(const nn::TensorMap& outputs, const Batch& batch,
                  const Shares& shares) const override {
    return softmax_cross_entropy(outputs.at(output_), batch.targets.at(output_),
                                 own_.label_smoothing)
        .mul(shares.at(0));
  }

  int64_t skipped() const override { return test_.skipped() + (train_ ? train_->skipped() : 0); }
  int64_t test_examples() const override { return test_.count(); }

  Metrics evaluate(nn::Model& model, int64_t limit, const ProgressFn& progress) const override {
    const c10::AutoGradMode no_gradients(false);
    const int64_t count = limit > 0 ? std::min(limit, test_.count()) : test_.count();
    const int64_t at_once = std::clamp<int64_t>(kTestValues / values(), 1, kTestBatch);
    double correct = 0;
    double loss_sum = 0;
    for (int64_t begin = 0; begin < count; begin += at_once) {
      const int64_t size = std::min(at_once, count - begin);
      const Batch batch = test_batch(begin, size);
      const at::Tensor logits = model.forward(batch.inputs, batch.request).at(output_);
      correct += count_correct(logits, batch.targets.at(output_));
      loss_sum += softmax_cross_entropy(logits, batch.targets.at(output_)).item<double>() *
                  static_cast<double>(size);
      if (progress) {
        progress({"evaluate", begin + size, count, ""});
      }
    }
    const auto n = static_cast<double>(count);
    return {{"accuracy", correct / n}, {"loss", loss_sum / n}};
  }

 private:
  int64_t values() const { return size_.height * size_.width * size_.channels; }

  at::Tensor empty_pictures(int64_t count) const {
    return at::empty({count, size_.height, size_.width, size_.channels}, at::kFloat);
  }

  Batch plain_batch(int64_t first) const {
    at::Tensor pixels = empty_pictures(recipe_.batch_size);
    at::Tensor labels = at::empty({recipe_.batch_size}, at::kLong);
    float* out = pixels.mutable_data_ptr<float>();
    for (int64_t i = 0; i < recipe_.batch_size; ++i, out += values()) {
      labels.mutable_data_ptr<int64_t>()[i] = read_training(first + i, out);
      finish(out);
    }
    return make_batch(std::move(pixels), std::move(labels));
  }

  // Example e is made of the pictures drawn 2e-th and (2e + 1)-th; its target is what both say.
  Batch mixed_batch(int64_t first) const {
    at::Tensor pixels = empty_pictures(recipe_.batch_size);
    at::Tensor targets = at::zeros({recipe_.batch_size, classes_}, at::kFloat);
    std::vector<float> other(static_cast<size_t>(values()));
    float* out = pixels.mutable_data_ptr<float>();
    float* target = targets.mutable_data_ptr<float>();
    for (int64_t i = 0; i < recipe_.batch_size; ++i, out += values(), target += classes_) {
      const int64_t example = first + i;
      Random random{recipe_.seed, kMix, static_cast<uint64_t>(example)};
      const PictureMix drawn = draw_mix(own_.data.mix, size_, example, random);
      const auto weight = static_cast<float>(drawn.weight);
      target[read_training(2 * example, out)] += weight;
      target[read_training(2 * example + 1, other.data())] += 1 - weight;
      mix(drawn, size_, other.data(), out);
      finish(out);
    }
    return make_batch(std::move(pixels), std::move(targets));
  }

  Batch test_batch(int64_t begin, int64_t count) const {
    at::Tensor pixels = empty_pictures(count);
    at::Tensor labels = at::empty({count}, at::kLong);
    float* out = pixels.mutable_data_ptr<float>();
    for (int64_t i = 0; i < count; ++i, out += values()) {
      labels.mutable_data_ptr<int64_t>()[i] = test_.read(
          begin + i, [&](const Array& picture) { preparer_.for_evaluation(picture, out); });
      finish(out);
    }
    return make_batch(std::move(pixels), std::move(labels));
  }

  // The picture drawn `drawn`-th in the run, changed but not normalised; returns its label.
  int64_t read_training(int64_t drawn, float* out) const {
    return train_->read(order_->at(drawn), [&](const Array& picture) {
      preparer_.for_training(picture, own_.data.augment, recipe_.seed, drawn, out);
    });
  }

  // Normalises and, if asked, moves the pixels.
  void finish(float* out) const {
    normalisation_.apply(out, values());
    if (permutation_.empty()) {
      return;
    }
    const std::vector<float> before(out, out + values());
    for (const int64_t from : permutation_) {
      out = std::copy_n(before.begin() + from * size_.channels, size_.channels, out);
    }
  }

  Batch make_batch(at::Tensor pixels, at::Tensor targets) const {
    Batch batch;
    batch.inputs.arrays.emplace(input_.name, std::move(pixels));
    batch.targets.emplace(output_, std::move(targets));
    return batch;
  }

  const Recipe& recipe_;
  const ImageRecipe& own_;
  InputSpec input_;
  std::string output_;
  PictureSize size_;
  int64_t classes_;
  Normalisation normalisation_;
  PicturePreparer preparer_;
  Part test_;
  std::optional<Part> train_;
  std::optional<EpochOrder> order_;
  std::vector<int64_t> permutation_;  // place i shows pixel permutation_[i]; empty = itself
};

}  // namespace

std::unique_ptr<Task> ImageRecipe::make(const Recipe& recipe, const ModelSpec& model,
                                        TaskData part) const {
  return std::make_unique<ImageTask>(recipe, *this, model, part);
}

std::shared_ptr<const TaskRecipe> read_image_recipe(Fields& fields,
                                                    const std::filesystem::path& folder) {
  auto recipe = std::make_shared<ImageRecipe>();
  recipe->data = read_image_data(fields.object("data"), folder);
  recipe->label_smoothing = fields.number("label_smoothing", 0, 0, 1);
  return recipe;
}

}  // namespace perceiver::train
