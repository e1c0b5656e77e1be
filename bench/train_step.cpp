// One training step of a model folder, timed: forward, mean square of the outputs, backward. The
// program behind train_step.py; not part of the library.
//
//   train_step FOLDER INPUTS THREADS STEPS REPORT
//
// REPORT, JSON: {"seconds": [per step, the first one to warm up], "loss", "plans": {attention:
// plan}, "gradient_norms": {tensor under transformers' name: L2 norm}}.

#include <chrono>
#include <exception>
#include <fstream>
#include <iostream>
#include <map>
#include <string>
#include <vector>

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include <nlohmann/json.hpp>

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>

#include "perceiver/base/json.h"
#include "perceiver/io/safetensors.h"
#include "perceiver/nn/model.h"
#include "perceiver/nn/tensor.h"
#include "perceiver/spec/hugging_face.h"
#include "perceiver/tasks/bundle.h"
#include "perceiver/tasks/forward.h"

namespace {

using namespace perceiver;

/// As the program `perceiver train` sets it: what a step frees, the next one needs again.
void keep_freed_memory() {
#ifdef __GLIBC__
  constexpr int kLargestAllowedThreshold = 32 << 20;
  mallopt(M_MMAP_THRESHOLD, kLargestAllowedThreshold);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  mallopt(M_TOP_PAD, 64 << 20);
#endif
}

nn::TensorMap tensors_of(const ArrayMap& arrays) {
  nn::TensorMap tensors;
  for (const auto& [name, array] : arrays) {
    tensors.emplace(name, nn::to_tensor(array));
  }
  return tensors;
}

nn::Model load(const std::string& folder) {
  tasks::Bundle bundle = tasks::load_bundle(folder);
  nn::Model model(bundle.spec, bundle.weights);
  model.parameters().requires_grad(true);
  return model;
}

/// The loss: every output's mean square, added up.
double step(nn::Model& model, const nn::TensorInputs& inputs, const nn::TensorRequest& request) {
  for (const nn::Parameters::Entry& entry : model.parameters().entries()) {
    entry.tensor.mutable_grad() = at::Tensor();
  }
  at::Tensor loss;
  for (const auto& [name, output] : model.forward(inputs, request)) {
    const at::Tensor part = output.square().mean();
    loss = loss.defined() ? loss + part : part;
  }
  loss.backward();
  return loss.item<double>();
}

Json gradient_norms(const nn::Model& model) {
  Json norms = Json::object();
  for (const NamePair& name : hugging_face_names(model.spec())) {
    const at::Tensor& grad = model.parameters().at(name.ours).grad();
    norms[name.theirs] = grad.defined() ? grad.norm().item<double>() : 0.0;
  }
  return norms;
}

int run(const std::vector<std::string>& arguments) {
  at::set_num_threads(std::stoi(arguments[2]));
  nn::Model model = load(arguments[0]);
  const ArrayMap tensors = io::read_safetensors(arguments[1]);
  const tasks::ForwardCall call = tasks::forward_call(model.spec(), tensors);
  const nn::TensorInputs inputs{tensors_of(call.inputs.arrays), tensors_of(call.inputs.masks), {}};
  nn::TensorRequest request;
  request.points = call.request.points;
  Json report{{"seconds", Json::array()}, {"plans", Json::object()}};
  for (int i = 0; i < std::stoi(arguments[3]); ++i) {
    const auto start = std::chrono::steady_clock::now();
    report["loss"] = step(model, inputs, request);
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    report["seconds"].push_back(taken.count());
  }
  for (const UsedPlan& used : model.plans()) {
    report["plans"][used.attention] = used.plan;
  }
  report["gradient_norms"] = gradient_norms(model);
  std::ofstream(arguments[4]) << report.dump(1) << "\n";
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 6) {
    std::cerr << "usage: train_step FOLDER INPUTS THREADS STEPS REPORT\n";
    return 2;
  }
  try {
    keep_freed_memory();
    return run({argv + 1, argv + argc});
  } catch (const std::exception& error) {
    std::cerr << "train_step: " << error.what() << "\n";
    return 1;
  }
}
