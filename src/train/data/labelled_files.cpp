#include "train/data/labelled_files.h"

#include <algorithm>
#include <cctype>
#include <set>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "train/data/delimited.h"

namespace perceiver::train {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxFiles = size_t{1} << 24;

// "a{b}c{d}" -> texts a, c, "" around names b, d.
struct Pattern {
  std::vector<std::string> texts, names;
};

Pattern parse_pattern(const std::string& text, const std::string& where) {
  Pattern pattern;
  size_t at = 0;
  for (size_t open = text.find('{'); open != std::string::npos; open = text.find('{', at)) {
    const size_t close = text.find('}', open);
    if (close == std::string::npos || (open == at && at > 0)) {
      throw Error(ErrorCode::kFormat,
                  cat(where, " is '", printable(text),
                      close == std::string::npos ? "': a brace is never closed"
                                                 : "': two names need text between them"));
    }
    pattern.texts.push_back(text.substr(at, open - at));
    pattern.names.push_back(text.substr(open + 1, close - open - 1));
    at = close + 1;
  }
  pattern.texts.push_back(text.substr(at));
  return pattern;
}

bool names_part(const std::string& pattern, const char* name) {
  return pattern.find(cat("{", name, "}")) != std::string::npos;
}

std::vector<std::string> read_folds(Fields& fields) {
  const Json& list = fields.at("test_folds");
  std::vector<std::string> folds;
  bool fits = list.is_array() && !list.empty();
  for (size_t i = 0; fits && i < list.size(); ++i) {
    fits = list[i].is_string() || list[i].is_number_integer();
    if (fits) {
      folds.push_back(list[i].is_string() ? list[i].get<std::string>() : list[i].dump());
    }
  }
  if (!fits) {
    throw Error(ErrorCode::kFormat,
                cat(fields.where("test_folds"), " must be a list of folds: [5] or [\"test\"]"));
  }
  return folds;
}

void read_columns(Fields fields, LabelledFilesSpec& spec) {
  spec.path_column = fields.text("path", spec.path_column);
  spec.label_column = fields.text("label", spec.label_column);
  spec.fold_column = fields.text("fold", spec.fold_column);
  fields.finish();
}

std::vector<LabelledFile> files_of_list(const LabelledFilesSpec& spec, const fs::path& list) {
  const DelimitedTable table = read_delimited(list);
  const size_t path = table.column(spec.path_column);
  const size_t label = table.column(spec.label_column);
  const bool folds = !spec.test_folds.empty();
  const size_t fold = folds ? table.column(spec.fold_column) : 0;
  std::vector<LabelledFile> files;
  for (size_t i = 0; i < table.rows.size(); ++i) {
    const std::vector<std::string>& row = table.rows[i];
    if (row[path].empty()) {
      throw Error(ErrorCode::kFormat, cat(table.where(i), ": the path is empty"));
    }
    files.push_back({resolve_path(row[path], spec.folder), row[label], folds ? row[fold] : ""});
  }
  return files;
}

bool has_extension(const fs::path& path, const std::vector<std::string>& extensions) {
  std::string own = path.extension().string();
  std::transform(own.begin(), own.end(), own.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return std::any_of(extensions.begin(), extensions.end(),
                     [&](const std::string& known) { return own == "." + known; });
}

LabelledFile file_by_name(const LabelledFilesSpec& spec, const fs::path& path) {
  LabelledFile file{path, path.parent_path().filename().string(), ""};
  if (spec.name_pattern.empty()) {
    return file;
  }
  const auto parts = parts_of_name(spec.name_pattern, path.stem().string());
  if (!parts) {
    throw Error(ErrorCode::kFormat, cat(printable(path.string()), ": its name is unlike '",
                                        printable(spec.name_pattern), "' (name_pattern)"));
  }
  if (names_part(spec.name_pattern, "label")) {
    file.label = parts->label;
  }
  file.fold = parts->fold;
  return file;
}

std::vector<LabelledFile> files_of_folder(const LabelledFilesSpec& spec, const fs::path& folder) {
  std::vector<fs::path> paths;
  std::error_code error;
  fs::recursive_directory_iterator walk(folder, error);
  for (; !error && walk != fs::recursive_directory_iterator(); walk.increment(error)) {
    std::error_code ignored;
    if (has_extension(walk->path(), spec.extensions) && walk->is_regular_file(ignored)) {
      paths.push_back(walk->path());
    }
    if (paths.size() > kMaxFiles) {
      throw Error(ErrorCode::kArgument,
                  cat(printable(folder.string()), ": more than ", kMaxFiles, " files"));
    }
  }
  if (error) {
    throw Error(ErrorCode::kIo, cat(printable(folder.string()), ": ", error.message()));
  }
  std::sort(paths.begin(), paths.end());
  std::vector<LabelledFile> files;
  for (const fs::path& path : paths) {
    files.push_back(file_by_name(spec, path));
  }
  return files;
}

void hold_out_folds(const LabelledFilesSpec& spec, std::vector<LabelledFile> all,
                    LabelledSplit& split) {
  std::set<std::string> folds;
  for (LabelledFile& file : all) {
    folds.insert(file.fold);
    const bool test = std::find(spec.test_folds.begin(), spec.test_folds.end(), file.fold) !=
                      spec.test_folds.end();
    (test ? split.test : split.train).push_back(std::move(file));
  }
  if (!split.test.empty() && !split.train.empty()) {
    return;
  }
  std::string list;
  for (const std::string& fold : folds) {
    if (list.size() < 80) {
      list += cat(list.empty() ? "" : ", ", "'", printable(fold, 20), "'");
    }
  }
  throw Error(ErrorCode::kArgument,
              cat(printable(spec.folder.string()), ": test_folds holds out ",
                  split.test.empty() ? "nothing" : "everything", "; the folds are ", list));
}

void require_files(const std::vector<LabelledFile>& files, const LabelledFilesSpec& spec,
                   const fs::path& folder) {
  if (files.empty()) {
    std::string known;
    for (const std::string& extension : spec.extensions) {
      known += cat(known.empty() ? "." : ", .", extension);
    }
    throw Error(ErrorCode::kArgument,
                cat(printable(folder.string()), ": no file to read in it (", known, ")"));
  }
}

}  // namespace

std::optional<NameParts> parts_of_name(const std::string& pattern, const std::string& stem) {
  const Pattern parsed = parse_pattern(pattern, "name_pattern");
  if (!stem.starts_with(parsed.texts[0])) {
    return std::nullopt;
  }
  NameParts parts;
  size_t at = parsed.texts[0].size();
  for (size_t i = 0; i < parsed.names.size(); ++i) {
    const std::string& behind = parsed.texts[i + 1];
    const bool last = i + 1 == parsed.names.size();
    size_t end = stem.size();
    if (last && stem.ends_with(behind)) {
      end = stem.size() - behind.size();
    } else {
      end = last ? std::string::npos : stem.find(behind, at);
    }
    if (end == std::string::npos || end <= at) {
      return std::nullopt;
    }
    const std::string part = stem.substr(at, end - at);
    if (parsed.names[i] == "label") {
      parts.label = part;
    } else if (parsed.names[i] == "fold") {
      parts.fold = part;
    }
    at = end + behind.size();
  }
  return at == stem.size() ? std::optional(parts) : std::nullopt;
}

LabelledFilesSpec read_labelled_files(Fields& fields, const fs::path& data,
                                      const std::vector<std::string>& extensions) {
  LabelledFilesSpec spec;
  spec.extensions = extensions;
  spec.folder = existing_folder(fields, "folder", data);
  if (fields.has("list")) {
    spec.list = existing_file(fields, "list", data);
  }
  read_columns(fields.object("columns"), spec);
  spec.name_pattern = fields.text("name_pattern", "");
  parse_pattern(spec.name_pattern, fields.where("name_pattern"));
  const bool folds = fields.has("test_folds");
  const bool list = fields.has("test_list");
  const bool folder = fields.has("test_folder");
  if (folds + list + folder != 1) {
    throw Error(ErrorCode::kArgument,
                cat(fields.where("test_folds"),
                    ": give exactly one of test_folds, test_list and test_folder: what is held "
                    "out to measure on"));
  }
  if (folds) {
    spec.test_folds = read_folds(fields);
  } else if (list) {
    spec.test_list = existing_file(fields, "test_list", data);
  } else {
    spec.test_folder = existing_folder(fields, "test_folder", data);
  }
  if (spec.list && !spec.name_pattern.empty()) {
    throw Error(ErrorCode::kArgument,
                cat(fields.where("name_pattern"), ": labels and folds come from the list already"));
  }
  if (spec.test_list && !spec.list) {
    throw Error(ErrorCode::kArgument, cat(fields.where("test_list"), " needs a list beside it"));
  }
  if (spec.test_folder && spec.list) {
    throw Error(ErrorCode::kArgument,
                cat(fields.where("test_folder"), ": with a list, give test_list or test_folds"));
  }
  if (folds && !spec.list && !names_part(spec.name_pattern, "fold")) {
    throw Error(ErrorCode::kArgument, cat(fields.where("test_folds"),
                                          " needs a list with a column of folds, or {fold} in "
                                          "name_pattern"));
  }
  return spec;
}

LabelledSplit find_labelled_files(const LabelledFilesSpec& spec) {
  LabelledSplit split;
  std::vector<LabelledFile> all =
      spec.list ? files_of_list(spec, *spec.list) : files_of_folder(spec, spec.folder);
  require_files(all, spec, spec.folder);
  if (!spec.test_folds.empty()) {
    hold_out_folds(spec, std::move(all), split);
    return split;
  }
  split.train = std::move(all);
  if (spec.test_list) {
    split.test = files_of_list(spec, *spec.test_list);
  } else {
    split.test = files_of_folder(spec, *spec.test_folder);
    require_files(split.test, spec, *spec.test_folder);
  }
  return split;
}

}  // namespace perceiver::train
