#include "train/tasks/audio_video_task.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <set>

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/l1_loss.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/spec/model_shape.h"
#include "train/class_scores.h"
#include "train/data/bad_samples.h"
#include "train/data/epoch_order.h"
#include "train/random.h"
#include "train/tasks/audio_video_roles.h"

namespace perceiver::train {
namespace {

constexpr int64_t kMaxTestBatch = 32;
constexpr int64_t kClassesWithoutLabel = 4;  // of generated films nobody asks the class of

template <typename... Parts>
[[noreturn]] void refuse(const Recipe& recipe, const Parts&... parts) {
  throw Error(ErrorCode::kArgument, cat(printable(recipe.path.string()), ": ", parts...));
}

// A few clips as tensors.
struct ClipTensors {
  at::Tensor frames;  // [B, T, S, S, 3] in [0, 1], undefined without film
  at::Tensor audio;   // [B, samples, 1], undefined without sound
  std::vector<std::vector<int64_t>> classes;
};

// `n` different rows of `rows`, rising (Floyd's method).
std::vector<int64_t> draw_rows(int64_t n, int64_t rows, Random& random) {
  std::set<int64_t> chosen;
  for (int64_t top = rows - n; top < rows; ++top) {
    const int64_t drawn = random.below(top + 1);
    chosen.insert(chosen.count(drawn) == 0 ? drawn : top);
  }
  return {chosen.begin(), chosen.end()};
}

// Squared errors of what is answered, and of an answer that knows next to nothing.
struct Fidelity {
  double squares = 0, trivial_squares = 0, values = 0;
  void add(const at::Tensor& answer, const at::Tensor& truth, const at::Tensor& trivial) {
    squares += answer.sub(truth).pow(2).sum().item<double>();
    trivial_squares += trivial.sub(truth).pow(2).sum().item<double>();
    values += static_cast<double>(truth.numel());
  }
  // Decibels against a peak of 1; the floor stands for a perfect copy.
  double psnr(double sum) const { return -10 * std::log10(std::max(sum / values, 1e-12)); }
};

class AudioVideoTask : public Task {
 public:
  AudioVideoTask(const Recipe& recipe, const AudioVideoRecipe& own, const ModelSpec& model,
                 TaskData part)
      : recipe_(recipe),
        own_(own),
        roles_(audio_video_roles(model)),
        bad_(recipe.skip_bad),
        bad_test_(recipe.skip_bad) {
    roles_.shape.sample_rate = own.data.sample_rate;
    for (const TokenShape& tokens : resolve(model).inputs) {
      tokens_[tokens.name] = tokens.tokens;
    }
    check_times();
    check_answer(own.video, roles_.video_out, "video");
    check_answer(own.audio, roles_.audio_out, "audio");
    check_answer(own.label, roles_.label_out, "label");
    check_hiding();
    open_films(model, part);
  }

  Batch training_batch(int64_t index) override {
    const int64_t first = index * recipe_.batch_size;
    ClipTensors clips = empty_clips(recipe_.batch_size);
    for (int64_t i = 0; i < recipe_.batch_size; ++i) {
      const int64_t drawn = first + i;
      Random random{recipe_.seed, kClipChoice, static_cast<uint64_t>(drawn)};
      const int64_t clip = random.below(train_->clips());
      bad_.read(order_->at(drawn), train_->count(), [&](int64_t film) {
        fill(*train_, film, clip, i, clips);
        return true;
      });
    }
    Batch batch = make_batch(clips);
    hide(first, clips, batch);
    ask_points(index, batch);
    return batch;
  }

  at::Tensor loss(const nn::TensorMap& outputs, const Batch& batch,
                  const Shares& shares) const override {
    at::Tensor sum;
    const auto add = [&](const at::Tensor& term, const AnswerSpec& answer) {
      const at::Tensor weighted = term.mul(answer.weight.value_or(1));
      sum = sum.defined() ? sum.add(weighted) : weighted;
    };
    if (roles_.video_out) {
      const std::string& name = roles_.video_out->name;
      add(distance(outputs.at(name), batch.targets.at(name)), own_.video);
    }
    if (roles_.audio_out) {
      const std::string& name = roles_.audio_out->name;
      add(distance(outputs.at(name), batch.targets.at(name)), own_.audio);
    }
    if (roles_.label_out) {
      const std::string& name = roles_.label_out->name;
      add(class_loss(outputs.at(name), batch.targets.at(name), kind(), own_.label_smoothing),
          own_.label);
    }
    return sum.mul(shares.at(0));
  }

  int64_t skipped() const override { return bad_.skipped() + bad_test_.skipped(); }
  int64_t test_examples() const override { return test_->count(); }

  Metrics evaluate(nn::Model& model, int64_t limit, const ProgressFn& progress) const override {
    const c10::AutoGradMode no_gradients(false);
    const int64_t count = limit > 0 ? std::min(limit, test_examples()) : test_examples();
    const int64_t size = std::min(recipe_.batch_size, kMaxTestBatch);
    Fidelity video;
    Fidelity audio;
    ClassScores scores(roles_.classes, kind());
    for (int64_t begin = 0; begin < count; begin += size) {
      const int64_t end = std::min(begin + size, count);
      at::Tensor probabilities;
      for (int64_t clip = 0; clip < test_->clips(); ++clip) {
        const Batch batch = test_batch(begin, end, clip);
        const nn::TensorMap outputs = model.forward(batch.inputs, batch.request);
        compare(outputs, batch, video, audio);
        if (roles_.label_out) {
          const at::Tensor one = class_probabilities(outputs.at(roles_.label_out->name), kind());
          probabilities = clip == 0 ? one : probabilities.add(one);
        }
        if (roles_.label_out && clip + 1 == test_->clips()) {
          scores.add(probabilities.div(clip + 1), batch.targets.at(roles_.label_out->name));
        }
      }
      if (progress) {
        progress({"evaluate", end, count, ""});
      }
    }
    return metrics(video, audio, scores);
  }

 private:
  LabelKind kind() const { return own_.data.classes.kind; }

  static at::Tensor distance(const at::Tensor& answer, const at::Tensor& truth) {
    return at::l1_loss(answer.reshape({truth.size(0), -1}), truth.reshape({truth.size(0), -1}));
  }

  // Film and sound that are read or answered together must last as long as each other.
  void check_times() const {
    const tasks::ClipShape& shape = roles_.shape;
    if (shape.samples == 0) {
      return;
    }
    const double fps = own_.data.frames_per_second;
    const double film = static_cast<double>(shape.frames) / fps;
    const double sound = static_cast<double>(shape.samples) / shape.sample_rate;
    if (std::abs(film - sound) > 1 / fps) {
      refuse(recipe_, "data: ", shape.frames, " frames at ", fps, " per second last ", film,
             " s, but ", shape.samples, " samples at ", shape.sample_rate, " Hz last ", sound,
             " s; set frames_per_second or sample_rate");
    }
  }

  void check_answer(const AnswerSpec& answer, const std::optional<OutputSpec>& output,
                    const char* what) const {
    if (!output) {
      if (answer.weight || answer.points) {
        refuse(recipe_, answer.weight ? "loss." : "points.", what,
               " is given, but the model answers with no ", what);
      }
      return;
    }
    const int64_t points = answer.points.value_or(0);
    const int64_t rows = element_count(output->index_dims);
    if (points > rows) {
      refuse(recipe_, "points.", what, " is ", points, ", but output ", printable(output->name),
             " has ", rows, " rows");
    }
    if (points > 0 && output->head == HeadKind::kDepthToSpace) {
      refuse(recipe_, "points.", what, " is ", points, ", but the head of output ",
             printable(output->name), " needs every row");
    }
    if (points > 0 && output->query == QueryKind::kFourier &&
        output->whole_grid == AxisGrid::kInclusive) {
      refuse(recipe_, "points.", what, " is ", points, ", but whole_grid of output ",
             printable(output->name),
             " is inclusive: rows asked for by index lie elsewhere than those of a whole answer; "
             "set whole_grid to half_open");
    }
  }

  void check_hiding() const {
    const HidingSpec& hide = own_.hide;
    if ((hide.video > 0 || hide.audio > 0) && !(roles_.video_in && roles_.audio_in)) {
      refuse(recipe_, "hide.video and hide.audio need a model that reads both film and sound");
    }
    if (hide.label && !roles_.label_in) {
      refuse(recipe_, "hide.label is given, but the model reads no label");
    }
    if (roles_.label_in && roles_.label_in->mask_probability < 0) {
      refuse(recipe_, "input ", printable(roles_.label_in->name),
             " needs a mask token (mask_probability of 0 or more): the label is hidden when the "
             "model is measured");
    }
  }

  void open_films(const ModelSpec& model, TaskData part) {
    const AudioVideoDataSpec& data = own_.data;
    if (data.generated) {
      const GeneratedFilmsSpec& spec = *data.generated;
      GeneratedFilms::Options options;
      options.shape = roles_.shape;
      options.num_classes = roles_.classes > 0 ? roles_.classes : kClassesWithoutLabel;
      options.kind = kind();
      options.seed = recipe_.seed;
      options.count = spec.train_examples;
      train_ = std::make_unique<GeneratedFilms>(spec, options);
      options.first = spec.train_examples;
      options.count = spec.test_examples;
      test_ = std::make_unique<GeneratedFilms>(spec, options);
    } else {
      std::optional<ClassNames> names;
      if (roles_.classes > 0) {
        ClassSpec classes = data.classes;
        classes.names = classes.names.empty() ? model.labels : classes.names;
        names.emplace(classes, roles_.classes);
      }
      LabelledSplit split = find_labelled_files(*data.files);
      FilmFiles::Options options{roles_.shape, data.frames_per_second, data.test_clips,
                                 data.cache_bytes / 4};
      test_ = std::make_unique<FilmFiles>(std::move(split.test), names, options);
      options.clips = data.train_clips;
      options.cache_bytes = data.cache_bytes - data.cache_bytes / 4;
      if (part == TaskData::kTrainAndTest) {
        train_ = std::make_unique<FilmFiles>(std::move(split.train), names, options);
      }
    }
    if (part == TaskData::kTrainAndTest) {
      order_.emplace(recipe_.seed, train_->count());
    }
  }

  ClipTensors empty_clips(int64_t count) const {
    const tasks::ClipShape& shape = roles_.shape;
    ClipTensors clips;
    clips.frames = at::empty({count, shape.frames, shape.size, shape.size, 3}, at::kFloat);
    if (shape.samples > 0) {
      clips.audio = at::empty({count, shape.samples, 1}, at::kFloat);
    }
    clips.classes.resize(static_cast<size_t>(count));
    return clips;
  }

  static void fill(Films& films, int64_t film, int64_t clip, int64_t at, ClipTensors& clips) {
    const auto read = films.read(film, clip);
    const uint8_t* levels = read->frames.data<uint8_t>();
    std::transform(levels, levels + read->frames.numel(),
                   clips.frames.mutable_data_ptr<float>() + at * read->frames.numel(),
                   [](uint8_t level) { return static_cast<float>(level) / 255.0F; });
    if (clips.audio.defined()) {
      std::memcpy(clips.audio.mutable_data_ptr<float>() + at * read->audio.numel(),
                  read->audio.bytes(), static_cast<size_t>(read->audio.nbytes()));
    }
    clips.classes[static_cast<size_t>(at)] = films.classes(film);
  }

  // Everything shown, all rows asked for.
  Batch make_batch(const ClipTensors& clips) const {
    Batch batch;
    if (roles_.video_in) {
      batch.inputs.arrays.emplace(roles_.video_in->name, clips.frames);
    }
    if (roles_.audio_in) {
      batch.inputs.arrays.emplace(roles_.audio_in->name, clips.audio);
    }
    if (roles_.label_in) {
      batch.inputs.arrays.emplace(roles_.label_in->name,
                                  class_targets(clips.classes, roles_.classes, LabelKind::kMulti));
    }
    if (roles_.video_out) {
      batch.targets.emplace(roles_.video_out->name, clips.frames);
    }
    if (roles_.audio_out) {
      batch.targets.emplace(roles_.audio_out->name, clips.audio);
    }
    if (roles_.label_out) {
      batch.targets.emplace(roles_.label_out->name,
                            class_targets(clips.classes, roles_.classes, kind()));
    }
    return batch;
  }

  // Tokens of one input: behind the mask token where it has one, else not attended to.
  void hide_tokens(const InputSpec& input, const std::vector<uint8_t>& hidden, Batch& batch) const {
    at::Tensor flags = at::zeros({static_cast<int64_t>(hidden.size()), 1}, at::kBool);
    for (size_t i = 0; i < hidden.size(); ++i) {
      flags.mutable_data_ptr<bool>()[i] = hidden[i] != 0;
    }
    flags = flags.expand({-1, tokens_.at(input.name)});
    if (input.mask_probability >= 0) {
      batch.inputs.replaced.emplace(input.name, flags.contiguous());
    } else {
      batch.inputs.masks.emplace(input.name, flags.logical_not());
    }
  }

  void hide(int64_t first, const ClipTensors& clips, Batch& batch) const {
    std::vector<uint8_t> video(clips.classes.size());
    std::vector<uint8_t> audio(clips.classes.size());
    std::vector<uint8_t> label(clips.classes.size());
    const HidingSpec& chances = own_.hide;
    for (size_t i = 0; i < clips.classes.size(); ++i) {
      const uint64_t drawn = static_cast<uint64_t>(first) + i;
      const double side = Random{recipe_.seed, kModalityDrop, drawn}.uniform();
      video[i] = side < chances.video ? 1 : 0;
      audio[i] = side >= chances.video && side < chances.video + chances.audio ? 1 : 0;
      if (roles_.label_in) {
        const double chance = chances.label.value_or(roles_.label_in->mask_probability);
        label[i] = Random{recipe_.seed, kLabelMask, drawn}.uniform() < chance ? 1 : 0;
      }
    }
    if (chances.video > 0) {
      hide_tokens(*roles_.video_in, video, batch);
    }
    if (chances.audio > 0) {
      hide_tokens(*roles_.audio_in, audio, batch);
    }
    if (roles_.label_in) {
      hide_tokens(*roles_.label_in, label, batch);
    }
  }

  // The rows are the same for all examples of a batch: the model takes one list.
  void ask_points(int64_t index, Batch& batch) const {
    Random random{recipe_.seed, kOutputPoints, static_cast<uint64_t>(index)};
    if (own_.video.points.value_or(0) > 0) {
      ask_rows(*roles_.video_out, *own_.video.points, 3, random, batch);
    }
    if (own_.audio.points.value_or(0) > 0) {
      ask_rows(*roles_.audio_out, *own_.audio.points, roles_.audio_row, random, batch);
    }
  }

  static void ask_rows(const OutputSpec& output, int64_t points, int64_t width, Random& random,
                       Batch& batch) {
    const int64_t rows = element_count(output.index_dims);
    std::vector<int64_t> chosen = draw_rows(points, rows, random);
    at::Tensor& target = batch.targets.at(output.name);
    target = target.reshape({target.size(0), rows, width}).index_select(1, at::tensor(chosen));
    batch.request.points.emplace(output.name, std::move(chosen));
  }

  Batch test_batch(int64_t begin, int64_t end, int64_t clip) const {
    ClipTensors clips = empty_clips(end - begin);
    for (int64_t i = begin; i < end; ++i) {
      bad_test_.read(i, test_->count(), [&](int64_t film) {
        fill(*test_, film, clip, i - begin, clips);
        return true;
      });
    }
    Batch batch = make_batch(clips);
    if (roles_.label_in) {
      hide_tokens(*roles_.label_in, std::vector<uint8_t>(clips.classes.size(), 1), batch);
    }
    return batch;
  }

  void compare(const nn::TensorMap& outputs, const Batch& batch, Fidelity& video,
               Fidelity& audio) const {
    if (roles_.video_out) {
      const at::Tensor& truth = batch.targets.at(roles_.video_out->name);
      video.add(outputs.at(roles_.video_out->name).reshape(truth.sizes()), truth,
                truth.mean({1, 2, 3}, true));
    }
    if (roles_.audio_out) {
      const at::Tensor& truth = batch.targets.at(roles_.audio_out->name);
      audio.add(outputs.at(roles_.audio_out->name).reshape(truth.sizes()), truth,
                at::zeros({1}, truth.options()));
    }
  }

  Metrics metrics(const Fidelity& video, const Fidelity& audio, const ClassScores& scores) const {
    Metrics metrics;
    if (roles_.audio_out) {
      metrics.emplace_back("audio_psnr", audio.psnr(audio.squares));
      metrics.emplace_back("silence_psnr", audio.psnr(audio.trivial_squares));
    }
    if (roles_.video_out) {
      metrics.emplace_back("video_psnr", video.psnr(video.squares));
      metrics.emplace_back("mean_colour_psnr", video.psnr(video.trivial_squares));
    }
    if (roles_.label_out) {
      const Metrics of_label = scores.metrics();
      metrics.insert(metrics.end(), of_label.begin(), of_label.end());
    }
    return metrics;
  }

  const Recipe& recipe_;
  const AudioVideoRecipe& own_;
  AudioVideoRoles roles_;
  std::map<std::string, int64_t> tokens_;  // of each input
  std::unique_ptr<Films> train_, test_;
  std::optional<EpochOrder> order_;
  BadSamples bad_;
  mutable BadSamples bad_test_;  // evaluate() counts what it leaves out
};

}  // namespace

std::unique_ptr<Task> AudioVideoRecipe::make(const Recipe& recipe, const ModelSpec& model,
                                             TaskData part) const {
  return std::make_unique<AudioVideoTask>(recipe, *this, model, part);
}

}  // namespace perceiver::train
