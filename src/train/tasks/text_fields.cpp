#include "train/tasks/text_fields.h"

#include <algorithm>
#include <set>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"

namespace perceiver::train {

std::vector<TextFile> read_text_files(Fields& fields, const std::filesystem::path& folder) {
  const Json& files = fields.at("files");
  if (!files.is_array() || files.empty()) {
    throw Error(ErrorCode::kFormat,
                cat(fields.where("files"), " must be a list of {\"path\": ...}"));
  }
  std::vector<TextFile> read;
  for (size_t i = 0; i < files.size(); ++i) {
    Fields file(files[i], cat(fields.where("files"), "[", i, "]"));
    TextFile& added = read.emplace_back();
    added.path = existing_file(file, "path", folder);
    added.begin_after = file.text("begin_after", "");
    added.end_before = file.text("end_before", "");
    added.weight = file.number("weight", 0, 0, 1e6);
    file.finish();
  }
  const auto weighted =
      std::count_if(read.begin(), read.end(), [](const TextFile& file) { return file.weight > 0; });
  if (weighted != 0 && weighted != static_cast<std::ptrdiff_t>(read.size())) {
    throw Error(ErrorCode::kArgument,
                cat(fields.where("files"), ": ", weighted, " of ", read.size(),
                    " files have a weight above 0; give it to all or none"));
  }
  return read;
}

std::vector<std::string> read_label_words(Fields& fields) {
  const Json& json = fields.at("labels");
  std::vector<std::string> labels;
  for (const Json& label : json.is_array() ? json : Json::array()) {
    if (label.is_string()) {
      labels.push_back(label.get<std::string>());
    }
  }
  const std::set<std::string> different(labels.begin(), labels.end());
  if (labels.size() < 2 || labels.size() != json.size() || different.size() != labels.size()) {
    throw Error(ErrorCode::kFormat,
                cat(fields.where("labels"), " must be a list of at least two different texts"));
  }
  return labels;
}

}  // namespace perceiver::train
