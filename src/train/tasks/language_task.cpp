#include "train/tasks/language_task.h"

#include <algorithm>
#include <numbers>
#include <optional>

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/io/bytes_tokenizer.h"
#include "train/data/masking.h"
#include "train/data/text_corpus.h"
#include "train/losses.h"
#include "train/random.h"
#include "train/tasks/text_fields.h"

namespace perceiver::train {
namespace {

using io::ByteVocabulary;

constexpr const char* kTask = "masked_language_model";
constexpr int64_t kFrame = 2;  // [CLS] text [SEP]
constexpr int64_t kTestBatch = 32;
// Measured always in the same way, whatever the recipe trains on, so that models compare.
constexpr double kTestRate = 0.15;

// Original ids, ids with [MASK], and which are hidden: [B, T] each.
struct MaskedBatch {
  at::Tensor original, shown, hidden;

  MaskedBatch(int64_t count, int64_t length)
      : original(at::empty({count, length}, at::kLong)),
        shown(at::empty({count, length}, at::kLong)),
        hidden(at::zeros({count, length}, at::kBool)) {}

  void fill(int64_t row, std::string_view text, const std::vector<uint8_t>& masked) {
    const int64_t length = original.size(1);
    int64_t* ids = original.mutable_data_ptr<int64_t>() + row * length;
    int64_t* seen = shown.mutable_data_ptr<int64_t>() + row * length;
    bool* flags = hidden.mutable_data_ptr<bool>() + row * length;
    ids[0] = seen[0] = ByteVocabulary::kCls;
    ids[length - 1] = seen[length - 1] = ByteVocabulary::kSep;
    for (size_t i = 0; i < text.size(); ++i) {
      ids[i + 1] = static_cast<unsigned char>(text[i]) + ByteVocabulary::kNumSpecial;
      seen[i + 1] = masked[i] != 0 ? ByteVocabulary::kMask : ids[i + 1];
      flags[i + 1] = masked[i] != 0;
    }
  }
};

class LanguageTask : public Task {
 public:
  LanguageTask(const Recipe& recipe, const LanguageRecipe& own, const ModelSpec& model)
      : recipe_(recipe),
        own_(own),
        input_(only_input(model, InputKind::kText, kTask)),
        output_(only_output(model, kTask).name),
        window_(input_.index_dims.at(0) - kFrame) {
    if (input_.vocab_size != ByteVocabulary::kSize) {
      throw Error(ErrorCode::kArgument, cat(kTask, " reads bytes: the model's vocabulary must be ",
                                            ByteVocabulary::kSize, ", is ", input_.vocab_size));
    }
    if (window_ < own.text.short_minimum) {
      throw Error(ErrorCode::kArgument,
                  cat(printable(recipe.path.string()), ": data.short_minimum is ",
                      own.text.short_minimum, " bytes, the model reads ", window_));
    }
    corpus_.emplace(own.text, window_);
    test_ = corpus_->held_out(window_);
    if (test_.empty()) {
      throw Error(ErrorCode::kArgument,
                  cat(printable(recipe.path.string()), ": data.held_out leaves ", "less than ",
                      window_, " bytes of every file"));
    }
  }

  Batch training_batch(int64_t index) override {
    Random lengths{recipe_.seed, kOrder, static_cast<uint64_t>(index)};
    int64_t length = window_;
    if (lengths.uniform() < own_.text.short_fraction) {
      length = own_.text.short_minimum + lengths.below(window_ - own_.text.short_minimum + 1);
    }
    MaskedBatch masked(recipe_.batch_size, length + kFrame);
    for (int64_t i = 0; i < recipe_.batch_size; ++i) {
      const auto drawn = static_cast<uint64_t>(index * recipe_.batch_size + i);
      Random window_random{recipe_.seed, kWindow, drawn};
      const std::string_view text = corpus_->draw(length, window_random);
      Random mask_random{recipe_.seed, kMask, drawn};
      const MaskKind kind = draw_mask_kind(own_.masking, mask_random);
      masked.fill(i, text, choose_masked(kind, own_.masking, text, mask_random));
    }
    return make_batch(masked);
  }

  // One mean runs over the hidden bytes, one over those that are not.
  Counts counts(const Batch& batch) const override {
    const auto hidden = batch.mask.sum().item<double>();
    return {hidden, static_cast<double>(batch.mask.numel()) - hidden};
  }

  at::Tensor loss(const nn::TensorMap& outputs, const Batch& batch,
                  const Shares& shares) const override {
    const at::Tensor& logits = outputs.at(output_);
    const at::Tensor hidden =
        masked_cross_entropy(logits, batch.targets.at(output_), batch.mask).mul(shares.at(0));
    if (own_.masking.visible_weight == 0) {
      return hidden;
    }
    const at::Tensor visible =
        masked_cross_entropy(logits, batch.targets.at(output_), batch.mask.logical_not());
    return hidden.add(visible.mul(shares.at(1)), own_.masking.visible_weight);
  }

  int64_t test_examples() const override { return static_cast<int64_t>(test_.size()); }

  Metrics evaluate(nn::Model& model, int64_t limit, const ProgressFn& progress) const override {
    Metrics metrics;
    measure(model, MaskKind::kBytes, limit, progress, "byte", metrics);
    measure(model, MaskKind::kWords, limit, progress, "word", metrics);
    return metrics;
  }

 private:
  Batch make_batch(const MaskedBatch& masked) const {
    Batch batch;
    batch.inputs.arrays.emplace(input_.name, masked.shown);
    batch.targets.emplace(output_, masked.original);
    batch.mask = masked.hidden;
    return batch;
  }

  void measure(nn::Model& model, MaskKind kind, int64_t limit, const ProgressFn& progress,
               const std::string& name, Metrics& metrics) const {
    const c10::AutoGradMode no_gradients(false);
    MaskingSpec spec;
    spec.rate = kTestRate;
    const int64_t count = limit > 0 ? std::min(limit, test_examples()) : test_examples();
    double nats = 0;
    double correct = 0;
    double places = 0;
    for (int64_t begin = 0; begin < count; begin += kTestBatch) {
      const int64_t end = std::min(begin + kTestBatch, count);
      MaskedBatch masked(end - begin, window_ + kFrame);
      for (int64_t i = begin; i < end; ++i) {
        Random random{kTestMask, static_cast<uint64_t>(kind), static_cast<uint64_t>(i)};
        const std::string_view text = test_[static_cast<size_t>(i)];
        masked.fill(i - begin, text, choose_masked(kind, spec, text, random));
      }
      const Batch batch = make_batch(masked);
      const at::Tensor logits = model.forward(batch.inputs, batch.request).at(output_);
      const auto hidden = batch.mask.sum().item<double>();
      places += hidden;
      nats += masked_cross_entropy(logits, batch.targets.at(output_), batch.mask).item<double>() *
              hidden;
      correct += count_correct(masked_rows(logits, batch.mask),
                               masked_rows(batch.targets.at(output_), batch.mask));
      if (progress) {
        progress({"evaluate", end, count, name});
      }
    }
    const double n = std::max(1.0, places);
    metrics.emplace_back(name + "_bits", nats / n / std::numbers::ln2);
    metrics.emplace_back(name + "_accuracy", correct / n);
    metrics.emplace_back(name + "_places", places);
  }

  const Recipe& recipe_;
  const LanguageRecipe& own_;
  InputSpec input_;
  std::string output_;
  int64_t window_ = 0;  // bytes of text in a full example
  std::optional<TextCorpus> corpus_;
  std::vector<std::string_view> test_;
};

TextDataSpec read_text(Fields fields, const std::filesystem::path& folder) {
  TextDataSpec text;
  text.files = read_text_files(fields, folder);
  text.held_out = fields.number("held_out", text.held_out, 0, 0.9);
  text.short_fraction = fields.number("short_fraction", 0, 0, 1);
  text.short_minimum = fields.integer("short_minimum", text.short_minimum, 1, 1 << 30);
  fields.finish();
  return text;
}

MaskingSpec read_masking(Fields fields) {
  MaskingSpec masking;
  masking.rate = fields.number("rate", masking.rate, 1e-6, 1);
  masking.byte_weight = fields.number("byte_weight", masking.byte_weight, 0, 1e6);
  masking.word_weight = fields.number("word_weight", masking.word_weight, 0, 1e6);
  masking.span_weight = fields.number("span_weight", masking.span_weight, 0, 1e6);
  masking.span_length = fields.number("span_length", masking.span_length, 1, 1e6);
  masking.visible_weight = fields.number("visible_weight", 0, 0, 1e6);
  fields.finish();
  if (masking.byte_weight + masking.word_weight + masking.span_weight <= 0) {
    throw Error(ErrorCode::kArgument, cat(fields.where("byte_weight"),
                                          ", word_weight and "
                                          "span_weight are all 0: nothing would be masked"));
  }
  return masking;
}

}  // namespace

std::unique_ptr<Task> LanguageRecipe::make(const Recipe& recipe, const ModelSpec& model,
                                           TaskData /*part*/) const {
  return std::make_unique<LanguageTask>(recipe, *this, model);
}

std::shared_ptr<const TaskRecipe> read_language_recipe(Fields& fields,
                                                       const std::filesystem::path& folder) {
  auto recipe = std::make_shared<LanguageRecipe>();
  recipe->text = read_text(fields.object("data"), folder);
  recipe->masking = read_masking(fields.object("masking"));
  return recipe;
}

}  // namespace perceiver::train
