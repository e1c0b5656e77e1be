#include "train/data/class_names.h"

#include <algorithm>
#include <charconv>
#include <sstream>

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include "perceiver/base/error.h"
#include "perceiver/base/file.h"
#include "perceiver/base/str.h"
#include "train/fields.h"

namespace perceiver::train {

ClassSpec read_classes(Fields& fields, const std::filesystem::path& folder) {
  constexpr uint64_t kMaxBytes = uint64_t{16} << 20;
  ClassSpec spec;
  spec.kind = fields.boolean("multi_label", false) ? LabelKind::kMulti : LabelKind::kSingle;
  spec.separator = fields.text("label_separator", spec.separator);
  if (spec.separator.empty()) {
    throw Error(ErrorCode::kFormat, cat(fields.where("label_separator"), " is empty"));
  }
  if (!fields.has("class_names")) {
    return spec;
  }
  const std::filesystem::path path = existing_file(fields, "class_names", folder);
  std::istringstream lines(read_file(path, kMaxBytes));
  for (std::string line; std::getline(lines, line);) {
    if (!line.empty() && line.back() == '\r') {
      line.pop_back();
    }
    if (!line.empty()) {
      spec.names.push_back(line);
    }
  }
  if (spec.names.empty()) {
    throw Error(ErrorCode::kFormat, cat(printable(path.string()), ": no class name in it"));
  }
  return spec;
}

double read_label_smoothing(Fields& fields, LabelKind kind) {
  const double smoothing = fields.number("label_smoothing", 0, 0, 1);
  if (smoothing > 0 && kind == LabelKind::kMulti) {
    throw Error(ErrorCode::kArgument, cat(fields.where("label_smoothing"), " is ", smoothing,
                                          ", but with multi_label nothing is smoothed"));
  }
  return smoothing;
}

ClassNames::ClassNames(ClassSpec spec, int64_t classes)
    : spec_(std::move(spec)), classes_(classes) {
  if (!spec_.names.empty() && static_cast<int64_t>(spec_.names.size()) != classes_) {
    throw Error(ErrorCode::kArgument, cat(spec_.names.size(), " class names, but the model tells ",
                                          classes_, " classes apart"));
  }
  for (size_t i = 0; i < spec_.names.size(); ++i) {
    numbers_.emplace(spec_.names[i], static_cast<int64_t>(i));
  }
}

int64_t ClassNames::parse_one(const std::string& label, const std::string& where) const {
  const auto named = numbers_.find(label);
  if (named != numbers_.end()) {
    return named->second;
  }
  int64_t number = -1;
  const auto [end, code] = std::from_chars(label.data(), label.data() + label.size(), number);
  const bool whole = code == std::errc() && end == label.data() + label.size();
  if (spec_.names.empty() && whole && number >= 0 && number < classes_) {
    return number;
  }
  const std::string near = nearest_word(label, spec_.names);
  throw Error(
      ErrorCode::kFormat,
      cat(where, ": '", printable(label, 40), "' is no class of the model",
          spec_.names.empty() ? cat("; without names, classes are numbers from 0 to ", classes_ - 1)
          : near.empty()      ? cat("; it has ", classes_)
                              : cat("; did you mean '", printable(near, 40), "'?")));
}

std::vector<int64_t> ClassNames::parse(const std::string& label, const std::string& where) const {
  if (spec_.kind == LabelKind::kSingle) {
    return {parse_one(label, where)};
  }
  std::vector<int64_t> found;
  for (size_t begin = 0; begin < label.size();) {
    const size_t end = std::min(label.find(spec_.separator, begin), label.size());
    if (end > begin) {
      found.push_back(parse_one(label.substr(begin, end - begin), where));
    }
    begin = end + spec_.separator.size();
  }
  std::sort(found.begin(), found.end());
  found.erase(std::unique(found.begin(), found.end()), found.end());
  return found;
}

at::Tensor class_targets(const std::vector<std::vector<int64_t>>& examples, int64_t classes,
                         LabelKind kind) {
  const auto count = static_cast<int64_t>(examples.size());
  if (kind == LabelKind::kSingle) {
    at::Tensor labels = at::empty({count}, at::kLong);
    for (int64_t i = 0; i < count; ++i) {
      labels.mutable_data_ptr<int64_t>()[i] = examples[static_cast<size_t>(i)].at(0);
    }
    return labels;
  }
  at::Tensor flags = at::zeros({count, classes}, at::kFloat);
  for (int64_t i = 0; i < count; ++i) {
    for (const int64_t k : examples[static_cast<size_t>(i)]) {
      flags.mutable_data_ptr<float>()[i * classes + k] = 1;
    }
  }
  return flags;
}

}  // namespace perceiver::train
