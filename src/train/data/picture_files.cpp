#include "train/data/picture_files.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <string_view>
#include <system_error>

#include "perceiver/base/error.h"
#include "perceiver/base/file.h"
#include "perceiver/base/str.h"
#include "perceiver/io/image.h"

namespace perceiver::train {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMaxListBytes = uint64_t{1} << 30;
constexpr std::array<std::string_view, 6> kEndings{".png", ".jpg", ".jpeg", ".pgm", ".ppm", ".pnm"};

bool is_picture_name(const fs::path& path) {
  std::string ending = path.extension().string();
  std::transform(ending.begin(), ending.end(), ending.begin(),
                 [](unsigned char letter) { return static_cast<char>(std::tolower(letter)); });
  return std::find(kEndings.begin(), kEndings.end(), ending) != kEndings.end();
}

// Entries that `wanted` accepts, sorted by name: the system lists them in any order.
template <typename Wanted>
std::vector<fs::path> entries(const fs::path& folder, const Wanted& wanted) {
  std::error_code error;
  std::vector<fs::path> found;
  for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
    std::error_code ignored;
    if (!at->path().filename().string().starts_with('.') && wanted(*at, ignored)) {
      found.push_back(at->path());
    }
  }
  if (error) {
    throw Error(ErrorCode::kIo, cat(printable(folder.string()), ": ", error.message()));
  }
  std::sort(found.begin(), found.end());
  return found;
}

struct ListLine {
  std::string_view path, label;
};

ListLine split(std::string_view line, const std::string& where) {
  size_t at = line.rfind('\t');
  at = at == std::string_view::npos ? line.rfind(',') : at;
  if (at == std::string_view::npos || at == 0 || at + 1 == line.size()) {
    throw Error(ErrorCode::kFormat, cat(where, " is '", printable(line, 60),
                                        "', needs a path, a tab or comma, and a label"));
  }
  return {line.substr(0, at), line.substr(at + 1)};
}

int64_t label_of(std::string_view text, const std::vector<std::string>& names,
                 const std::string& where) {
  int64_t label = 0;
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), label);
  if (problem == std::errc() && end == text.data() + text.size()) {
    return label;
  }
  const auto found = std::find(names.begin(), names.end(), text);
  if (found == names.end()) {
    throw Error(ErrorCode::kFormat, cat(where, ": label '", printable(text, 60),
                                        "' is neither a number nor one of the model's labels"));
  }
  return found - names.begin();
}

}  // namespace

std::vector<std::string> class_folders(const fs::path& folder) {
  std::vector<std::string> names;
  for (const fs::path& path :
       entries(folder, [](const auto& entry, auto& error) { return entry.is_directory(error); })) {
    names.push_back(path.filename().string());
  }
  if (names.empty()) {
    throw Error(ErrorCode::kFormat,
                cat(printable(folder.string()), " holds no folders; it needs one for each class"));
  }
  return names;
}

std::vector<fs::path> picture_files(const fs::path& folder) {
  return entries(folder, [](const auto& entry, auto& error) {
    return is_picture_name(entry.path()) && entry.is_regular_file(error);
  });
}

std::vector<PictureFile> list_class_folders(const fs::path& folder,
                                            const std::vector<std::string>& classes) {
  std::vector<PictureFile> files;
  for (const std::string& name : class_folders(folder)) {
    const auto found = std::find(classes.begin(), classes.end(), name);
    if (found == classes.end()) {
      throw Error(ErrorCode::kFormat, cat(printable((folder / name).string()),
                                          ": no class is named '", printable(name, 60), "'"));
    }
    for (const fs::path& path : picture_files(folder / name)) {
      files.push_back({path.string(), found - classes.begin()});
    }
  }
  if (files.empty()) {
    throw Error(ErrorCode::kFormat,
                cat(printable(folder.string()), ": its folders hold no pictures"));
  }
  return files;
}

std::vector<PictureFile> read_picture_list(const fs::path& list, const fs::path& root,
                                           const std::vector<std::string>& names) {
  const std::string text = read_file(list, kMaxListBytes);
  std::vector<PictureFile> files;
  int64_t number = 0;
  for (std::string_view rest = text; !rest.empty();) {
    const size_t end = std::min(rest.find('\n'), rest.size());
    std::string_view line = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    ++number;
    if (line.ends_with('\r')) {
      line.remove_suffix(1);
    }
    if (line.empty()) {
      continue;
    }
    const std::string where = cat(printable(list.string()), ": line ", number);
    const ListLine parts = split(line, where);
    files.push_back(
        {(root / std::string(parts.path)).string(), label_of(parts.label, names, where)});
  }
  if (files.empty()) {
    throw Error(ErrorCode::kFormat, cat(printable(list.string()), " names no pictures"));
  }
  return files;
}

Array read_picture(const fs::path& path, int64_t channels) {
  const io::Image image = io::read_image(path);
  return channels == 1 ? io::to_grey(image).pixels : io::to_rgb(image).pixels;
}

std::string PicturesOnDisk::name(int64_t index) const {
  return printable(file(index).path);
}

}  // namespace perceiver::train
