#include "perceiver/tasks/bundle.h"

#include <cerrno>
#include <chrono>
#include <cstring>
#include <system_error>
#include <unistd.h>

#include "perceiver/base/error.h"
#include "perceiver/base/file.h"
#include "perceiver/base/str.h"
#include "perceiver/io/checkpoint.h"
#include "perceiver/io/haiku_checkpoint.h"
#include "perceiver/io/safetensors.h"
#include "perceiver/spec/haiku.h"
#include "perceiver/spec/hugging_face.h"
#include "perceiver/spec/parameters.h"
#include "perceiver/spec/presets.h"

namespace perceiver::tasks {
namespace {

namespace fs = std::filesystem;

constexpr const char* kConfig = "config.json";
constexpr const char* kSpec = "spec.json";
constexpr const char* kWeights = "model.safetensors";
constexpr const char* kPreprocessor = "preprocessor_config.json";

bool present(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

// Half-precision files are widened once here, so that no later room has to know of them.
ArrayMap as_float32(ArrayMap arrays) {
  for (auto& [name, array] : arrays) {
    if (array.dtype() == DType::kF16 || array.dtype() == DType::kBF16 ||
        array.dtype() == DType::kF64) {
      array = array.to(DType::kF32);
    }
  }
  return arrays;
}

void require_something(const fs::path& path) {
  std::error_code failure;
  const fs::file_status status = fs::status(path, failure);
  if (failure || !fs::exists(status)) {
    throw Error(ErrorCode::kIo,
                cat(path.string(), ": ",
                    failure ? failure.message() : std::string("No such file or directory")));
  }
}

io::HaikuCheckpoint read_haiku(const fs::path& file) {
  if (io::sniff_checkpoint(file) != io::CheckpointKind::kHaiku) {
    throw Error(ErrorCode::kFormat,
                cat(file.string(),
                    ": is a weights file; give the folder that holds it together "
                    "with its config.json or spec.json"));
  }
  return io::read_haiku_checkpoint(file);
}

ModelSpec haiku_spec(const io::HaikuCheckpoint& checkpoint, const fs::path& file) {
  try {
    return as_deepmind(preset(recognise_haiku(checkpoint.params)));
  } catch (const Error& error) {
    const std::string what = error.what();
    throw Error(error.code(), what.find(file.string()) == std::string::npos
                                  ? cat(file.string(), ": ", what)
                                  : what);
  }
}

ModelSpec folder_spec(const fs::path& folder) {
  const bool ours = present(folder / kSpec);
  const bool theirs = present(folder / kConfig);
  if (ours && theirs) {
    throw Error(ErrorCode::kFormat, cat(folder.string(),
                                        ": holds both config.json and spec.json; "
                                        "keep the one that describes the weights"));
  }
  if (ours) {
    const fs::path path = folder / kSpec;
    return spec_from_json(read_json(path), path.string());
  }
  if (theirs) {
    const fs::path path = folder / kConfig;
    return config_from_hugging_face(read_json(path), path.string()).spec;
  }
  throw Error(ErrorCode::kIo, cat(folder.string(),
                                  ": no config.json and no spec.json in this folder, so it is not "
                                  "a model"));
}

std::optional<Json> folder_preprocessor(const fs::path& folder) {
  const fs::path path = folder / kPreprocessor;
  if (!present(path)) {
    return std::nullopt;
  }
  Json json = read_json(path);
  if (!json.is_object()) {
    throw Error(ErrorCode::kFormat, cat(path.string(), ": must hold a JSON object"));
  }
  return json;
}

Bundle load_folder(const fs::path& folder) {
  Bundle bundle;
  bundle.path = folder;
  bundle.spec = folder_spec(folder);
  bundle.preprocessor = folder_preprocessor(folder);
  ArrayMap stored = io::read_hugging_face_weights(folder);
  if (present(folder / kSpec)) {
    check_parameters(bundle.spec, stored, folder.string());
  } else {
    stored = from_hugging_face(bundle.spec, stored, folder.string());
  }
  io::require_finite(stored, folder.string());
  bundle.weights = as_float32(std::move(stored));
  return bundle;
}

Bundle load_haiku(const fs::path& file) {
  const io::HaikuCheckpoint checkpoint = read_haiku(file);
  Bundle bundle;
  bundle.path = file;
  bundle.spec = haiku_spec(checkpoint, file);
  bundle.weights =
      as_float32(from_haiku(bundle.spec, checkpoint.params, checkpoint.state, file.string()));
  io::require_finite(bundle.weights, file.string());
  return bundle;
}

void write_files(const Bundle& bundle, const fs::path& folder, bool theirs) {
  const Json description = theirs ? config_to_hugging_face(bundle.spec) : spec_to_json(bundle.spec);
  // transformers refuses files without this entry.
  const io::Metadata metadata{{"format", "pt"}};
  io::write_safetensors(folder / kWeights,
                        theirs ? to_hugging_face(bundle.spec, bundle.weights) : bundle.weights,
                        metadata);
  if (bundle.preprocessor) {
    write_json(folder / kPreprocessor, *bundle.preprocessor);
  }
  write_json(folder / (theirs ? kConfig : kSpec), description);
}

// What an earlier model left behind would contradict the new one.
void remove_stale(const Bundle& bundle, const fs::path& folder, bool theirs) {
  std::error_code ignored;
  fs::remove(folder / (theirs ? kSpec : kConfig), ignored);
  if (!bundle.preprocessor) {
    fs::remove(folder / kPreprocessor, ignored);
  }
}

[[noreturn]] void refuse(const fs::path& path, const std::string& why) {
  throw Error(ErrorCode::kIo, cat(path.string(), ": ", why));
}

fs::path parent_of(const fs::path& path) {
  const fs::path parent =
      path.has_filename() ? path.parent_path() : path.parent_path().parent_path();
  return parent.empty() ? fs::path(".") : parent;
}

}  // namespace

Bundle load_bundle(const fs::path& path) {
  require_something(path);
  return fs::is_directory(path) ? load_folder(path) : load_haiku(path);
}

ModelSpec load_spec(const fs::path& path) {
  require_something(path);
  return fs::is_directory(path) ? folder_spec(path) : haiku_spec(read_haiku(path), path);
}

void save_bundle(const Bundle& bundle, const fs::path& folder, Layout layout) {
  require_writable_folder(folder);
  const bool theirs = layout == Layout::kTransformers ||
                      (layout == Layout::kAuto && has_hugging_face_form(bundle.spec));
  check_parameters(bundle.spec, bundle.weights, "model to save");
  if (present(folder)) {
    write_files(bundle, folder, theirs);
    remove_stale(bundle, folder, theirs);
    return;
  }
  const fs::path plain = folder.has_filename() ? folder : folder.parent_path();
  const fs::path pending =
      parent_of(folder) / cat(".", plain.filename().string(), ".pending-", ::getpid());
  std::error_code failure;
  fs::create_directory(pending, failure);
  if (failure) {
    refuse(folder, failure.message());
  }
  try {
    write_files(bundle, pending, theirs);
    fs::rename(pending, plain, failure);
    if (failure) {
      refuse(folder, failure.message());
    }
    sync_folder(parent_of(folder));
  } catch (const Error& error) {
    std::error_code ignored;
    fs::remove_all(pending, ignored);
    // Name the folder the user asked for, not the one it was being prepared in.
    std::string what = error.what();
    const std::string hidden = pending.string();
    if (const size_t at = what.find(hidden); at != std::string::npos) {
      what.replace(at, hidden.size(), plain.string());
    }
    throw Error(error.code(), what);
  } catch (...) {
    std::error_code ignored;
    fs::remove_all(pending, ignored);
    throw;
  }
}

Model open_model(const fs::path& path, const EngineChoice& choice) {
  const auto start = std::chrono::steady_clock::now();
  Model model;
  model.bundle = load_bundle(path);
  model.engine = make_engine(model.bundle, choice);
  model.bundle.weights.clear();
  model.load_seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return model;
}

void require_writable(const fs::path& path) {
  std::error_code failure;
  const fs::file_status status = fs::status(path, failure);
  if (fs::is_directory(status)) {
    refuse(path, "Is a directory");
  }
  if (fs::exists(status) && !fs::is_regular_file(status)) {  // a device or pipe
    if (::access(path.c_str(), W_OK) != 0) {
      refuse(path, std::strerror(errno));
    }
    return;
  }
  const fs::path parent = parent_of(path);
  if (!fs::is_directory(parent, failure)) {
    refuse(path, present(parent) ? "Not a directory" : "No such file or directory");
  }
  PendingFile probe(path);  // creates and removes a temporary: also true for root and full disks
}

void require_writable_folder(const fs::path& path) {
  if (present(path)) {
    if (!fs::is_directory(path)) {
      refuse(path, "Not a directory");
    }
    require_writable(path / kConfig);
    return;
  }
  const fs::path parent = parent_of(path);
  if (!present(parent)) {
    refuse(path, cat("cannot be created: ", parent.string(), " does not exist"));
  }
  require_writable(parent / cat(".perceiver-probe-", ::getpid()));
}

}  // namespace perceiver::tasks
