// The two containers of torch.save: a zip of a pickle and one entry per storage (since 1.6), and
// before that a row of pickles with the storages behind them (torch/serialization.py).
#include "perceiver/io/torch_checkpoint.h"

#include <cstring>

#include "io/torch_format.h"
#include "io/torch_pickle.h"
#include "io/zip_archive.h"

namespace perceiver::io {
namespace {

constexpr std::string_view kPickleEntry = "/data.pkl";
// 0x1950a86a20f9469cfc6c, little-endian, as LONG1 of protocol 2 writes it.
constexpr std::string_view kLegacyMagic("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.",
                                        15);
constexpr int64_t kLegacyProtocol = 1001;

// torch puts everything into one folder, named after the file.
std::string archive_folder(const FileBytes& file, const ZipEntries& entries) {
  std::string folder;
  for (const auto& [name, entry] : entries) {
    const size_t slash = name.find('/');
    if (slash != std::string::npos && std::string_view(name).substr(slash) == kPickleEntry) {
      if (!folder.empty()) {
        file.refuse("not a torch checkpoint: a zip archive with two data.pkl");
      }
      folder = name.substr(0, slash + 1);
    }
  }
  if (folder.empty()) {
    file.refuse("not a torch checkpoint: a zip archive without data.pkl");
  }
  return folder;
}

ArrayMap read_zip_container(const FileBytes& file) {
  const ZipEntries entries = read_zip(file);
  const std::string folder = archive_folder(file, entries);
  const auto entry = [&](const std::string& name) -> std::optional<std::string_view> {
    const auto found = entries.find(folder + name);
    if (found == entries.end()) {
      return std::nullopt;
    }
    if (const char* obstacle = found->second.obstacle; obstacle != nullptr) {
      file.unsupported(cat("zip entry \"", printable(found->first), "\" is ", obstacle,
                           "; torch.save stores entries as they are"));
    }
    return found->second.bytes;
  };
  if (entries.contains(folder + "constants.pkl")) {
    file.unsupported("a TorchScript archive, not a state dict saved by torch.save");
  }
  if (const auto order = entry("byteorder"); order && *order != "little") {
    file.unsupported(cat("byte order \"", printable(*order), "\" instead of \"little\""));
  }
  const FileBytes pickle{*entry("data.pkl"), file.owner, file.where};
  TorchPickleHandler handler;
  PickleMachine machine(pickle, handler);
  const PickleValue* top = machine.run();
  return build_torch_tensors(
      file, *top, [&](std::string_view key) { return entry("data/" + std::string(key)); });
}

// Reads the older container front to back.
class LegacyReader {
 public:
  explicit LegacyReader(const FileBytes& file) : file_(file), rest_(file) {}

  ArrayMap read() {
    rest_.bytes.remove_prefix(kLegacyMagic.size());
    check_header();
    TorchPickleHandler handler;
    const FileBytes at_pickle = rest_;
    PickleMachine machine(at_pickle, handler);
    const PickleValue* top = machine.run();
    rest_.bytes.remove_prefix(machine.consumed());
    read_storages(handler);
    return build_torch_tensors(
        file_, *top, [&](std::string_view key) -> std::optional<std::string_view> {
          const auto found = storages_.find(key);
          return found == storages_.end() ? std::nullopt : std::optional(found->second);
        });
  }

 private:
  // Runs the next pickle and passes its value to `use`.
  template <typename Use>
  void next_pickle(const Use& use) {
    TorchPickleHandler handler;
    const FileBytes at_pickle = rest_;
    PickleMachine machine(at_pickle, handler);
    use(*machine.run());
    rest_.bytes.remove_prefix(machine.consumed());
  }

  void check_header() {
    next_pickle([&](const PickleValue& protocol) {
      if (!protocol.is(PickleKind::kInt) || protocol.integer != kLegacyProtocol) {
        file_.unsupported(cat("torch container of another protocol than ", kLegacyProtocol));
      }
    });
    next_pickle([&](const PickleValue& system) {
      const PickleValue* little = system.find("little_endian");
      if (little == nullptr || little->integer != 1) {
        file_.unsupported("written on a big-endian machine");
      }
    });
  }

  // A list of keys, then for each a count of elements and the elements.
  void read_storages(const TorchPickleHandler& handler) {
    using Sizes = std::map<std::string_view, uint64_t>;
    Sizes element_sizes;
    for (const TorchStorage* storage : handler.storages()) {
      const std::optional<DType> dtype = torch_dtype(storage->type);
      if (!dtype) {
        file_.unsupported(cat("holds numbers of type ", storage->type, ", which is not supported"));
      }
      element_sizes[storage->key] = static_cast<uint64_t>(dtype_size(*dtype));
    }
    std::vector<Sizes::const_iterator> order;
    next_pickle([&](const PickleValue& keys) {
      for (const PickleValue* key : keys.items) {
        order.push_back(element_sizes.find(key->text));
        if (order.back() == element_sizes.end()) {
          file_.refuse(cat("storage \"", printable(key->text), "\" belongs to no tensor"));
        }
      }
    });
    for (const auto& storage : order) {
      const auto& [key, element_size] = *storage;
      uint64_t bytes = 0;
      if (__builtin_mul_overflow(take_count(key), element_size, &bytes)) {
        file_.refuse(cat("storage \"", printable(key), "\" is too large"));
      }
      if (!storages_.emplace(key, take(bytes, key)).second) {
        file_.refuse(cat("storage \"", printable(key), "\" appears twice"));
      }
    }
  }

  std::string_view take(uint64_t count, std::string_view key) {
    if (count > rest_.bytes.size()) {
      file_.refuse(cat("storage \"", printable(key), "\" of ", count, " bytes, but only ",
                       rest_.bytes.size(), " follow (is the file truncated?)"));
    }
    const std::string_view taken = rest_.bytes.substr(0, count);
    rest_.bytes.remove_prefix(count);
    return taken;
  }

  uint64_t take_count(std::string_view key) {
    uint64_t count = 0;
    std::memcpy(&count, take(sizeof count, key).data(), sizeof count);
    return count;
  }

  const FileBytes& file_;
  FileBytes rest_;
  std::map<std::string_view, std::string_view> storages_;
};

}  // namespace

bool is_legacy_torch(std::string_view bytes) {
  return bytes.starts_with(kLegacyMagic);
}

ArrayMap read_torch_checkpoint(const FileBytes& file) {
  if (is_legacy_torch(file.bytes)) {
    return LegacyReader(file).read();
  }
  if (!file.bytes.starts_with("PK")) {
    file.refuse("not a torch checkpoint: neither of the containers torch.save writes");
  }
  return read_zip_container(file);
}

ArrayMap read_torch_checkpoint(const std::filesystem::path& path) {
  return read_torch_checkpoint(map_file(path));
}

}  // namespace perceiver::io
