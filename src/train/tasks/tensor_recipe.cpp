// The keys of a recipe of task `tensors`.
#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "train/tasks/tensor_task.h"

namespace perceiver::train {
namespace {

namespace fs = std::filesystem;

TensorFilesSpec read_files(Fields& fields, const std::string& key, const fs::path& folder) {
  TensorFilesSpec files;
  if (!fields.at(key).is_object()) {
    files.safetensors = existing_file(fields, key, folder);
    return files;
  }
  Fields arrays = fields.object(key);
  for (const auto& [name, unused] : fields.at(key).items()) {
    files.npy.emplace(name, existing_file(arrays, name, folder));
  }
  if (files.npy.empty()) {
    throw Error(ErrorCode::kFormat, cat(fields.where(key), " names no file"));
  }
  return files;
}

std::string required_text(Fields& fields, const std::string& key) {
  fields.at(key);
  return fields.text(key, "");
}

TensorInput read_input(Fields& inputs, const std::string& name) {
  TensorInput input;
  input.input = name;
  if (inputs.at(name).is_string()) {
    input.array = inputs.text(name, "");
    return input;
  }
  Fields fields = inputs.object(name);
  input.array = required_text(fields, "array");
  input.mask = fields.text("mask", "");
  input.mean = fields.number("mean", 0, -1e30, 1e30);
  input.deviation = fields.number("deviation", 1, 1e-30, 1e30);
  fields.finish();
  return input;
}

TensorOutput read_output(Fields fields, const std::string& name) {
  TensorOutput output;
  output.output = name;
  output.array = required_text(fields, "array");
  constexpr TensorLoss kLosses[] = {TensorLoss::kCrossEntropy, TensorLoss::kBinary,
                                    TensorLoss::kMse, TensorLoss::kL1};
  fields.at("loss");
  output.loss = kLosses[fields.choice("loss", 0, {"cross_entropy", "binary", "mse", "l1"})];
  output.mask = fields.text("mask", "");
  output.queries = fields.text("queries", "");
  output.weight = fields.number("weight", 1, 0, 1e9);
  if (output.loss == TensorLoss::kCrossEntropy) {
    output.label_smoothing = fields.number("label_smoothing", 0, 0, 1);
  }
  fields.finish();
  return output;
}

template <typename Read>
void each_key(Fields& fields, const std::string& key, const Read& read) {
  const Json& object = fields.at(key);
  Fields inside = fields.object(key);
  for (const auto& [name, unused] : object.items()) {
    read(inside, name);
  }
  if (object.empty()) {
    throw Error(ErrorCode::kFormat, cat(fields.where(key), " is empty"));
  }
}

TensorDataSpec read_tensors(Fields fields, const fs::path& folder) {
  TensorDataSpec data;
  data.train = read_files(fields, "train", folder);
  if (fields.has("test")) {
    data.test = read_files(fields, "test", folder);
  } else {
    data.held_out = fields.number("held_out", data.held_out, 1e-6, 0.999);
  }
  each_key(fields, "inputs", [&](Fields& inside, const std::string& name) {
    data.inputs.push_back(read_input(inside, name));
  });
  each_key(fields, "outputs", [&](Fields& inside, const std::string& name) {
    data.outputs.push_back(read_output(inside.object(name), name));
  });
  fields.finish();
  return data;
}

}  // namespace

std::shared_ptr<const TaskRecipe> read_tensor_recipe(Fields& fields, const fs::path& folder) {
  auto recipe = std::make_shared<TensorRecipe>();
  recipe->data = read_tensors(fields.object("data"), folder);
  return recipe;
}

}  // namespace perceiver::train
