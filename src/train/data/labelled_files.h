#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "train/fields.h"

namespace perceiver::train {

/// A sound or a film and what it is called.
struct LabelledFile {
  std::filesystem::path path;
  std::string label;  ///< as written: one class, or several between separators
  std::string fold;   ///< empty = none stated
};

/// Where labelled files lie and which are held out. Labels come from a list (CSV or TSV with a
/// header), from the files' names, or from the folder each file lies in.
struct LabelledFilesSpec {
  std::filesystem::path folder;
  std::optional<std::filesystem::path> list;  ///< paths in it start at `folder`
  std::string path_column = "path", label_column = "label", fold_column = "fold";
  /// "{label}_{speaker}_{take}": what the parts of a name mean; {label} and {fold} count. Without
  /// {label} (and without a list) the label is the name of the folder a file lies in.
  std::string name_pattern;
  std::vector<std::string> test_folds;               ///< held out, or:
  std::optional<std::filesystem::path> test_list;    ///< a second list, same columns, or:
  std::optional<std::filesystem::path> test_folder;  ///< a second folder
  std::vector<std::string> extensions;               ///< what a walk through a folder takes: "wav"
};

/// The keys folder, list, columns, name_pattern, test_folds, test_list, test_folder.
/// @throws Error(kFormat), Error(kIo), Error(kArgument) unless exactly one of the last three says
///         what is held out
LabelledFilesSpec read_labelled_files(Fields& fields, const std::filesystem::path& data,
                                      const std::vector<std::string>& extensions);

struct LabelledSplit {
  std::vector<LabelledFile> train, test;  ///< in the list's order; without a list, by path
};

/// Finds the files; none is opened, and those of a list need not exist.
/// @throws Error(kIo); Error(kFormat) for a damaged list, a name unlike the pattern;
/// Error(kArgument)
///         when a part is empty, naming the folds there are
LabelledSplit find_labelled_files(const LabelledFilesSpec& spec);

/// Parts of a file name by a pattern of texts and {names}: every name takes as little as it can,
/// the last one the rest.
/// @return  nothing when `stem` is unlike the pattern; else label and fold ("" for an absent one)
struct NameParts {
  std::string label, fold;
};
std::optional<NameParts> parts_of_name(const std::string& pattern, const std::string& stem);

}  // namespace perceiver::train
