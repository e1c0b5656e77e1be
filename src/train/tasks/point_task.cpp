#include "train/tasks/point_task.h"

#include <algorithm>
#include <optional>

#include <ATen/ops/empty.h>
#include <c10/core/GradMode.h>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/io/point_cloud.h"
#include "train/data/bad_samples.h"
#include "train/data/class_files.h"
#include "train/data/epoch_order.h"
#include "train/data/point_sets.h"
#include "train/losses.h"
#include "train/random.h"

namespace perceiver::train {
namespace {

constexpr const char* kTask = "point_cloud_classification";
constexpr int64_t kTestBatch = 32;
constexpr int64_t kAxes = 3;

const std::vector<std::string> kEndings{".off", ".xyz", ".txt", ".pts"};

struct Sample {
  PointSet points;
  int64_t label = 0;
};

/// One part of a data set: numbered objects with labels.
class PointSource {
 public:
  virtual ~PointSource() = default;
  virtual int64_t count() const = 0;
  virtual int64_t label(int64_t index) const = 0;
  /// @param random  chooses the points @throws what the readers throw
  virtual PointSet points(int64_t index, int64_t count, bool normals, Random& random) const = 0;
};

class Solids : public PointSource {
 public:
  /// @param first  number of the first: parts of one data set must not overlap
  Solids(uint64_t seed, int64_t first, int64_t count, int64_t classes, double noise)
      : seed_(seed), first_(first), count_(count), classes_(classes), noise_(noise) {}

  int64_t count() const override { return count_; }
  int64_t label(int64_t index) const override { return (first_ + index) % classes_; }
  // A solid is the same whenever it is drawn, its points included, as if it came from a file.
  PointSet points(int64_t index, int64_t count, bool normals, Random& /*random*/) const override {
    Random random{seed_, kPointSolids, static_cast<uint64_t>(first_ + index)};
    return draw_solid(label(index), count, normals, noise_, random);
  }

 private:
  uint64_t seed_;
  int64_t first_, count_, classes_;
  double noise_;
};

class PointFiles : public PointSource {
 public:
  PointFiles(std::vector<ClassFile> files, const std::vector<std::string>& classes)
      : files_(std::move(files)) {
    for (const ClassFile& file : files_) {
      const auto found = std::find(classes.begin(), classes.end(), file.class_name);
      if (found == classes.end()) {
        throw Error(ErrorCode::kArgument,
                    cat(printable(file.path.string()), ": class '", printable(file.class_name, 40),
                        "' is none of the model's ", classes.size(), " labels"));
      }
      labels_.push_back(found - classes.begin());
    }
  }

  int64_t count() const override { return static_cast<int64_t>(files_.size()); }
  int64_t label(int64_t index) const override { return labels_.at(static_cast<size_t>(index)); }
  PointSet points(int64_t index, int64_t count, bool normals, Random& random) const override {
    const std::filesystem::path& path = files_.at(static_cast<size_t>(index)).path;
    const std::string where = printable(path.string());
    return path.extension() == ".off"
               ? sample_surface(io::read_off(path), count, normals, random, where)
               : choose_points(io::read_points(path), count, normals, random, where);
  }

 private:
  std::vector<ClassFile> files_;
  std::vector<int64_t> labels_;
};

std::vector<ClassFile> list_files(const PointDataSpec& data, bool train) {
  if (!data.folder.empty()) {
    return list_class_folders(data.folder, train ? "train" : "test", kEndings);
  }
  const std::filesystem::path& given = train ? data.train : data.test;
  std::error_code ignored;
  return std::filesystem::is_directory(given, ignored) ? list_class_folders(given, "", kEndings)
                                                       : read_class_list(given);
}

// The model's labels, or the class names found, sorted, when it has none.
std::vector<std::string> class_names(const ModelSpec& model, std::vector<ClassFile> files,
                                     int64_t classes) {
  std::vector<std::string> names = model.labels;
  if (names.empty()) {
    for (const ClassFile& file : files) {
      names.push_back(file.class_name);
    }
    std::sort(names.begin(), names.end());
    names.erase(std::unique(names.begin(), names.end()), names.end());
  }
  if (std::cmp_greater(names.size(), classes)) {
    throw Error(ErrorCode::kArgument, cat(kTask, ": there are ", names.size(),
                                          " classes, the model tells ", classes, " apart"));
  }
  return names;
}

class PointTask : public Task {
 public:
  PointTask(const Recipe& recipe, const PointRecipe& own, const ModelSpec& model, TaskData part)
      : recipe_(recipe),
        own_(own),
        input_(set_input(model)),
        output_(only_output(model, kTask).name),
        classes_(class_count(model, kTask)),
        points_(own.data.points > 0 ? own.data.points : input_.index_dims[0]),
        bad_train_(recipe.skip_bad),
        bad_test_(recipe.skip_bad) {
    if (points_ > input_.index_dims[0]) {
      throw Error(ErrorCode::kArgument, cat(printable(recipe.path.string()), ": data.points is ",
                                            points_, ", the model reads ", input_.index_dims[0]));
    }
    if (own.data.train_examples > 0) {
      open_solids();
    } else {
      open_files(model, part);
    }
    if (train_) {
      order_.emplace(recipe.seed, train_->count());
    }
  }

  Batch training_batch(int64_t index) override {
    std::vector<Sample> samples;
    for (int64_t i = 0; i < recipe_.batch_size; ++i) {
      const int64_t drawn = index * recipe_.batch_size + i;
      Random random{recipe_.seed, kPointSamples, static_cast<uint64_t>(drawn)};
      samples.push_back(read(*train_, bad_train_, order_->at(drawn), random));
      Random changes{recipe_.seed, kPointAugment, static_cast<uint64_t>(drawn)};
      scale_points(samples.back().points, own_.data.point_scale, changes);
    }
    return make_batch(samples);
  }

  at::Tensor loss(const nn::TensorMap& outputs, const Batch& batch,
                  const Shares& shares) const override {
    return softmax_cross_entropy(outputs.at(output_), batch.targets.at(output_),
                                 own_.label_smoothing)
        .mul(shares.at(0));
  }

  int64_t skipped() const override { return bad_train_.skipped() + bad_test_.skipped(); }
  int64_t test_examples() const override { return test_->count(); }

  Metrics evaluate(nn::Model& model, int64_t limit, const ProgressFn& progress) const override {
    const c10::AutoGradMode no_gradients(false);
    const int64_t count = limit > 0 ? std::min(limit, test_examples()) : test_examples();
    double correct = 0;
    double loss_sum = 0;
    std::vector<int64_t> of_class(static_cast<size_t>(classes_));
    for (int64_t begin = 0; begin < count; begin += kTestBatch) {
      const int64_t end = std::min(begin + kTestBatch, count);
      std::vector<Sample> samples;
      for (int64_t i = begin; i < end; ++i) {
        Random random{kPointSamples, static_cast<uint64_t>(i)};
        samples.push_back(read(*test_, bad_test_, i, random));
        ++of_class[static_cast<size_t>(samples.back().label)];
      }
      const Batch batch = make_batch(samples);
      const at::Tensor logits = model.forward(batch.inputs, batch.request).at(output_);
      correct += count_correct(logits, batch.targets.at(output_));
      loss_sum += softmax_cross_entropy(logits, batch.targets.at(output_)).item<double>() *
                  static_cast<double>(end - begin);
      if (progress) {
        progress({"evaluate", end, count, ""});
      }
    }
    const auto n = static_cast<double>(count);
    const auto most = static_cast<double>(*std::max_element(of_class.begin(), of_class.end()));
    return {{"accuracy", correct / n}, {"majority_accuracy", most / n}, {"loss", loss_sum / n}};
  }

 private:
  static const InputSpec& set_input(const ModelSpec& model) {
    const InputSpec& input = only_input(model, InputKind::kSet, kTask);
    if (input.coordinates != kAxes || (input.channels != 0 && input.channels != kAxes)) {
      throw Error(ErrorCode::kArgument,
                  cat(kTask, ": input ", printable(input.name), " has ", input.coordinates,
                      " coordinates and ", input.channels,
                      " channels; points have 3 coordinates and 0 channels, or 3 of a normal"));
    }
    return input;
  }

  void open_solids() {
    const PointDataSpec& data = own_.data;
    const auto kinds = static_cast<int64_t>(solid_names().size());
    if (classes_ > kinds) {
      throw Error(ErrorCode::kArgument, cat(kTask, ": ", kinds, " kinds of solids are generated, ",
                                            "the model tells ", classes_, " apart"));
    }
    train_ = std::make_unique<Solids>(recipe_.seed, 0, data.train_examples, classes_, data.noise);
    test_ = std::make_unique<Solids>(recipe_.seed, data.train_examples, data.test_examples,
                                     classes_, data.noise);
  }

  void open_files(const ModelSpec& model, TaskData part) {
    const std::vector<ClassFile> test = list_files(own_.data, /*train=*/false);
    std::vector<ClassFile> train;
    if (part == TaskData::kTrainAndTest || model.labels.empty()) {
      train = list_files(own_.data, /*train=*/true);
    }
    std::vector<ClassFile> all = train;
    all.insert(all.end(), test.begin(), test.end());
    const std::vector<std::string> names = class_names(model, all, classes_);
    test_ = std::make_unique<PointFiles>(test, names);
    if (part == TaskData::kTrainAndTest) {
      train_ = std::make_unique<PointFiles>(train, names);
    }
  }

  Sample read(const PointSource& source, BadSamples& bad, int64_t index,
              const Random& random) const {
    return bad.read(index, source.count(), [&](int64_t at) {
      Random own = random;
      return Sample{source.points(at, points_, input_.channels > 0, own), source.label(at)};
    });
  }

  Batch make_batch(std::vector<Sample>& samples) const {
    const auto count = static_cast<int64_t>(samples.size());
    const int64_t columns = kAxes + input_.channels;
    at::Tensor values = at::empty({count, points_, columns}, at::kFloat);
    at::Tensor labels = at::empty({count}, at::kLong);
    float* out = values.mutable_data_ptr<float>();
    for (int64_t i = 0; i < count; ++i) {
      Sample& sample = samples[static_cast<size_t>(i)];
      normalise_points(sample.points);
      out = std::transform(sample.points.values.begin(), sample.points.values.end(), out,
                           [](double value) { return static_cast<float>(value); });
      labels.mutable_data_ptr<int64_t>()[i] = sample.label;
    }
    Batch batch;
    batch.inputs.arrays.emplace(input_.name, std::move(values));
    batch.targets.emplace(output_, std::move(labels));
    return batch;
  }

  const Recipe& recipe_;
  const PointRecipe& own_;
  InputSpec input_;
  std::string output_;
  int64_t classes_;
  int64_t points_;
  mutable BadSamples bad_train_, bad_test_;
  std::unique_ptr<PointSource> train_, test_;
  std::optional<EpochOrder> order_;
};

std::filesystem::path existing_path(Fields& fields, const std::string& key,
                                    const std::filesystem::path& folder) {
  const std::filesystem::path path = resolve_path(fields.text(key, ""), folder);
  std::error_code ignored;
  return std::filesystem::is_directory(path, ignored) ? existing_folder(fields, key, folder)
                                                      : existing_file(fields, key, folder);
}

PointDataSpec read_points(Fields fields, const std::filesystem::path& folder) {
  PointDataSpec data;
  const bool has_folder = fields.has("folder");
  const bool has_lists = fields.has("train") || fields.has("test");
  const bool generated = fields.has("generated");
  if (has_folder + has_lists + generated != 1) {
    throw Error(ErrorCode::kFormat,
                cat(fields.where("folder"), ": give exactly one of folder (<class>/train/*.off, ",
                    "<class>/test/*.off), train and test (folders <class>/*.off or lists of ",
                    "path,class), generated"));
  }
  if (has_folder) {
    data.folder = existing_folder(fields, "folder", folder);
  } else if (has_lists) {
    data.train = existing_path(fields, "train", folder);
    data.test = existing_path(fields, "test", folder);
  } else {
    Fields solids = fields.object("generated");
    data.train_examples = solids.integer("train_examples", 4096, 1, 1 << 24);
    data.test_examples = solids.integer("test_examples", 512, 1, 1 << 24);
    data.noise = solids.number("noise", data.noise, 0, 1e3);
    solids.finish();
  }
  data.points = fields.integer("points", 0, 0, 1 << 24);
  data.point_scale = fields.number("point_scale", data.point_scale, 0, 0.9);
  fields.finish();
  return data;
}

}  // namespace

std::unique_ptr<Task> PointRecipe::make(const Recipe& recipe, const ModelSpec& model,
                                        TaskData part) const {
  return std::make_unique<PointTask>(recipe, *this, model, part);
}

std::shared_ptr<const TaskRecipe> read_point_recipe(Fields& fields,
                                                    const std::filesystem::path& folder) {
  auto recipe = std::make_shared<PointRecipe>();
  recipe->data = read_points(fields.object("data"), folder);
  recipe->label_smoothing = fields.number("label_smoothing", 0, 0, 1);
  return recipe;
}

}  // namespace perceiver::train
