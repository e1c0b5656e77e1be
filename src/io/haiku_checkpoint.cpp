#include "perceiver/io/haiku_checkpoint.h"

#include "io/haiku_format.h"
#include "io/numpy_pickle.h"

namespace perceiver::io {
namespace {

ArrayMap read_tree(const FileBytes& file, const PickleValue& tree, ArrayBudget& budget) {
  ArrayMap arrays;
  for (const auto& [module, parameters] : text_items(file, tree, "the parameter tree")) {
    const std::string what = cat("module \"", printable(module), "\"");
    if (!parameters->is(PickleKind::kDict)) {
      file.refuse(what + " is not a dict of arrays");
    }
    for (const auto& [parameter, value] : text_items(file, *parameters, what)) {
      if (module.size() + parameter.size() >= kMaxTensorName) {
        file.refuse(cat(what, ": a parameter's name is too long"));
      }
      const std::string name = cat(module, "/", parameter);
      auto* array = value->as<NumpyArray>();
      if (array == nullptr) {
        file.refuse(tensor_named(name) + " is not an array");
      }
      Array built = build_numpy_array(file, *array, budget, tensor_named(name));
      add_array(file, arrays, name, std::move(built));
    }
  }
  return arrays;
}

// Whether the top level separates parameters from state. A module may itself be called "params";
// then its values are arrays, not modules.
bool splits_state(const PickleValue& top) {
  const PickleValue* params = top.find("params");
  if (params == nullptr || !params->is(PickleKind::kDict)) {
    return false;
  }
  for (size_t i = 1; i < params->items.size(); i += 2) {
    if (!params->items[i]->is(PickleKind::kDict)) {
      return false;
    }
  }
  return true;
}

}  // namespace

HaikuCheckpoint read_haiku_checkpoint(const FileBytes& file) {
  NumpyPickleHandler handler;
  PickleMachine machine(file, handler);
  const PickleValue* top = machine.run();
  if (machine.consumed() != file.bytes.size()) {
    file.refuse(
        cat("the pickle ends at byte ", machine.consumed(), ", the file at ", file.bytes.size()));
  }
  HaikuCheckpoint checkpoint;
  ArrayBudget budget(file);
  if (!splits_state(*top)) {
    checkpoint.params = read_tree(file, *top, budget);
  } else {
    for (const auto& [key, tree] : text_items(file, *top, "the checkpoint")) {
      if (key != "params" && key != "state") {
        file.refuse(cat("\"", printable(key), "\" beside params and state"));
      }
      ArrayMap& arrays = key == "params" ? checkpoint.params : checkpoint.state;
      if (!arrays.empty()) {
        file.refuse(cat("\"", key, "\" appears twice"));
      }
      arrays = read_tree(file, *tree, budget);
    }
  }
  if (checkpoint.params.empty()) {
    file.refuse("holds no parameters");
  }
  return checkpoint;
}

HaikuCheckpoint read_haiku_checkpoint(const std::filesystem::path& path) {
  return read_haiku_checkpoint(map_file(path));
}

}  // namespace perceiver::io
