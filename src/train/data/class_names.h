#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <unordered_map>
#include <vector>

#include <ATen/core/Tensor.h>

#include "train/fields.h"

namespace perceiver::train {

enum class LabelKind {
  kSingle,  ///< one class per example: softmax
  kMulti,   ///< any number of classes: one sigmoid each
};

/// The keys of a data set that say what its labels mean.
struct ClassSpec {
  LabelKind kind = LabelKind::kSingle;
  std::string separator = ";";     ///< between the classes of one example (kMulti)
  std::vector<std::string> names;  ///< by index; empty = the model's own
};
/// multi_label, label_separator, class_names (a file, one name per line).
/// @throws Error(kFormat), Error(kIo)
ClassSpec read_classes(Fields& fields, const std::filesystem::path& folder);

/// label_smoothing of the recipe. @throws Error(kArgument) for one beside multi_label
double read_label_smoothing(Fields& fields, LabelKind kind);

/// What labels written as text mean: names of classes, or their numbers where there are no names.
class ClassNames {
 public:
  /// @param spec     names: by index; empty = labels are numbers 0 .. classes - 1
  /// @param classes  that the model tells apart
  /// @throws Error(kArgument) unless there are as many names as classes
  ClassNames(ClassSpec spec, int64_t classes);

  int64_t classes() const { return classes_; }
  LabelKind kind() const { return spec_.kind; }
  /// The classes of one example, rising. kMulti may have none.
  /// @param where  what is labelled, for messages
  /// @throws Error(kFormat) for an unknown class, naming the nearest
  std::vector<int64_t> parse(const std::string& label, const std::string& where) const;

 private:
  int64_t parse_one(const std::string& label, const std::string& where) const;

  ClassSpec spec_;
  int64_t classes_;
  std::unordered_map<std::string, int64_t> numbers_;  // by name
};

/// What a loss compares with. @return I64 [B] for kSingle, F32 [B, classes] of 0 and 1 for kMulti
at::Tensor class_targets(const std::vector<std::vector<int64_t>>& examples, int64_t classes,
                         LabelKind kind);

}  // namespace perceiver::train
