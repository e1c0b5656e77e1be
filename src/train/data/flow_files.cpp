#include "train/data/flow_files.h"

#include <algorithm>
#include <array>
#include <optional>

#include <nlohmann/json.hpp>

#include "perceiver/base/error.h"
#include "perceiver/base/file.h"
#include "perceiver/base/json.h"
#include "perceiver/base/str.h"
#include "perceiver/io/image.h"
#include "train/fields.h"

namespace perceiver::train {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMaxListBytes = uint64_t{1} << 28;

std::string shown(const fs::path& path) {
  return printable(path.string(), 400);
}

[[noreturn]] void missing(const fs::path& path, const std::string& why) {
  throw Error(ErrorCode::kIo, cat("no ", shown(path), ": ", why));
}

bool is_file(const fs::path& path) {
  std::error_code ignored;
  return fs::is_regular_file(path, ignored);
}

bool is_folder(const fs::path& path) {
  std::error_code ignored;
  return fs::is_directory(path, ignored);
}

// Names in a folder that `wanted` accepts, in order. @throws Error(kIo)
template <typename Wanted>
std::vector<std::string> sorted_names(const fs::path& folder, const Wanted& wanted) {
  std::error_code error;
  fs::directory_iterator entries(folder, error);
  std::vector<std::string> names;
  for (; !error && entries != fs::directory_iterator(); entries.increment(error)) {
    if (wanted(*entries)) {
      names.push_back(entries->path().filename().string());
    }
  }
  if (error) {
    throw Error(ErrorCode::kIo, cat(shown(folder), ": ", error.message()));
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::vector<std::string> files_ending(const fs::path& folder, const std::string& end) {
  return sorted_names(folder, [&](const fs::directory_entry& entry) {
    return entry.path().filename().string().ends_with(end);
  });
}

std::vector<std::string> folders_in(const fs::path& folder) {
  return sorted_names(folder, [](const fs::directory_entry& entry) {
    std::error_code ignored;
    return entry.is_directory(ignored);
  });
}

fs::path with_training(const fs::path& folder, const std::string& part) {
  return !is_folder(folder / part) && is_folder(folder / "training" / part) ? folder / "training"
                                                                            : folder;
}

fs::path if_file(const fs::path& path) {
  return is_file(path) ? path : fs::path();
}

void check_not_empty(const std::vector<FlowFiles>& files, const fs::path& folder,
                     const std::string& wanted) {
  if (files.empty()) {
    missing(folder / wanted, "the folder has no pair of that name");
  }
}

// frame_0007.flo -> frame_0008.png. Nothing when the name has another form.
std::optional<std::string> next_frame(const std::string& flow_name) {
  const size_t underscore = flow_name.rfind('_');
  const size_t dot = flow_name.rfind('.');
  if (underscore == std::string::npos || dot < underscore || dot - underscore > 10) {
    return std::nullopt;
  }
  const std::string digits = flow_name.substr(underscore + 1, dot - underscore - 1);
  if (digits.empty() || digits.find_first_not_of("0123456789") != std::string::npos) {
    return std::nullopt;
  }
  std::string next = std::to_string(std::stoll(digits) + 1);
  next.insert(0, digits.size() > next.size() ? digits.size() - next.size() : 0, '0');
  return flow_name.substr(0, underscore + 1) + next + ".png";
}

void check_scenes(const std::vector<std::string>& wanted, const std::vector<std::string>& known,
                  const fs::path& folder) {
  for (const std::string& scene : wanted) {
    if (std::find(known.begin(), known.end(), scene) == known.end()) {
      const std::string near = nearest_word(scene, known);
      throw Error(ErrorCode::kArgument, cat(shown(folder), " has no scene ", printable(scene, 40),
                                            near.empty() ? "" : cat("; did you mean ", near, "?")));
    }
  }
}

bool contains(const std::vector<std::string>& words, const std::string& word) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

void add_sintel_scene(const fs::path& root, const std::string& pass, const std::string& scene,
                      std::vector<FlowFiles>& files) {
  for (const std::string& name : files_ending(root / "flow" / scene, ".flo")) {
    const std::string frame = fs::path(name).replace_extension(".png").string();
    const std::optional<std::string> next = next_frame(name);
    if (!next) {
      throw Error(ErrorCode::kFormat, cat(shown(root / "flow" / scene / name),
                                          ": the name has no frame number (frame_0001.flo)"));
    }
    FlowFiles pair;
    pair.first = root / pass / scene / frame;
    pair.second = root / pass / scene / *next;
    pair.flow = root / "flow" / scene / name;
    pair.occlusions = if_file(root / "occlusions" / scene / frame);
    pair.invalid = if_file(root / "invalid" / scene / frame);
    for (const fs::path& picture : {pair.first, pair.second}) {
      if (!is_file(picture)) {
        missing(picture, cat(shown(pair.flow), " needs it"));
      }
    }
    files.push_back(std::move(pair));
  }
}

fs::path listed_path(const std::string& text, const fs::path& list, const std::string& place) {
  const fs::path path = resolve_path(text, list.parent_path());
  if (!is_file(path)) {
    missing(path, place);
  }
  return path;
}

std::vector<std::string> split_tabs(const std::string& line) {
  std::vector<std::string> columns(1);
  for (const char c : line) {
    if (c == '\t') {
      columns.emplace_back();
    } else if (c != '\r') {
      columns.back() += c;
    }
  }
  return columns;
}

std::vector<FlowFiles> read_text_list(const fs::path& path, const std::string& text) {
  std::vector<FlowFiles> files;
  int64_t number = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string line = text.substr(begin, end - begin);
    begin = end + 1;
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string::npos || line[0] == '#') {
      continue;
    }
    const std::string place = cat("line ", number, " of ", shown(path));
    const std::vector<std::string> columns = split_tabs(line);
    if (columns.size() < 3 || columns.size() > 5) {
      throw Error(ErrorCode::kFormat, cat(place,
                                          ": needs first frame, second frame and flow "
                                          "between tabs (then occlusions, invalid), has ",
                                          columns.size(), " column(s)"));
    }
    FlowFiles& pair = files.emplace_back();
    const std::array<fs::path*, 5> parts{&pair.first, &pair.second, &pair.flow, &pair.occlusions,
                                         &pair.invalid};
    for (size_t i = 0; i < columns.size(); ++i) {
      if (i < 3 || !columns[i].empty()) {
        *parts[i] = listed_path(columns[i], path, place);
      }
    }
  }
  return files;
}

std::vector<FlowFiles> read_json_list(const fs::path& path) {
  const Json json = read_json(path);
  if (!json.is_array()) {
    throw Error(ErrorCode::kFormat, cat(shown(path),
                                        ": needs a list of {\"first\", \"second\", "
                                        "\"flow\"}, is ",
                                        json.type_name()));
  }
  std::vector<FlowFiles> files;
  for (size_t i = 0; i < json.size(); ++i) {
    const std::string place = cat(shown(path), "[", i, "]");
    Fields fields(json[i], place);
    FlowFiles& pair = files.emplace_back();
    const auto needed = [&](const char* key) {
      fields.at(key);
      return listed_path(fields.text(key, ""), path, place);
    };
    const auto optional = [&](const char* key) {
      return fields.has(key) ? needed(key) : fs::path();
    };
    pair.first = needed("first");
    pair.second = needed("second");
    pair.flow = needed("flow");
    pair.occlusions = optional("occlusions");
    pair.invalid = optional("invalid");
    fields.finish();
  }
  return files;
}

void check_size(const std::vector<int64_t>& size, const fs::path& path, const FlowPair& pair,
                const FlowFiles& files) {
  if (size[0] != pair.height() || size[1] != pair.width()) {
    throw Error(ErrorCode::kFormat,
                cat(shown(path), " has ", size[1], "x", size[0], " pixels, ", shown(files.first),
                    " has ", pair.width(), "x", pair.height()));
  }
}

// [H, W] Bool: where any channel but alpha is above 0.
Array read_mask(const fs::path& path, const FlowPair& pair, const FlowFiles& files) {
  io::ReadImageOptions options;
  options.apply_orientation = false;
  const io::Image picture = io::to_rgb(io::read_image(path, options));
  check_size(picture.pixels.shape(), path, pair, files);
  Array mask = Array::zeros(DType::kBool, {pair.height(), pair.width()});
  const uint8_t* rgb = picture.pixels.data<uint8_t>();
  bool* out = mask.mutable_data<bool>();
  for (int64_t i = 0; i < mask.numel(); ++i, rgb += 3) {
    out[i] = rgb[0] != 0 || rgb[1] != 0 || rgb[2] != 0;
  }
  return mask;
}

void leave_out(const Array& invalid, io::Flow& flow) {
  bool* valid = flow.valid.mutable_data<bool>();
  float* uv = flow.uv.mutable_data<float>();
  for (int64_t i = 0; i < invalid.numel(); ++i) {
    if (invalid.data<bool>()[i]) {
      valid[i] = false;
      uv[2 * i] = uv[2 * i + 1] = 0;
    }
  }
}

}  // namespace

std::vector<FlowFiles> list_sintel(const fs::path& folder, const std::vector<std::string>& passes,
                                   const std::vector<std::string>& scenes,
                                   const std::vector<std::string>& without) {
  const fs::path root = with_training(folder, "flow");
  if (!is_folder(root / "flow")) {
    missing(root / "flow", "an MPI-Sintel folder has flow/<scene>/frame_0001.flo");
  }
  const std::vector<std::string> known = folders_in(root / "flow");
  check_scenes(scenes, known, root / "flow");
  check_scenes(without, known, root / "flow");
  std::vector<FlowFiles> files;
  for (const std::string& pass : passes) {
    for (const std::string& scene : known) {
      if ((scenes.empty() || contains(scenes, scene)) && !contains(without, scene)) {
        add_sintel_scene(root, pass, scene, files);
      }
    }
  }
  check_not_empty(files, root, "flow/*/*.flo");
  return files;
}

std::vector<FlowFiles> list_flying_chairs(const fs::path& folder, const fs::path& split_file,
                                          int split) {
  const std::string kEnd = "_flow.flo";
  fs::path root = folder;
  if (is_folder(folder / "data") && files_ending(folder, kEnd).empty()) {
    root = folder / "data";
  }
  const std::vector<std::string> names = files_ending(root, kEnd);
  std::string chosen;
  if (!split_file.empty()) {
    const std::string text = read_file(split_file, kMaxListBytes);
    std::copy_if(text.begin(), text.end(), std::back_inserter(chosen),
                 [](char c) { return c != '\n' && c != '\r' && c != ' '; });
    if (chosen.size() != names.size()) {
      throw Error(ErrorCode::kFormat,
                  cat(shown(split_file), " has ", chosen.size(), " entries for the ", names.size(),
                      " pairs of ", shown(root)));
    }
  }
  std::vector<FlowFiles> files;
  for (size_t i = 0; i < names.size(); ++i) {
    if (!chosen.empty() && chosen[i] != '0' + split) {
      continue;
    }
    const std::string stem = names[i].substr(0, names[i].size() - kEnd.size());
    FlowFiles pair;
    pair.first = root / (stem + "_img1.ppm");
    pair.second = root / (stem + "_img2.ppm");
    pair.flow = root / names[i];
    for (const fs::path& picture : {pair.first, pair.second}) {
      if (!is_file(picture)) {
        missing(picture, cat(shown(pair.flow), " needs it"));
      }
    }
    files.push_back(std::move(pair));
  }
  check_not_empty(files, root, "*_flow.flo");
  return files;
}

std::vector<FlowFiles> list_kitti(const fs::path& folder) {
  const fs::path root = with_training(folder, "flow_occ");
  if (!is_folder(root / "flow_occ")) {
    missing(root / "flow_occ", "a KITTI folder has flow_occ/000000_10.png");
  }
  const fs::path frames = is_folder(root / "image_2") ? root / "image_2" : root / "colored_0";
  std::vector<FlowFiles> files;
  for (const std::string& name : files_ending(root / "flow_occ", "_10.png")) {
    FlowFiles pair;
    pair.first = frames / name;
    pair.second = frames / (name.substr(0, name.size() - 7) + "_11.png");
    pair.flow = root / "flow_occ" / name;
    pair.unoccluded_flow = if_file(root / "flow_noc" / name);
    for (const fs::path& picture : {pair.first, pair.second}) {
      if (!is_file(picture)) {
        missing(picture, cat(shown(pair.flow), " needs it"));
      }
    }
    files.push_back(std::move(pair));
  }
  check_not_empty(files, root, "flow_occ/*_10.png");
  return files;
}

std::vector<FlowFiles> read_flow_list(const fs::path& path) {
  const std::vector<FlowFiles> files = path.extension() == ".json"
                                           ? read_json_list(path)
                                           : read_text_list(path, read_file(path, kMaxListBytes));
  if (files.empty()) {
    throw Error(ErrorCode::kFormat, cat(shown(path), " lists no pair"));
  }
  return files;
}

FlowPair read_flow_pair(const FlowFiles& files) {
  FlowPair pair;
  pair.first = io::to_rgb(io::read_image(files.first)).pixels;
  pair.second = io::to_rgb(io::read_image(files.second)).pixels;
  check_size(pair.second.shape(), files.second, pair, files);
  pair.flow = io::read_flow(files.flow);
  check_size(pair.flow.valid.shape(), files.flow, pair, files);
  if (!files.invalid.empty()) {
    leave_out(read_mask(files.invalid, pair, files), pair.flow);
  }
  if (!files.occlusions.empty()) {
    pair.occluded = read_mask(files.occlusions, pair, files);
  } else if (!files.unoccluded_flow.empty()) {
    const io::Flow seen = io::read_flow(files.unoccluded_flow);
    check_size(seen.valid.shape(), files.unoccluded_flow, pair, files);
    pair.occluded = Array::zeros(DType::kBool, {pair.height(), pair.width()});
    for (int64_t i = 0; i < pair.occluded.numel(); ++i) {
      pair.occluded.mutable_data<bool>()[i] =
          pair.flow.valid.data<bool>()[i] && !seen.valid.data<bool>()[i];
    }
  }
  return pair;
}

std::vector<fs::path> list_pictures(const fs::path& folder) {
  const std::vector<std::string> names = sorted_names(folder, [](const fs::directory_entry& entry) {
    std::string end = entry.path().extension().string();
    std::transform(end.begin(), end.end(), end.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    return end == ".png" || end == ".jpg" || end == ".jpeg" || end == ".ppm";
  });
  if (names.empty()) {
    missing(folder / "*", "the folder has no picture (.png, .jpg, .jpeg, .ppm)");
  }
  std::vector<fs::path> pictures;
  for (const std::string& name : names) {
    pictures.push_back(folder / name);
  }
  return pictures;
}

}  // namespace perceiver::train
