#include "train/tasks/token_labelling_task.h"

#include <algorithm>
#include <functional>
#include <numeric>

#include <ATen/ops/zeros_like.h>
#include <c10/core/GradMode.h>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/io/bytes_tokenizer.h"
#include "perceiver/tasks/text.h"
#include "train/data/epoch_order.h"
#include "train/data/padded_ids.h"
#include "train/losses.h"
#include "train/random.h"
#include "train/scores.h"
#include "train/tasks/text_fields.h"

namespace perceiver::train {
namespace {

using io::ByteVocabulary;

constexpr const char* kTask = "token_labelling";
constexpr int64_t kTestBatch = 32;
constexpr int64_t kMaxExamples = int64_t{1} << 24;
constexpr int64_t kShortest = 32;  // bytes of a generated text
constexpr int64_t kByteValues = 256;

class TokenLabellingTask : public Task {
 public:
  TokenLabellingTask(const Recipe& recipe, const TokenLabellingRecipe& own, const ModelSpec& model,
                     TaskData part)
      : recipe_(recipe),
        own_(own),
        input_(only_input(model, InputKind::kText, kTask)),
        output_(only_output(model, kTask)),
        classes_(static_cast<int64_t>(own.labels.size())) {
    check_model(model);
    special_tokens_ = tasks::adds_special_tokens({model, {}, recipe.preprocessor, recipe.path});
    bytes_ = input_.index_dims.at(0) - 2 * first_token();
    bad_.limit = recipe.skip_bad;
    const bool training = part == TaskData::kTrainAndTest;
    if (own.generated) {
      generate(training);
    } else {
      read(training);
    }
    if (training) {
      order_.emplace(recipe.seed, static_cast<int64_t>(train_.size()));
    }
  }

  Batch training_batch(int64_t index) override {
    std::vector<const LabelledText*> texts;
    for (int64_t i = 0; i < recipe_.batch_size; ++i) {
      const int64_t at = order_->at(index * recipe_.batch_size + i);
      texts.push_back(&train_[static_cast<size_t>(at)]);
    }
    return make_batch(texts);
  }

  // The mean runs over the bytes that have a label.
  Counts counts(const Batch& batch) const override { return {batch.mask.sum().item<double>()}; }

  at::Tensor loss(const nn::TensorMap& outputs, const Batch& batch,
                  const Shares& shares) const override {
    return masked_cross_entropy(outputs.at(output_.name), batch.targets.at(output_.name),
                                batch.mask)
        .mul(shares.at(0));
  }

  int64_t skipped() const override { return bad_.skipped; }
  int64_t test_examples() const override { return static_cast<int64_t>(test_.size()); }

  // Beside the model stand two answers that see no context: the most frequent class, and the most
  // frequent class of each byte value, both counted on the test part itself.
  Metrics evaluate(nn::Model& model, int64_t limit, const ProgressFn& progress) const override {
    const c10::AutoGradMode no_gradients(false);
    const int64_t count = limit > 0 ? std::min(limit, test_examples()) : test_examples();
    Confusion confusion(classes_);
    for (int64_t begin = 0; begin < count; begin += kTestBatch) {
      const int64_t end = std::min(begin + kTestBatch, count);
      std::vector<const LabelledText*> texts;
      for (int64_t i = begin; i < end; ++i) {
        texts.push_back(&test_[static_cast<size_t>(i)]);
      }
      const Batch batch = make_batch(texts);
      const at::Tensor logits = model.forward(batch.inputs, batch.request).at(output_.name);
      add(confusion, masked_rows(logits, batch.mask).argmax(-1),
          masked_rows(batch.targets.at(output_.name), batch.mask));
      if (progress) {
        progress({"evaluate", end, count, ""});
      }
    }
    Metrics metrics{{"accuracy", confusion.accuracy()}, {"macro_f1", confusion.macro_f1()}};
    add_trivial(count, metrics);
    return metrics;
  }

 private:
  int64_t first_token() const { return special_tokens_ ? 1 : 0; }

  void check_model(const ModelSpec& model) const {
    if (input_.vocab_size != ByteVocabulary::kSize) {
      throw Error(ErrorCode::kArgument, cat(kTask, " reads bytes: the model's vocabulary must be ",
                                            ByteVocabulary::kSize, ", is ", input_.vocab_size));
    }
    if (output_width(model, output_) != classes_) {
      throw Error(ErrorCode::kArgument,
                  cat("output ", printable(output_.name), " has ", output_width(model, output_),
                      " channels, data.labels has ", classes_, " classes"));
    }
    if (output_.single_row || !(follows_tokens() || output_.index_dims == input_.index_dims)) {
      throw Error(ErrorCode::kArgument,
                  cat(kTask, " needs a row for each token: queries that are the input's tokens or ",
                      shape_string(input_.index_dims), " learned ones; output ",
                      printable(output_.name), " has ", shape_string(output_.index_dims)));
    }
  }

  bool follows_tokens() const {
    return output_.query == QueryKind::kInputTokens || output_.query == QueryKind::kInputContent;
  }

  void read(bool training) {
    const TokenFileFormat format{own_.labels, own_.first_byte_only, bytes_};
    test_ = read_labelled_text(own_.test, format, bad_);
    if (training) {
      train_ = read_labelled_text(own_.train, format, bad_);
    }
  }

  void generate(bool training) {
    if (bytes_ < kShortest) {
      throw Error(ErrorCode::kArgument, cat(kTask, ": generated texts need a model of ", kShortest,
                                            " bytes, it reads ", bytes_));
    }
    const GeneratedLabels& made = *own_.generated;
    const TextCorpus corpus(made.text, bytes_);
    const std::vector<std::string_view> pieces = corpus.held_out(bytes_);
    if (pieces.empty()) {
      throw Error(ErrorCode::kArgument,
                  cat(printable(recipe_.path.string()), ": data.held_out leaves less than ", bytes_,
                      " bytes of every file"));
    }
    const auto text_of = [&](Random& random, std::string_view plain) {
      const int64_t length = kShortest + random.below(bytes_ - kShortest + 1);
      return label_text(made.question, plain, length, random);
    };
    for (int64_t i = 0; i < made.test_examples; ++i) {
      Random random{0, kTokenLabels, 1, static_cast<uint64_t>(i)};  // the same for every seed
      test_.push_back(text_of(random, pieces[static_cast<size_t>(i) % pieces.size()]));
    }
    for (int64_t i = 0; training && i < made.train_examples; ++i) {
      Random random{recipe_.seed, kTokenLabels, 0, static_cast<uint64_t>(i)};
      const std::string_view plain = corpus.draw(bytes_, random);
      train_.push_back(text_of(random, plain));
    }
  }

  Batch make_batch(const std::vector<const LabelledText*>& texts) const {
    std::vector<std::vector<int64_t>> rows;
    for (const LabelledText* labelled : texts) {
      io::EncodeOptions options;
      options.add_special_tokens = special_tokens_;
      options.read_special_tokens = false;
      options.max_length = input_.index_dims[0];
      rows.push_back(io::encode_text(labelled->text, options).ids);
    }
    PaddedIds padded = pad_ids(rows);
    const int64_t length = padded.ids.size(1);
    Batch batch;
    batch.mask = at::zeros_like(padded.mask);
    at::Tensor targets = at::zeros_like(padded.ids);
    for (size_t row = 0; row < texts.size(); ++row) {
      const auto offset = static_cast<int64_t>(row) * length + first_token();
      bool* asked = batch.mask.mutable_data_ptr<bool>() + offset;
      int64_t* classes = targets.mutable_data_ptr<int64_t>() + offset;
      for (const int64_t label : texts[row]->labels) {
        *asked++ = label >= 0;
        *classes++ = std::max<int64_t>(0, label);
      }
    }
    if (!follows_tokens()) {
      std::vector<int64_t>& rows_asked = batch.request.points[output_.name];
      rows_asked.resize(static_cast<size_t>(length));
      std::iota(rows_asked.begin(), rows_asked.end(), 0);
    }
    batch.targets.emplace(output_.name, std::move(targets));
    batch.inputs.arrays.emplace(input_.name, std::move(padded.ids));
    batch.inputs.masks.emplace(input_.name, std::move(padded.mask));
    return batch;
  }

  static void add(Confusion& confusion, const at::Tensor& answered, const at::Tensor& wanted) {
    const int64_t* answers = answered.const_data_ptr<int64_t>();
    const int64_t* truth = wanted.const_data_ptr<int64_t>();
    for (int64_t i = 0; i < wanted.numel(); ++i) {
      confusion.add(truth[i], answers[i]);
    }
  }

  void add_trivial(int64_t count, Metrics& metrics) const {
    std::vector<std::vector<double>> of_byte(kByteValues,
                                             std::vector<double>(own_.labels.size(), 0));
    for (int64_t i = 0; i < count; ++i) {
      const LabelledText& labelled = test_[static_cast<size_t>(i)];
      for (size_t at = 0; at < labelled.text.size(); ++at) {
        if (labelled.labels[at] >= 0) {
          ++of_byte[static_cast<unsigned char>(labelled.text[at])]
                   [static_cast<size_t>(labelled.labels[at])];
        }
      }
    }
    std::vector<double> of_class(own_.labels.size(), 0);
    double by_byte = 0;
    for (const std::vector<double>& counts : of_byte) {
      by_byte += *std::max_element(counts.begin(), counts.end());
      std::transform(counts.begin(), counts.end(), of_class.begin(), of_class.begin(),
                     std::plus<>());
    }
    const double all = std::max(1.0, std::accumulate(of_class.begin(), of_class.end(), 0.0));
    metrics.emplace_back("majority", *std::max_element(of_class.begin(), of_class.end()) / all);
    metrics.emplace_back("majority_of_byte", by_byte / all);
  }

  const Recipe& recipe_;
  const TokenLabellingRecipe& own_;
  InputSpec input_;
  OutputSpec output_;
  int64_t classes_ = 0;
  bool special_tokens_ = false;
  int64_t bytes_ = 0;  // of text in a full example
  BadRows bad_;
  std::vector<LabelledText> train_, test_;
  std::optional<EpochOrder> order_;
};

GeneratedLabels read_generated(Fields& fields, const std::filesystem::path& folder) {
  GeneratedLabels made;
  made.question = fields.choice("generate", 0, {"quoted", "repeated"}) == 0
                      ? LabelQuestion::kQuoted
                      : LabelQuestion::kRepeated;
  made.text.files = read_text_files(fields, folder);
  made.text.held_out = fields.number("held_out", made.text.held_out, 1e-6, 0.9);
  made.train_examples = fields.integer("train_examples", 20000, 1, kMaxExamples);
  made.test_examples = fields.integer("test_examples", 500, 1, kMaxExamples);
  return made;
}

}  // namespace

std::unique_ptr<Task> TokenLabellingRecipe::make(const Recipe& recipe, const ModelSpec& model,
                                                 TaskData part) const {
  return std::make_unique<TokenLabellingTask>(recipe, *this, model, part);
}

std::shared_ptr<const TaskRecipe> read_token_labelling_recipe(Fields& fields,
                                                              const std::filesystem::path& folder) {
  auto recipe = std::make_shared<TokenLabellingRecipe>();
  Fields data = fields.object("data");
  if (data.has("generate")) {
    recipe->generated = read_generated(data, folder);
    recipe->labels = recipe->generated->question == LabelQuestion::kQuoted
                         ? std::vector<std::string>{"outside", "inside"}
                         : std::vector<std::string>{"new", "repeated"};
  } else {
    recipe->train = existing_file(data, "train", folder);
    recipe->test = existing_file(data, "test", folder);
    recipe->labels = read_label_words(data);
    recipe->first_byte_only = data.choice("label_bytes", 0, {"all", "first"}) == 1;
  }
  data.finish();
  return recipe;
}

}  // namespace perceiver::train
