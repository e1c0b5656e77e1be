#include "train/data/class_files.h"

#include <algorithm>
#include <sstream>

#include "perceiver/base/error.h"
#include "perceiver/base/file.h"
#include "perceiver/base/str.h"

namespace perceiver::train {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMaxListBytes = uint64_t{256} << 20;

std::vector<fs::path> entries(const fs::path& folder, bool folders) {
  std::error_code error;
  std::vector<fs::path> found;
  for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
    std::error_code ignored;
    const bool hidden = at->path().filename().string().starts_with('.');
    if (!hidden && (folders ? at->is_directory(ignored) : at->is_regular_file(ignored))) {
      found.push_back(at->path());
    }
  }
  if (error) {
    throw Error(ErrorCode::kIo, cat(printable(folder.string()), ": ", error.message()));
  }
  std::sort(found.begin(), found.end());
  return found;
}

}  // namespace

std::vector<ClassFile> list_class_folders(const fs::path& folder, const std::string& part,
                                          const std::vector<std::string>& endings) {
  std::vector<ClassFile> files;
  for (const fs::path& of_class : entries(folder, /*folders=*/true)) {
    const fs::path inside = part.empty() ? of_class : of_class / part;
    std::error_code ignored;
    if (!fs::is_directory(inside, ignored)) {
      continue;
    }
    for (const fs::path& file : entries(inside, /*folders=*/false)) {
      if (std::find(endings.begin(), endings.end(), file.extension().string()) != endings.end()) {
        files.push_back({file, of_class.filename().string()});
      }
    }
  }
  if (files.empty()) {
    std::string wanted;
    for (const std::string& ending : endings) {
      wanted += (wanted.empty() ? "*" : ", *") + ending;
    }
    throw Error(ErrorCode::kFormat, cat(printable(folder.string()), ": no file <class>/",
                                        part.empty() ? "" : part + "/", wanted));
  }
  return files;
}

std::vector<ClassFile> read_class_list(const fs::path& list) {
  std::istringstream text(read_file(list, kMaxListBytes));
  std::vector<ClassFile> files;
  std::string line;
  for (int64_t number = 1; std::getline(text, line); ++number) {
    if (line.ends_with('\r')) {
      line.pop_back();
    }
    if (line.empty() || (number == 1 && line == "path,class")) {
      continue;
    }
    const size_t comma = line.rfind(',');
    if (comma == std::string::npos || comma == 0 || comma + 1 == line.size()) {
      throw Error(ErrorCode::kFormat,
                  cat(printable(list.string()), ", line ", number, ": expected path,class, found '",
                      printable(line, 60), "'"));
    }
    files.push_back({list.parent_path() / line.substr(0, comma), line.substr(comma + 1)});
  }
  if (files.empty()) {
    throw Error(ErrorCode::kFormat, cat(printable(list.string()), ": lists no file"));
  }
  return files;
}

}  // namespace perceiver::train
