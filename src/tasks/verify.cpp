#include "perceiver/tasks/verify.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/io/bytes_tokenizer.h"
#include "perceiver/io/image.h"
#include "perceiver/spec/parameters.h"
#include "perceiver/spec/presets.h"
#include "perceiver/tasks/flow.h"
#include "perceiver/tasks/image.h"
#include "perceiver/tasks/text.h"

namespace perceiver::tasks {
namespace {

// The published values carry four decimals; this is the tolerance they were published with.
constexpr double kTolerance = 1e-4;
constexpr const char* kSentence = "This is an incomplete sentence where some words are missing.";

std::string four_decimals(const std::vector<double>& values) {
  std::string out;
  for (const double value : values) {
    char buffer[32];
    std::snprintf(buffer, sizeof buffer, "%.4f", value);
    out += (out.empty() ? "" : " ") + std::string(buffer);
  }
  return out;
}

KnownAnswer compare(const std::string& what, const std::vector<double>& expected,
                    const std::vector<double>& got) {
  bool same = expected.size() == got.size();
  for (size_t i = 0; same && i < expected.size(); ++i) {
    // The comparison is written so that a NaN fails it.
    same = std::abs(expected[i] - got[i]) <= kTolerance;
  }
  return {what, four_decimals(expected), four_decimals(got),
          same ? CheckResult::kPass : CheckResult::kFail};
}

KnownAnswer compare_text(const std::string& what, const std::string& expected,
                         const std::string& got) {
  return {what, expected, got, expected == got ? CheckResult::kPass : CheckResult::kFail};
}

KnownAnswer skipped(const std::string& what, const std::string& why) {
  return {what, "", why, CheckResult::kSkipped};
}

// Logits of `rows` [rows][262] for the sentence with bytes [begin, end) of it masked.
std::vector<std::vector<double>> language_rows(const Bundle& bundle, Engine& engine, int64_t begin,
                                               int64_t end, const std::vector<int64_t>& rows) {
  io::EncodeOptions options;
  options.add_special_tokens = adds_special_tokens(bundle);
  io::EncodedText encoded = io::encode_text(kSentence, options);
  std::fill(encoded.ids.begin() + begin, encoded.ids.begin() + end, io::ByteVocabulary::kMask);
  ModelInputs inputs;
  inputs.arrays[bundle.spec.inputs.at(0).name] =
      Array::of<int64_t>({1, static_cast<int64_t>(encoded.ids.size())}, encoded.ids);
  OutputRequest request;
  const std::string& output = bundle.spec.outputs.at(0).name;
  request.points[output] = rows;
  const Array logits = engine.forward(inputs, request).at(output).to(DType::kF32);
  const int64_t width = logits.size(-1);
  std::vector<std::vector<double>> out;
  for (size_t i = 0; i < rows.size(); ++i) {
    const float* row = logits.data<float>() + static_cast<int64_t>(i) * width;
    out.emplace_back(row, row + width);
  }
  return out;
}

std::vector<int64_t> range(int64_t begin, int64_t end) {
  std::vector<int64_t> out(static_cast<size_t>(end - begin));
  std::iota(out.begin(), out.end(), begin);
  return out;
}

std::vector<double> corner(const std::vector<std::vector<double>>& rows) {
  std::vector<double> out;
  for (const auto& row : rows) {
    out.insert(out.end(), row.begin(), row.begin() + 3);
  }
  return out;
}

std::string likeliest_bytes(const std::vector<std::vector<double>>& rows) {
  std::vector<int64_t> ids;
  for (const auto& row : rows) {
    ids.push_back(std::max_element(row.begin(), row.end()) - row.begin());
  }
  return io::decode_text(ids);
}

std::vector<KnownAnswer> verify_language(const Bundle& bundle, Engine& engine) {
  const int64_t offset = adds_special_tokens(bundle) ? 1 : 0;
  const int64_t begin = 51 + offset;
  std::vector<KnownAnswer> answers;
  answers.push_back(compare_text(
      "\" missing.\" hidden: likeliest bytes", " missing.",
      likeliest_bytes(language_rows(bundle, engine, begin, begin + 9, range(begin, begin + 9)))));
  if (offset == 0) {
    return answers;  // nothing else is published about DeepMind's form
  }
  answers.push_back(compare(
      "logits[0, :3, :3], tokens 52 to 60 masked",
      {-10.8609, -10.7651, -10.9187, -12.1689, -11.9389, -12.1479, -12.1518, -11.9707, -12.2073},
      corner(language_rows(bundle, engine, 52, 61, {0, 1, 2}))));
  answers.push_back(compare(
      "logits[0, :3, :3], tokens 51 to 59 masked",
      {-11.8336, -11.6850, -11.8483, -12.8149, -12.5863, -12.7904, -12.8440, -12.6410, -12.8646},
      corner(language_rows(bundle, engine, 51, 60, {0, 1, 2}))));
  return answers;
}

std::vector<double> known_vision_logits(const std::string& architecture) {
  if (architecture == "PerceiverForImageClassificationLearned") {
    return {-1.1652, -0.1992, -0.7520};
  }
  if (architecture == "PerceiverForImageClassificationFourier") {
    return {-1.1295, -0.2832, 0.3226};
  }
  return {-1.1186, 0.0554, 0.0897};
}

std::vector<KnownAnswer> verify_vision(const Bundle& bundle, Engine& engine,
                                       const VerifyInputs& inputs) {
  const std::string what = "COCO 000000039769: logits[0, :3]";
  if (inputs.image.empty()) {
    return {skipped(what, "needs the picture: --image 000000039769.jpg")};
  }
  ClassifyImageOptions options;
  options.top = bundle.spec.decoder.output_channels;
  const ImageAnswer answer = classify_image(bundle, engine, io::read_image(inputs.image), options);
  std::vector<double> first(3, NAN);
  for (const Ranked& ranked : answer.classes) {
    if (ranked.index < 3) {
      first[static_cast<size_t>(ranked.index)] = ranked.logit;
    }
  }
  constexpr int64_t kTabby = 281;  // "tabby, tabby cat" of ImageNet's 1000 classes
  return {compare(what, known_vision_logits(bundle.spec.architecture), first),
          compare_text("COCO 000000039769: class", cat("class ", kTabby),
                       cat("class ", answer.classes.at(0).index))};
}

std::vector<KnownAnswer> verify_flow(const Bundle& bundle, Engine& engine,
                                     const VerifyInputs& inputs) {
  const std::string what = "the same frame twice: flow[0, :3, :3]";
  if (inputs.frame.empty()) {
    return {skipped(what, "needs the Sintel frame of transformers' test: --frame FILE")};
  }
  const Array flow = raw_flow_tile(bundle, engine, io::read_image(inputs.frame));
  std::vector<double> got;
  for (int64_t y = 0; y < 3; ++y) {
    const float* row = flow.data<float>() + y * flow.size(1) * 2;
    got.insert(got.end(), row, row + 6);
  }
  return {compare(what,
                  {.0025, -.0050, .0025, -.0049, .0025, -.0048, .0026, -.0049, .0026, -.0048, .0026,
                   -.0047, .0026, -.0049, .0026, -.0048, .0026, -.0046},
                  got)};
}

std::string preset_of(const std::string& architecture) {
  for (const PresetInfo& info : preset_list()) {
    if (!architecture.empty() && preset(info.name).architecture == architecture) {
      return info.name;
    }
  }
  return "";
}

}  // namespace

std::vector<KnownAnswer> verify_known_answers(const Bundle& bundle, Engine& engine,
                                              const VerifyInputs& inputs) {
  const std::string& architecture = bundle.spec.architecture;
  const std::string name = preset_of(architecture);
  if (name.empty() || architecture == "PerceiverForSequenceClassification") {
    throw Error(ErrorCode::kArgument,
                "nothing is published about this model; verify knows the six released ones");
  }
  const int64_t expected = parameter_count(preset(name));
  const int64_t got = parameter_count(bundle.spec);
  std::vector<KnownAnswer> answers{
      compare_text(cat("parameters of ", name), cat(expected), cat(got))};
  if (expected != got) {
    return answers;  // another size of that class: its answers are nobody's
  }
  std::vector<KnownAnswer> more;
  const bool deepmind_form = bundle.spec.compatibility.activation == Activation::kGeluTanh;
  if (deepmind_form && architecture != "PerceiverForMaskedLM") {
    more = {skipped("answers",
                    "published for transformers' form only; convert --compat transformers first")};
  } else if (architecture == "PerceiverForMaskedLM") {
    more = verify_language(bundle, engine);
  } else if (architecture == "PerceiverForOpticalFlow") {
    more = verify_flow(bundle, engine, inputs);
  } else if (architecture == "PerceiverForMultimodalAutoencoding") {
    more = {skipped("answers", "none is published for this model")};
  } else {
    more = verify_vision(bundle, engine, inputs);
  }
  answers.insert(answers.end(), more.begin(), more.end());
  return answers;
}

bool all_pass(const std::vector<KnownAnswer>& answers) {
  const auto has = [&](CheckResult result) {
    return std::any_of(answers.begin(), answers.end(),
                       [&](const KnownAnswer& answer) { return answer.result == result; });
  };
  // The parameter count alone proves nothing about the weights.
  const auto compared =
      std::count_if(answers.begin(), answers.end(),
                    [](const KnownAnswer& answer) { return answer.result == CheckResult::kPass; });
  return !has(CheckResult::kFail) && compared > 1;
}

}  // namespace perceiver::tasks
