// One training step of a model folder, timed: forward, mean square of the outputs, backward. The
// program behind train_step.py and gpu.py; not part of the library.
//
//   train_step FOLDER INPUTS THREADS STEPS REPORT [DEVICE FORWARDS PLAN]
//
// With a device: first so many forwards without gradients. Inputs lie on the device before the
// clock starts, and the loss is read before it stops.
//
// REPORT, JSON: {"seconds": [per step, the first one to warm up], "loss", "plans": {attention:
// plan}, "gradient_norms": {tensor under transformers' name: L2 norm}, "forward_seconds",
// "forward_loss", "forward_peak", "peak": bytes of a GPU's memory}.

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
#include <ATen/core/grad_mode.h>
#include <c10/core/CachingDeviceAllocator.h>

#include "perceiver/base/json.h"
#include "perceiver/io/safetensors.h"
#include "perceiver/nn/device.h"
#include "perceiver/nn/model.h"
#include "perceiver/nn/tensor.h"
#include "perceiver/spec/hugging_face.h"
#include "perceiver/spec/plan.h"
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

nn::TensorMap tensors_of(const ArrayMap& arrays, const at::Device& device) {
  nn::TensorMap tensors;
  for (const auto& [name, array] : arrays) {
    tensors.emplace(name, nn::to_tensor(array).to(device));
  }
  return tensors;
}

nn::Model load(const std::string& folder, const at::Device& device, Plan plan) {
  tasks::Bundle bundle = tasks::load_bundle(folder);
  nn::Model model(bundle.spec, bundle.weights, {.device = device, .plan = plan});
  model.parameters().requires_grad(true);
  return model;
}

/// Every output's mean square, added up.
at::Tensor loss_of(nn::Model& model, const nn::TensorInputs& inputs,
                   const nn::TensorRequest& request) {
  at::Tensor loss;
  for (const auto& [name, output] : model.forward(inputs, request)) {
    const at::Tensor part = output.square().mean();
    loss = loss.defined() ? loss + part : part;
  }
  return loss;
}

double forward(nn::Model& model, const nn::TensorInputs& inputs, const nn::TensorRequest& request) {
  const at::NoGradGuard no_grad;
  return loss_of(model, inputs, request).item<double>();
}

double step(nn::Model& model, const nn::TensorInputs& inputs, const nn::TensorRequest& request) {
  for (const nn::Parameters::Entry& entry : model.parameters().entries()) {
    entry.tensor.mutable_grad() = at::Tensor();
  }
  const at::Tensor loss = loss_of(model, inputs, request);
  loss.backward();
  return loss.item<double>();
}

/// Most bytes of the GPU's memory that tensors took since the last call; 0 on a CPU.
int64_t take_peak(const at::Device& device) {
  if (device.is_cpu()) {
    return 0;
  }
  auto* allocator = c10::getDeviceAllocator(device.type());
  const int64_t peak = allocator->getDeviceStats(device.index()).allocated_bytes[0].peak;
  allocator->resetPeakStats(device.index());
  return peak;
}

/// Seconds of each of `count` calls.
template <typename Call>
std::vector<double> seconds_of(int count, const Call& call) {
  std::vector<double> seconds;
  for (int i = 0; i < count; ++i) {
    const auto start = std::chrono::steady_clock::now();
    call();
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    seconds.push_back(taken.count());
  }
  return seconds;
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
  const bool chosen = arguments.size() > 5;
  const at::Device device = chosen ? nn::parse_device(arguments[5]) : at::Device(at::kCPU);
  nn::Model model = load(arguments[0], device, chosen ? parse_plan(arguments[7]) : Plan::kAuto);
  const ArrayMap tensors = io::read_safetensors(arguments[1]);
  const tasks::ForwardCall call = tasks::forward_call(model.spec(), tensors);
  const nn::TensorInputs inputs{
      tensors_of(call.inputs.arrays, device), tensors_of(call.inputs.masks, device), {}};
  nn::TensorRequest request;
  request.points = call.request.points;
  Json report{{"plans", Json::object()}};
  report["forward_seconds"] = seconds_of(chosen ? std::stoi(arguments[6]) : 0, [&] {
    report["forward_loss"] = forward(model, inputs, request);
  });
  report["forward_peak"] = take_peak(device);
  report["seconds"] =
      seconds_of(std::stoi(arguments[3]), [&] { report["loss"] = step(model, inputs, request); });
  report["peak"] = take_peak(device);
  for (const UsedPlan& used : model.plans()) {
    report["plans"][used.attention] = used.plan;
  }
  report["gradient_norms"] = gradient_norms(model);
  std::ofstream(arguments[4]) << report.dump(1) << "\n";
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 6 && argc != 9) {
    std::cerr << "usage: train_step FOLDER INPUTS THREADS STEPS REPORT [DEVICE FORWARDS PLAN]\n";
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
