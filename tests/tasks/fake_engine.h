#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "perceiver/tokens/engine.h"

namespace perceiver::test {

/// An engine that answers as told and remembers what it was asked.
class FakeEngine : public Engine {
 public:
  using Answer = std::function<ArrayMap(const ModelInputs&, const OutputRequest&)>;
  FakeEngine(ModelSpec spec, Answer answer) : spec_(std::move(spec)), answer_(std::move(answer)) {}

  const ModelSpec& spec() const override { return spec_; }
  std::string name() const override { return "fake"; }
  std::unique_ptr<Encoded> encode(const ModelInputs& inputs, Trace*) override {
    ++encodes;
    last_inputs = inputs;
    return std::make_unique<Latents>();
  }
  ArrayMap decode(const Encoded&, const OutputRequest& request, Trace*) override {
    ++decodes;
    last_request = request;
    return answer_(last_inputs, request);
  }

  ModelInputs last_inputs;
  OutputRequest last_request;
  int encodes = 0;
  int decodes = 0;

 private:
  class Latents : public Encoded {
   public:
    Array latents() const override { return Array::zeros(DType::kF32, {1, 1, 1}); }
  };
  ModelSpec spec_;
  Answer answer_;
};

}  // namespace perceiver::test
