#include "perceiver/tasks/text.h"

#include <algorithm>
#include <utility>

#include <nlohmann/json.hpp>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/io/bytes_tokenizer.h"

namespace perceiver::tasks {
namespace {

using io::ByteVocabulary;

constexpr std::string_view kMaskText = "[MASK]";

std::string model_name(const Bundle& bundle) {
  const std::string name = bundle.spec.name.empty() ? bundle.path.string() : bundle.spec.name;
  return cat("model \"", printable(name), "\"");
}

ModelInputs text_inputs(const ModelSpec& spec, const std::vector<int64_t>& ids) {
  ModelInputs inputs;
  inputs.arrays[spec.inputs.at(0).name] =
      Array::of<int64_t>({1, static_cast<int64_t>(ids.size())}, ids);
  return inputs;
}

// Probabilities [positions][vocabulary] of the asked rows.
std::vector<std::vector<double>> read_masks(Engine& engine, const std::vector<int64_t>& ids,
                                            const std::vector<int64_t>& positions) {
  const ModelSpec& spec = engine.spec();
  const std::string& output = spec.outputs.at(0).name;
  OutputRequest request;
  request.points[output] = positions;
  const ArrayMap answers = engine.forward(text_inputs(spec, ids), request);
  const Array logits = answers.at(output).to(DType::kF32);
  const int64_t classes = logits.size(-1);
  std::vector<std::vector<double>> rows;
  for (size_t i = 0; i < positions.size(); ++i) {
    rows.push_back(softmax(logits.data<float>() + static_cast<int64_t>(i) * classes, classes));
  }
  return rows;
}

MaskedByte describe(int64_t position, const std::vector<double>& probability, int64_t top) {
  MaskedByte mask{position, {}, 0};
  std::vector<int64_t> order(probability.size());
  for (size_t i = 0; i < order.size(); ++i) {
    order[i] = static_cast<int64_t>(i);
  }
  const auto likelier = [&](int64_t a, int64_t b) {
    return probability[static_cast<size_t>(a)] > probability[static_cast<size_t>(b)];
  };
  std::stable_sort(order.begin(), order.end(), likelier);
  mask.filled_with = *std::find_if(order.begin(), order.end(),
                                   [](int64_t id) { return id >= ByteVocabulary::kNumSpecial; });
  const auto kept = std::min<size_t>(static_cast<size_t>(std::max<int64_t>(top, 0)), order.size());
  for (size_t i = 0; i < kept; ++i) {
    mask.candidates.push_back(
        {order[i], io::token_name(order[i]), probability[static_cast<size_t>(order[i])]});
  }
  return mask;
}

std::vector<MaskedByte> fill_together(Engine& engine, std::vector<int64_t>& ids,
                                      const std::vector<int64_t>& positions,
                                      const FillMaskOptions& options) {
  const auto rows = read_masks(engine, ids, positions);
  std::vector<MaskedByte> masks;
  for (size_t i = 0; i < positions.size(); ++i) {
    masks.push_back(describe(positions[i], rows[i], options.top));
    ids[static_cast<size_t>(positions[i])] = masks.back().filled_with;
  }
  return masks;
}

std::vector<MaskedByte> fill_one_by_one(Engine& engine, std::vector<int64_t>& ids,
                                        std::vector<int64_t> positions,
                                        const FillMaskOptions& options) {
  const auto total = static_cast<int64_t>(positions.size());
  std::vector<MaskedByte> masks;
  while (!positions.empty()) {
    const auto rows = read_masks(engine, ids, positions);
    size_t surest = 0;
    double best = -1;
    for (size_t i = 0; i < rows.size(); ++i) {
      const double p =
          *std::max_element(rows[i].begin() + ByteVocabulary::kNumSpecial, rows[i].end());
      if (p > best) {
        best = p;
        surest = i;
      }
    }
    masks.push_back(describe(positions[surest], rows[surest], options.top));
    ids[static_cast<size_t>(positions[surest])] = masks.back().filled_with;
    positions.erase(positions.begin() + static_cast<std::ptrdiff_t>(surest));
    if (options.progress) {
      options.progress({"bytes", total - static_cast<int64_t>(positions.size()), total, ""});
    }
  }
  std::sort(masks.begin(), masks.end(),
            [](const MaskedByte& a, const MaskedByte& b) { return a.position < b.position; });
  return masks;
}

io::EncodedText tokenize(const Bundle& bundle, std::string_view text) {
  io::EncodeOptions options;
  options.add_special_tokens = adds_special_tokens(bundle);
  options.max_length = bundle.spec.inputs.at(0).index_dims.at(0);
  io::EncodedText encoded = io::encode_text(text, options);
  if (encoded.ids.empty()) {
    throw Error(ErrorCode::kArgument, "the text is empty");
  }
  return encoded;
}

}  // namespace

bool reads_text(const ModelSpec& spec) {
  return spec.inputs.size() == 1 && spec.inputs[0].kind == InputKind::kText &&
         spec.inputs[0].vocab_size == ByteVocabulary::kSize;
}

bool is_masked_language_model(const ModelSpec& spec) {
  return reads_text(spec) && spec.outputs.size() == 1 && !spec.outputs[0].single_row &&
         spec.outputs[0].index_dims == spec.inputs[0].index_dims &&
         spec.outputs[0].head == HeadKind::kTiedEmbedding;
}

bool is_text_classifier(const ModelSpec& spec) {
  return reads_text(spec) && spec.outputs.size() == 1 && spec.outputs[0].single_row;
}

bool adds_special_tokens(const Bundle& bundle) {
  if (bundle.preprocessor && bundle.preprocessor->contains("add_special_tokens")) {
    const Json& value = bundle.preprocessor->at("add_special_tokens");
    if (!value.is_boolean()) {
      throw Error(ErrorCode::kFormat, cat((bundle.path / "preprocessor_config.json").string(),
                                          ": \"add_special_tokens\" must be true or false"));
    }
    return value.get<bool>();
  }
  return !bundle.spec.architecture.empty() &&
         bundle.spec.compatibility.masked_rows == MaskedRows::kMean;
}

FilledText fill_mask(const Bundle& bundle, Engine& engine, std::string_view text,
                     const FillMaskOptions& options) {
  if (!is_masked_language_model(bundle.spec)) {
    throw Error(ErrorCode::kArgument,
                cat(model_name(bundle),
                    " does not predict bytes of text; fill-mask needs a masked "
                    "language model"));
  }
  io::EncodedText encoded = tokenize(bundle, text);
  const std::vector<int64_t> positions = encoded.mask_positions();
  if (positions.empty()) {
    throw Error(ErrorCode::kArgument,
                "the text holds no [MASK]; write one [MASK] for each byte to be filled in");
  }
  FilledText result;
  result.given = std::string(text);
  result.masks = options.one_by_one ? fill_one_by_one(engine, encoded.ids, positions, options)
                                    : fill_together(engine, encoded.ids, positions, options);
  result.filled = io::decode_text(encoded.ids, true);
  return result;
}

std::string hide(std::string_view text, std::string_view part) {
  if (part.empty() || text.find(part) == std::string_view::npos) {
    throw Error(ErrorCode::kArgument, cat("\"", printable(part), "\" does not occur in the text"));
  }
  std::string out;
  size_t from = 0;
  for (size_t at = text.find(part); at != std::string_view::npos; at = text.find(part, from)) {
    out += text.substr(from, at - from);
    for (size_t i = 0; i < part.size(); ++i) {
      out += kMaskText;
    }
    from = at + part.size();
  }
  return out + std::string(text.substr(from));
}

std::string widen_masks(std::string_view text, int64_t count) {
  std::string out;
  size_t from = 0;
  for (size_t at = text.find(kMaskText); at != std::string_view::npos;
       at = text.find(kMaskText, from)) {
    out += text.substr(from, at - from);
    for (int64_t i = 0; i < count; ++i) {
      out += kMaskText;
    }
    from = at + kMaskText.size();
  }
  return out + std::string(text.substr(from));
}

std::vector<Ranked> classify_text(const Bundle& bundle, Engine& engine, std::string_view text,
                                  int64_t top) {
  if (!is_text_classifier(bundle.spec)) {
    throw Error(ErrorCode::kArgument, cat(model_name(bundle), " is no text classifier"));
  }
  const io::EncodedText encoded = tokenize(bundle, text);
  const ArrayMap answers = engine.forward(text_inputs(bundle.spec, encoded.ids));
  const Array logits = answers.at(bundle.spec.outputs.at(0).name).to(DType::kF32);
  return rank_classes(logits.data<float>(), logits.size(-1), top, bundle.spec.labels);
}

}  // namespace perceiver::tasks
