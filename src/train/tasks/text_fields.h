#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "train/data/text_corpus.h"
#include "train/fields.h"

namespace perceiver::train {

/// The key `files` of a recipe's data: a list of {"path", "begin_after", "end_before", "weight"}.
/// @throws Error(kFormat), Error(kIo) for a file that is not there, Error(kArgument) when some
/// files
///         have a weight and others have none
std::vector<TextFile> read_text_files(Fields& fields, const std::filesystem::path& folder);

/// The key `labels`: the words of a label column in the order of the classes.
/// @throws Error(kFormat) unless they are at least two different texts
std::vector<std::string> read_label_words(Fields& fields);

}  // namespace perceiver::train
