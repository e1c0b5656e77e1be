#include "train/tasks/image_task.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <optional>

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <c10/core/GradMode.h>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "train/data/augment.h"
#include "train/data/epoch_order.h"
#include "train/data/idx.h"
#include "train/fields.h"
#include "train/losses.h"
#include "train/random.h"

namespace perceiver::train {
namespace {

constexpr const char* kTask = "image_classification";
constexpr int64_t kTestBatch = 250;

// value * scale + offset takes a byte to what the model reads.
struct Normalisation {
  std::vector<float> scale, offset;
};

std::vector<double> numbers(const Json& json, const std::string& where, int64_t channels) {
  const bool fits =
      json.is_array() && std::cmp_equal(json.size(), channels) &&
      std::all_of(json.begin(), json.end(), [](const Json& v) { return v.is_number(); });
  if (!fits) {
    throw Error(ErrorCode::kFormat, cat(where, " must be a list of ", channels,
                                        " number(s), one per "
                                        "channel of the model's input"));
  }
  return json.get<std::vector<double>>();
}

// The same numbers the image processor uses when the model is run on a file.
Normalisation read_normalisation(const Recipe& recipe, int64_t channels) {
  const std::string where = cat(printable(recipe.path.string()), ": preprocessor");
  if (!recipe.preprocessor) {
    throw Error(ErrorCode::kFormat, cat(where, " is missing: it says how pictures are normalised"));
  }
  Fields fields(*recipe.preprocessor, where);
  const double rescale =
      fields.number("rescale_factor", 1.0 / 255, 0, std::numeric_limits<double>::max());
  const auto mean = numbers(fields.at("image_mean"), fields.where("image_mean"), channels);
  const auto deviation = numbers(fields.at("image_std"), fields.where("image_std"), channels);
  Normalisation result;
  for (size_t i = 0; i < mean.size(); ++i) {
    if (deviation[i] == 0) {
      throw Error(ErrorCode::kArgument, cat(fields.where("image_std"), " holds 0"));
    }
    result.scale.push_back(static_cast<float>(rescale / deviation[i]));
    result.offset.push_back(static_cast<float>(-mean[i] / deviation[i]));
  }
  return result;
}

struct LabelledImages {
  Array images;  // U8 [n, H, W, c]
  Array labels;  // U8 [n]
  int64_t count() const { return labels.defined() ? labels.size(0) : 0; }
};

void check_labels(const Array& labels, int64_t classes, const std::filesystem::path& path) {
  const uint8_t* values = labels.data<uint8_t>();
  for (int64_t i = 0; i < labels.numel(); ++i) {
    if (values[i] >= classes) {
      throw Error(ErrorCode::kArgument,
                  cat(printable(path.string()), ": label ", i, " is ", static_cast<int>(values[i]),
                      ", the model has ", classes, " classes"));
    }
  }
}

LabelledImages read_images(const std::filesystem::path& images, const std::filesystem::path& labels,
                           const InputSpec& input, int64_t classes) {
  LabelledImages data;
  Array pixels = read_idx(images);
  if (pixels.dim() == 3) {
    pixels = pixels.reshape({pixels.size(0), pixels.size(1), pixels.size(2), 1});
  }
  std::vector<int64_t> wanted = input.index_dims;
  wanted.push_back(input.channels);
  if (pixels.dim() != 4 || !std::equal(wanted.begin(), wanted.end(), pixels.shape().begin() + 1)) {
    throw Error(
        ErrorCode::kArgument,
        cat(printable(images.string()), " holds ", shape_string(pixels.shape()),
            ", the model's input ", printable(input.name), " needs [n] of ", shape_string(wanted)));
  }
  data.images = std::move(pixels);
  data.labels = read_idx(labels);
  if (data.labels.dim() != 1 || data.labels.size(0) != data.images.size(0) || data.count() == 0) {
    throw Error(ErrorCode::kFormat,
                cat(printable(labels.string()), " holds ", shape_string(data.labels.shape()),
                    " labels for ", data.images.size(0), " pictures"));
  }
  check_labels(data.labels, classes, labels);
  return data;
}

class ImageTask : public Task {
 public:
  ImageTask(const Recipe& recipe, const ImageRecipe& own, const ModelSpec& model, TaskData data)
      : recipe_(recipe),
        own_(own),
        input_(only_input(model, InputKind::kGrid, kTask)),
        output_(only_output(model, kTask).name) {
    if (input_.index_dims.size() != 2) {
      throw Error(ErrorCode::kArgument,
                  cat(kTask, " needs an input of height and width; ", printable(input_.name),
                      " has ", input_.index_dims.size(), " axes"));
    }
    const int64_t classes = class_count(model, kTask);
    size_ = {input_.index_dims[0], input_.index_dims[1], input_.channels};
    normalisation_ = read_normalisation(recipe, input_.channels);
    const ImageDataSpec& files = own.data;
    test_ = read_images(files.test_images, files.test_labels, input_, classes);
    if (data == TaskData::kTrainAndTest) {
      train_ = read_images(files.train_images, files.train_labels, input_, classes);
      order_.emplace(recipe.seed, train_.count());
    }
  }

  Batch training_batch(int64_t index) override {
    std::vector<int64_t> chosen;
    for (int64_t i = 0; i < recipe_.batch_size; ++i) {
      chosen.push_back(order_->at(index * recipe_.batch_size + i));
    }
    return make_batch(train_, chosen, index * recipe_.batch_size, own_.data.augment);
  }

  at::Tensor loss(const nn::TensorMap& outputs, const Batch& batch,
                  const Shares& shares) const override {
    return softmax_cross_entropy(outputs.at(output_), batch.targets.at(output_),
                                 own_.label_smoothing)
        .mul(shares.at(0));
  }

  int64_t test_examples() const override { return test_.count(); }

  Metrics evaluate(nn::Model& model, int64_t limit, const ProgressFn& progress) const override {
    const c10::AutoGradMode no_gradients(false);
    const int64_t count = limit > 0 ? std::min(limit, test_.count()) : test_.count();
    double correct = 0;
    double loss_sum = 0;
    for (int64_t begin = 0; begin < count; begin += kTestBatch) {
      std::vector<int64_t> chosen(static_cast<size_t>(std::min(kTestBatch, count - begin)));
      std::iota(chosen.begin(), chosen.end(), begin);
      const Batch batch = make_batch(test_, chosen, 0, AugmentSpec{});
      const at::Tensor logits = model.forward(batch.inputs, batch.request).at(output_);
      correct += count_correct(logits, batch.targets.at(output_));
      loss_sum += softmax_cross_entropy(logits, batch.targets.at(output_)).item<double>() *
                  static_cast<double>(chosen.size());
      if (progress) {
        progress({"evaluate", begin + static_cast<int64_t>(chosen.size()), count, ""});
      }
    }
    const auto n = static_cast<double>(count);
    return {{"accuracy", correct / n}, {"loss", loss_sum / n}};
  }

 private:
  Batch make_batch(const LabelledImages& data, const std::vector<int64_t>& chosen,
                   int64_t first_drawn, const AugmentSpec& spec) const {
    const auto count = static_cast<int64_t>(chosen.size());
    const int64_t values = size_.height * size_.width * size_.channels;
    at::Tensor pixels = at::empty({count, size_.height, size_.width, size_.channels}, at::kFloat);
    at::Tensor labels = at::empty({count}, at::kLong);
    float* out = pixels.mutable_data_ptr<float>();
    for (int64_t i = 0; i < count; ++i, out += values) {
      const int64_t index = chosen[static_cast<size_t>(i)];
      Random random{recipe_.seed, kAugment, static_cast<uint64_t>(first_drawn + i)};
      augment(spec, size_, random, data.images.data<uint8_t>() + index * values, out);
      for (int64_t k = 0; k < values; ++k) {
        const auto channel = static_cast<size_t>(k % size_.channels);
        out[k] = out[k] * normalisation_.scale[channel] + normalisation_.offset[channel];
      }
      labels.mutable_data_ptr<int64_t>()[i] = data.labels.data<uint8_t>()[index];
    }
    Batch batch;
    batch.inputs.arrays.emplace(input_.name, std::move(pixels));
    batch.targets.emplace(output_, std::move(labels));
    return batch;
  }

  const Recipe& recipe_;
  const ImageRecipe& own_;
  InputSpec input_;
  std::string output_;
  PictureSize size_;
  Normalisation normalisation_;
  LabelledImages train_, test_;
  std::optional<EpochOrder> order_;
};

ImageDataSpec read_images(Fields fields, const std::filesystem::path& folder) {
  ImageDataSpec images;
  images.train_images = existing_file(fields, "train_images", folder);
  images.train_labels = existing_file(fields, "train_labels", folder);
  images.test_images = existing_file(fields, "test_images", folder);
  images.test_labels = existing_file(fields, "test_labels", folder);
  Fields augment = fields.object("augment");
  images.augment.shift = augment.number("shift", 0, 0, 1e4);
  images.augment.rotation = augment.number("rotation", 0, 0, 180);
  images.augment.scale = augment.number("scale", 0, 0, 0.9);
  images.augment.shear = augment.number("shear", 0, 0, 2);
  augment.finish();
  fields.finish();
  return images;
}

}  // namespace

std::unique_ptr<Task> ImageRecipe::make(const Recipe& recipe, const ModelSpec& model,
                                        TaskData part) const {
  return std::make_unique<ImageTask>(recipe, *this, model, part);
}

std::shared_ptr<const TaskRecipe> read_image_recipe(Fields& fields,
                                                    const std::filesystem::path& folder) {
  auto recipe = std::make_shared<ImageRecipe>();
  recipe->data = read_images(fields.object("data"), folder);
  recipe->label_smoothing = fields.number("label_smoothing", 0, 0, 1);
  return recipe;
}

}  // namespace perceiver::train
