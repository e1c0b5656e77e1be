#include "train/tasks/audio_task.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <c10/core/GradMode.h>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/tokens/audio_processor.h"
#include "train/class_scores.h"
#include "train/data/bad_samples.h"
#include "train/data/epoch_order.h"
#include "train/random.h"

namespace perceiver::train {
namespace {

constexpr const char* kTask = "audio_classification";
constexpr int64_t kTestBatch = 64;
constexpr int64_t kDefaultCacheMib = 512;

tokens::AudioProcessorConfig processor_of(const Recipe& recipe) {
  const std::string where = cat(printable(recipe.path.string()), ": preprocessor");
  if (!recipe.preprocessor || !recipe.preprocessor->contains("sampling_rate")) {
    throw Error(ErrorCode::kFormat, cat(where,
                                        ".sampling_rate is missing: the rate in Hz at which "
                                        "the model hears"));
  }
  return tokens::audio_processor_config_from_json(*recipe.preprocessor, where);
}

const InputSpec& sound_input(const ModelSpec& model) {
  const InputSpec& input = only_input(model, InputKind::kGrid, kTask);
  if (input.index_dims.size() != 1 || input.channels < 1 || input.channels > 2) {
    throw Error(
        ErrorCode::kArgument,
        cat(kTask, " needs an input of one axis with 1 or 2 channels; ", printable(input.name),
            " has ", input.index_dims.size(), " axes and ", input.channels, " channels"));
  }
  return input;
}

// Sounds and what they are called, in the model's classes.
struct LabelledSounds {
  LabelledSounds(std::vector<LabelledFile> given, const SoundFormat& format, int64_t cache_bytes,
                 const ClassNames& names)
      : files(std::move(given), format, cache_bytes) {
    for (int64_t i = 0; i < files.count(); ++i) {
      const LabelledFile& file = files.file(i);
      labels.push_back(names.parse(file.label, printable(file.path.string())));
    }
  }
  SoundFiles files;
  std::vector<std::vector<int64_t>> labels;
};

class SoundTask : public Task {
 public:
  SoundTask(const Recipe& recipe, const SoundRecipe& own, const ModelSpec& model, TaskData part)
      : recipe_(recipe),
        own_(own),
        input_(sound_input(model)),
        output_(only_output(model, kTask).name),
        classes_(class_count(model, kTask)),
        processor_(processor_of(recipe)),
        bad_(recipe.skip_bad),
        bad_test_(recipe.skip_bad) {
    ClassSpec spec = own.data.classes;
    if (spec.names.empty()) {
      spec.names = model.labels;
    }
    const ClassNames names(spec, classes_);
    const SoundFormat format{processor_.sampling_rate, static_cast<int>(input_.channels),
                             own.data.max_seconds};
    LabelledSplit split = find_labelled_files(own.data.files);
    test_ = std::make_unique<LabelledSounds>(std::move(split.test), format,
                                             own.data.cache_bytes / 4, names);
    if (part == TaskData::kTrainAndTest) {
      train_ = std::make_unique<LabelledSounds>(
          std::move(split.train), format, own.data.cache_bytes - own.data.cache_bytes / 4, names);
      order_.emplace(recipe.seed, train_->files.count());
    }
  }

  Batch training_batch(int64_t index) override {
    Builder builder(*this, recipe_.batch_size);
    for (int64_t i = 0; i < recipe_.batch_size; ++i) {
      const int64_t drawn = index * recipe_.batch_size + i;
      bad_.read(order_->at(drawn), train_->files.count(), [&](int64_t at) {
        Random random{recipe_.seed, kSoundCrop, static_cast<uint64_t>(drawn)};
        builder.add(training_window(*train_->files.read(at), input_.index_dims[0],
                                    processor_.do_normalize, own_.augment, random),
                    train_->labels[static_cast<size_t>(at)]);
        return true;
      });
    }
    return builder.batch();
  }

  at::Tensor loss(const nn::TensorMap& outputs, const Batch& batch,
                  const Shares& shares) const override {
    return class_loss(outputs.at(output_), batch.targets.at(output_), kind(), own_.label_smoothing)
        .mul(shares.at(0));
  }

  int64_t skipped() const override { return bad_.skipped() + bad_test_.skipped(); }
  int64_t test_examples() const override { return test_->files.count(); }

  Metrics evaluate(nn::Model& model, int64_t limit, const ProgressFn& progress) const override {
    const c10::AutoGradMode no_gradients(false);
    const int64_t count = limit > 0 ? std::min(limit, test_examples()) : test_examples();
    ClassScores scores(classes_, kind());
    double loss_sum = 0;
    for (int64_t begin = 0; begin < count; begin += kTestBatch) {
      const int64_t end = std::min(begin + kTestBatch, count);
      at::Tensor probabilities;
      for (int64_t clip = 0; clip < own_.data.test_clips; ++clip) {
        const Batch batch = test_batch(begin, end, clip);
        const at::Tensor logits = model.forward(batch.inputs, batch.request).at(output_);
        const at::Tensor& targets = batch.targets.at(output_);
        const at::Tensor one = class_probabilities(logits, kind());
        probabilities = clip == 0 ? one : probabilities.add(one);
        loss_sum +=
            class_loss(logits, targets, kind()).item<double>() * static_cast<double>(end - begin);
        if (clip + 1 == own_.data.test_clips) {
          scores.add(probabilities.div(clip + 1), targets);
        }
      }
      if (progress) {
        progress({"evaluate", end, count, ""});
      }
    }
    Metrics metrics = scores.metrics();
    metrics.emplace_back("loss", loss_sum / static_cast<double>(count * own_.data.test_clips));
    return metrics;
  }

 private:
  // Windows side by side.
  class Builder {
   public:
    Builder(const SoundTask& task, int64_t count)
        : task_(task),
          sounds_(at::empty({count, task.input_.index_dims[0], task.input_.channels}, at::kFloat)) {
    }
    void add(const Array& window, const std::vector<int64_t>& label) {
      std::memcpy(
          sounds_.mutable_data_ptr<float>() + static_cast<int64_t>(labels_.size()) * window.numel(),
          window.bytes(), static_cast<size_t>(window.nbytes()));
      labels_.push_back(label);
    }
    Batch batch() const {
      Batch batch;
      batch.inputs.arrays.emplace(task_.input_.name, sounds_);
      batch.targets.emplace(task_.output_, class_targets(labels_, task_.classes_, task_.kind()));
      return batch;
    }

   private:
    const SoundTask& task_;
    at::Tensor sounds_;
    std::vector<std::vector<int64_t>> labels_;
  };

  LabelKind kind() const { return own_.data.classes.kind; }

  Batch test_batch(int64_t begin, int64_t end, int64_t clip) const {
    Builder builder(*this, end - begin);
    for (int64_t i = begin; i < end; ++i) {
      bad_test_.read(i, test_->files.count(), [&](int64_t at) {
        const auto sound = test_->files.read(at);
        const int64_t length = input_.index_dims[0];
        const auto places = tokens::spread_windows(sound->size(0), length, own_.data.test_clips);
        builder.add(tokens::audio_window(*sound, places[static_cast<size_t>(clip)], length,
                                         processor_.do_normalize),
                    test_->labels[static_cast<size_t>(at)]);
        return true;
      });
    }
    return builder.batch();
  }

  const Recipe& recipe_;
  const SoundRecipe& own_;
  InputSpec input_;
  std::string output_;
  int64_t classes_;
  tokens::AudioProcessorConfig processor_;
  std::unique_ptr<LabelledSounds> train_, test_;
  std::optional<EpochOrder> order_;
  BadSamples bad_;
  mutable BadSamples bad_test_;  // evaluate() counts what it leaves out
};

SoundDataSpec read_sounds(Fields fields, const std::filesystem::path& folder) {
  SoundDataSpec data;
  data.files = read_labelled_files(
      fields, folder, {"wav", "flac", "ogg", "oga", "opus", "mp3", "m4a", "mp4", "mov", "avi"});
  data.classes = read_classes(fields, folder);
  data.max_seconds = fields.number("max_seconds", data.max_seconds, 1e-3, 1e5);
  data.cache_bytes = fields.integer("cache_mib", kDefaultCacheMib, 0, 1 << 24) << 20;
  data.test_clips = fields.integer("test_clips", data.test_clips, 1, 1024);
  fields.finish();
  return data;
}

SoundAugmentSpec read_augment(Fields fields) {
  SoundAugmentSpec augment;
  augment.crop = fields.boolean("crop", augment.crop);
  augment.gain_db = fields.number("gain_db", 0, 0, 60);
  augment.speed = fields.number("speed", 0, 0, 0.5);
  fields.finish();
  return augment;
}

}  // namespace

std::unique_ptr<Task> SoundRecipe::make(const Recipe& recipe, const ModelSpec& model,
                                        TaskData part) const {
  return std::make_unique<SoundTask>(recipe, *this, model, part);
}

std::shared_ptr<const TaskRecipe> read_audio_recipe(Fields& fields,
                                                    const std::filesystem::path& folder) {
  auto recipe = std::make_shared<SoundRecipe>();
  recipe->data = read_sounds(fields.object("data"), folder);
  recipe->augment = read_augment(fields.object("augment"));
  recipe->label_smoothing = read_label_smoothing(fields, recipe->data.classes.kind);
  return recipe;
}

}  // namespace perceiver::train
