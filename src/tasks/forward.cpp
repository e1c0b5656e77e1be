#include "perceiver/tasks/forward.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <set>
#include <utility>
#include <vector>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/spec/model_shape.h"

namespace perceiver::tasks {
namespace {

bool is_integer(DType dtype) {
  switch (dtype) {
    case DType::kF64:
    case DType::kF32:
    case DType::kF16:
    case DType::kBF16:
      return false;
    default:
      return true;
  }
}

// [B, outer, C, inner] -> [B, outer, inner, C] for 4-byte or 8-byte values; `axis` is where C
// stands.
Array move_axis_last(const Array& array, int64_t axis) {
  std::vector<int64_t> shape = array.shape();
  const auto at = static_cast<size_t>(axis);
  int64_t outer = 1;
  int64_t inner = 1;
  for (size_t i = 0; i < shape.size(); ++i) {
    (i < at ? outer : i > at ? inner : outer) *= i == at ? 1 : shape[i];
  }
  const int64_t channels = shape[at];
  shape.erase(shape.begin() + axis);
  shape.push_back(channels);
  Array out = Array::zeros(array.dtype(), shape);
  const int64_t width = dtype_size(array.dtype());
  const std::byte* from = array.bytes();
  std::byte* to = out.mutable_bytes();
  for (int64_t o = 0; o < outer; ++o) {
    for (int64_t c = 0; c < channels; ++c) {
      const std::byte* row = from + (o * channels + c) * inner * width;
      for (int64_t i = 0; i < inner; ++i) {
        std::memcpy(to + ((o * inner + i) * channels + c) * width, row + i * width,
                    static_cast<size_t>(width));
      }
    }
  }
  return out;
}

// Index after the last valid token of example `b`; 0 = none is.
int64_t last_valid(const Array& mask, int64_t b) {
  const bool* row = mask.data<bool>() + b * mask.size(1);
  int64_t end = mask.size(1);
  while (end > 0 && !row[end - 1]) {
    --end;
  }
  return end;
}

// [B, M] -> [B, count]
Array first_columns(const Array& array, int64_t count) {
  if (array.size(1) == count) {
    return array;
  }
  Array out = Array::zeros(array.dtype(), {array.size(0), count});
  const int64_t width = dtype_size(array.dtype());
  for (int64_t b = 0; b < array.size(0); ++b) {
    std::memcpy(out.mutable_bytes() + b * count * width, array.bytes() + b * array.size(1) * width,
                static_cast<size_t>(count * width));
  }
  return out;
}

class CallBuilder {
 public:
  CallBuilder(const ModelSpec& spec, const ArrayMap& tensors, const ForwardOptions& options)
      : spec_(spec), tensors_(tensors), options_(options), theirs_(!spec.architecture.empty()) {}

  ForwardCall build() {
    for (const InputSpec& input : spec_.inputs) {
      add_input(input);
    }
    for (const OutputSpec& output : spec_.outputs) {
      add_points(output);
      add_queries(output);
    }
    refuse_unknown();
    call_.request.progress = options_.progress;
    ask_all_rows();
    cut_padding();
    if (options_.memory_budget > 0) {
      call_.request.rows_per_block = rows_for_budget(spec_, batch_, options_.memory_budget);
    }
    return std::move(call_);
  }

 private:
  const Array* find(const std::string& name) {
    known_.insert(name);
    const auto found = tensors_.find(name);
    return found == tensors_.end() ? nullptr : &found->second;
  }

  [[noreturn]] static void wrong_shape(const std::string& name, const std::string& expected,
                                       const Array& given) {
    throw Error(ErrorCode::kShape,
                cat("tensor \"", name, "\" must be ", expected, ", not ", dtype_name(given.dtype()),
                    " ", shape_string(given.shape())));
  }

  void check_batch(const std::string& name, const Array& array) {
    if (array.size(0) < 1) {
      throw Error(ErrorCode::kShape,
                  cat("tensor \"", name, "\" is an empty batch: ", shape_string(array.shape())));
    }
    if (batch_ == 0) {
      batch_ = array.size(0);
      batch_from_ = name;
    } else if (batch_ != array.size(0)) {
      throw Error(ErrorCode::kShape, cat("tensor \"", name, "\" has batch size ", array.size(0),
                                         ", but \"", batch_from_, "\" has ", batch_));
    }
  }

  void add_input(const InputSpec& input) {
    std::string name = "inputs." + input.name;
    const Array* array = find(name);
    if (spec_.inputs.size() == 1) {
      const Array* plain = find("inputs");
      if (plain != nullptr && array != nullptr) {
        throw Error(ErrorCode::kArgument,
                    cat("both \"inputs\" and \"", name, "\" are given; they mean the same"));
      }
      if (plain != nullptr || array == nullptr) {
        name = "inputs";
        array = plain;
      }
    }
    if (array == nullptr) {
      throw Error(ErrorCode::kArgument,
                  cat("tensor \"", name, "\" is missing; the model reads ", expectation(input)));
    }
    if (array->dim() < 1) {
      wrong_shape(name, expectation(input), *array);
    }
    call_.inputs.arrays[input.name] = input.kind == InputKind::kText
                                          ? token_ids(input, name, *array)
                                          : values(input, name, *array);
    check_batch(name, *array);
    add_mask(input);
  }

  // "F32 [B, 3, 224, 224]"
  std::string expectation(const InputSpec& input) const {
    std::vector<std::string> extents{"B"};
    if (input.kind == InputKind::kText) {
      return cat("I64 [B, T] token ids with T <= ", input.index_dims.at(0));
    }
    if (input.kind == InputKind::kLabel) {
      return cat("F32 [B, ", input.channels, "]");
    }
    if (input.kind == InputKind::kSet) {
      return cat("F32 [B, M, ", input.coordinates + input.channels,
                 "] with M <= ", input.index_dims.at(0));
    }
    for (const int64_t extent : input.index_dims) {
      extents.push_back(cat(extent));
    }
    extents.insert(channels_first(input) ? extents.end() - 2 : extents.end(), cat(input.channels));
    std::string text;
    for (const std::string& extent : extents) {
      text += (text.empty() ? "" : ", ") + extent;
    }
    return cat("F32 [", text, "]");
  }

  // transformers puts the channels of pictures before height and width.
  bool channels_first(const InputSpec& input) const {
    return theirs_ && input.kind == InputKind::kGrid && input.index_dims.size() >= 2;
  }

  Array token_ids(const InputSpec& input, const std::string& name, const Array& array) const {
    if (array.dim() != 2 || !is_integer(array.dtype()) || array.dtype() == DType::kBool ||
        array.size(1) < 1) {
      wrong_shape(name, expectation(input), array);
    }
    if (array.size(1) > input.index_dims.at(0)) {
      throw Error(ErrorCode::kShape,
                  cat("tensor \"", name, "\" holds ", array.size(1),
                      " tokens; the model reads at most ", input.index_dims.at(0)));
    }
    Array ids = array.to(DType::kI64);
    const int64_t* id = ids.data<int64_t>();
    for (int64_t i = 0; i < ids.numel(); ++i) {
      if (id[i] < 0 || id[i] >= input.vocab_size) {
        throw Error(ErrorCode::kArgument,
                    cat("tensor \"", name, "\": token id ", id[i], " at [", i / ids.size(1), ", ",
                        i % ids.size(1), "] is outside the vocabulary of ", input.vocab_size));
      }
    }
    return ids;
  }

  Array values(const InputSpec& input, const std::string& name, const Array& array) const {
    const int64_t grid = input.kind == InputKind::kGrid
                             ? static_cast<int64_t>(input.index_dims.size()) + 1
                             : (input.kind == InputKind::kSet ? 2 : 1);
    if (array.dim() != grid + 1 || is_integer(array.dtype())) {
      wrong_shape(name, expectation(input), array);
    }
    const int64_t axis = channels_first(input) ? array.dim() - 3 : array.dim() - 1;
    if (array.size(axis) != input.coordinates + input.channels || array.numel() == 0) {
      wrong_shape(name, expectation(input), array);
    }
    Array converted = array.to(options_.double_precision ? DType::kF64 : DType::kF32);
    return channels_first(input) ? move_axis_last(converted, axis) : converted;
  }

  Array mask_values(const std::string& name, const Array& given) const {
    if (given.dim() != 2) {
      wrong_shape(name, "[B, M] with 1 = valid, 0 = not", given);
    }
    const Array wide = given.to(DType::kF64);
    const double* value = wide.data<double>();
    if (std::any_of(value, value + wide.numel(), [](double v) { return v != 0 && v != 1; })) {
      throw Error(ErrorCode::kArgument, cat("tensor \"", name, "\" must hold only 0 and 1"));
    }
    return given.to(DType::kBool);
  }

  void add_mask(const InputSpec& input) {
    const bool plain = theirs_ && spec_.inputs.size() == 1;
    const std::string name = plain ? "attention_mask" : "mask." + input.name;
    const Array* given = find(name);
    if (given == nullptr) {
      return;
    }
    Array mask = mask_values(name, *given);
    check_batch(name, mask);
    const Array& array = call_.inputs.arrays.at(input.name);
    if (input.kind != InputKind::kGrid && input.kind != InputKind::kLabel &&
        mask.size(1) != array.size(1)) {
      throw Error(ErrorCode::kShape, cat("tensor \"", name, "\" has ", mask.size(1),
                                         " columns for ", array.size(1), " tokens"));
    }
    call_.inputs.masks[input.name] = mask;
  }

  void add_points(const OutputSpec& output) {
    std::string name = (theirs_ ? "subsampled_output_points." : "points.") + output.name;
    const Array* given = find(name);
    if (given == nullptr) {
      return;
    }
    if (given->dim() != 1 || !is_integer(given->dtype()) || given->dtype() == DType::kBool ||
        given->numel() == 0) {
      wrong_shape(name, "I64 [n] flat row indices", *given);
    }
    const int64_t rows = element_count(output.index_dims);
    const Array wide = given->to(DType::kI64);
    const int64_t* index = wide.data<int64_t>();
    for (int64_t i = 0; i < wide.numel(); ++i) {
      if (index[i] < 0 || index[i] >= rows) {
        throw Error(ErrorCode::kArgument,
                    cat("tensor \"", name, "\": index ", index[i], " is outside the ", rows,
                        " rows of output \"", output.name, "\""));
      }
    }
    call_.request.points[output.name].assign(index, index + wide.numel());
  }

  // Engines decode the rows of the given tokens; transformers' masked language model always answers
  // for the longest text.
  void ask_all_rows() {
    if (spec_.architecture != "PerceiverForMaskedLM") {
      return;
    }
    const OutputSpec& output = spec_.outputs.at(0);
    std::vector<int64_t>& points = call_.request.points[output.name];
    if (points.empty()) {
      points.resize(static_cast<size_t>(output.index_dims.at(0)));
      std::iota(points.begin(), points.end(), int64_t{0});
    }
  }

  // Tokens that no example attends to need not be read: a short text padded to the longest one the
  // model takes costs what the short text costs.
  void cut_padding() {
    if (spec_.inputs.size() != 1 || spec_.inputs[0].kind != InputKind::kText ||
        call_.inputs.masks.empty() || rows_follow_tokens()) {
      return;
    }
    Array& ids = call_.inputs.arrays.begin()->second;
    Array& mask = call_.inputs.masks.begin()->second;
    int64_t longest = 0;
    for (int64_t b = 0; b < mask.size(0); ++b) {
      const int64_t valid = last_valid(mask, b);
      if (valid == 0) {
        return;  // what an example without any valid token reads is the mean over all of them
      }
      longest = std::max(longest, valid);
    }
    ids = first_columns(ids, longest);
    mask = first_columns(mask, longest);
    const bool* valid = mask.data<bool>();
    if (std::all_of(valid, valid + mask.numel(), [](bool v) { return v; })) {
      call_.inputs.masks.clear();
    }
  }

  // Whether what is decoded depends on how many tokens there are.
  bool rows_follow_tokens() const {
    return std::any_of(spec_.outputs.begin(), spec_.outputs.end(), [&](const OutputSpec& output) {
      return !output.of_input.empty() &&
             (output.head != HeadKind::kTiedEmbedding || output.concat_input ||
              output.query == QueryKind::kInputTokens || output.query == QueryKind::kInputContent ||
              call_.request.points.count(output.name) == 0);
    });
  }

  void add_queries(const OutputSpec& output) {
    if (output.query == QueryKind::kCaller || output.query == QueryKind::kCoordinates) {
      const std::string name = "queries." + output.name;
      const Array* given = find(name);
      if (given == nullptr) {
        throw Error(ErrorCode::kArgument,
                    cat("tensor \"", name, "\" is missing; output \"", output.name,
                        "\" is asked with the caller's queries [B, O, ", query_width(output), "]"));
      }
      if (given->dim() != 3 || given->size(2) != query_width(output) ||
          is_integer(given->dtype()) || given->numel() == 0) {
        wrong_shape(name, cat("F32 [B, O, ", query_width(output), "]"), *given);
      }
      check_batch(name, *given);
      call_.request.queries[output.name] =
          given->to(options_.double_precision ? DType::kF64 : DType::kF32);
    }
    const std::string mask_name = "query_mask." + output.name;
    if (const Array* mask = find(mask_name)) {
      call_.request.query_masks[output.name] = mask_values(mask_name, *mask);
    }
  }

  static int64_t query_width(const OutputSpec& output) {
    return output.query == QueryKind::kCaller ? output.channels
                                              : static_cast<int64_t>(output.index_dims.size());
  }

  void refuse_unknown() const {
    for (const auto& [name, array] : tensors_) {
      if (known_.count(name) != 0) {
        continue;
      }
      std::string names;
      for (const std::string& known : known_) {
        names += (names.empty() ? "" : ", ") + known;
      }
      throw Error(ErrorCode::kArgument, cat("tensor \"", printable(name),
                                            "\" is not an input of this model; it knows ", names));
    }
  }

  const ModelSpec& spec_;
  const ArrayMap& tensors_;
  const ForwardOptions& options_;
  bool theirs_;
  ForwardCall call_;
  std::set<std::string> known_;
  int64_t batch_ = 0;
  std::string batch_from_;
};

}  // namespace

ForwardCall forward_call(const ModelSpec& spec, const ArrayMap& tensors,
                         const ForwardOptions& options) {
  return CallBuilder(spec, tensors, options).build();
}

ArrayMap name_outputs(const ModelSpec& spec, ArrayMap outputs) {
  ArrayMap named;
  for (auto& [name, array] : outputs) {
    named[spec.outputs.size() <= 1 ? "logits" : "logits." + name] = std::move(array);
  }
  return named;
}

ArrayMap forward(Engine& engine, const ArrayMap& tensors, const ForwardOptions& options) {
  const ForwardCall call = forward_call(engine.spec(), tensors, options);
  return name_outputs(engine.spec(), engine.forward(call.inputs, call.request));
}

int64_t rows_for_budget(const ModelSpec& spec, int64_t batch, int64_t bytes) {
  const ModelShape shape = resolve(spec);
  const AttentionShape& cross = shape.decoder_cross;
  // Live at once per row, float32: the query, its norm, q, the attended values, their projection,
  // the MLP's hidden and result, the final linear. Scores come on top, but in tiles of fixed size.
  const int64_t floats = 4 * shape.query_channels + cross.qk_channels + cross.v_channels +
                         cross.mlp_channels + std::max<int64_t>(spec.decoder.output_channels, 1);
  const int64_t per_row = std::max<int64_t>(4 * floats * std::max<int64_t>(batch, 1), 1);
  return std::max<int64_t>(bytes / per_row, 1);
}

int64_t parse_bytes(const std::string& text) {
  static const std::vector<std::pair<std::string, double>> kUnits{{"", 1},
                                                                  {"B", 1},
                                                                  {"KB", 1e3},
                                                                  {"MB", 1e6},
                                                                  {"GB", 1e9},
                                                                  {"TB", 1e12},
                                                                  {"K", 1024.0},
                                                                  {"M", 1048576.0},
                                                                  {"G", 1073741824.0},
                                                                  {"T", 1099511627776.0},
                                                                  {"KiB", 1024.0},
                                                                  {"MiB", 1048576.0},
                                                                  {"GiB", 1073741824.0},
                                                                  {"TiB", 1099511627776.0}};
  size_t used = 0;
  double value = -1;
  try {
    value = std::stod(text, &used);
  } catch (const std::exception&) {
    used = 0;
  }
  const std::string unit = text.substr(used);
  for (const auto& [name, factor] : kUnits) {
    if (used > 0 && unit == name && std::isfinite(value) && value > 0 && value * factor < 9e18) {
      return static_cast<int64_t>(value * factor);
    }
  }
  throw Error(ErrorCode::kArgument, cat("not a size: \"", printable(text),
                                        "\"; write for example 512MiB, 2GiB or a number of bytes"));
}

}  // namespace perceiver::tasks
