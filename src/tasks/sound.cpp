#include "perceiver/tasks/sound.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/tokens/audio_processor.h"

namespace perceiver::tasks {
namespace {

tokens::AudioProcessorConfig sound_config(const Bundle& bundle) {
  const std::string where = printable((bundle.path / "preprocessor_config.json").string());
  if (!bundle.preprocessor || !bundle.preprocessor->is_object() ||
      !bundle.preprocessor->contains("sampling_rate")) {
    throw Error(ErrorCode::kFormat,
                cat(where, ": sampling_rate is missing: the rate in Hz at which the model hears"));
  }
  return tokens::audio_processor_config_from_json(*bundle.preprocessor, where);
}

}  // namespace

bool is_sound_classifier(const ModelSpec& spec) {
  return spec.inputs.size() == 1 && spec.inputs[0].kind == InputKind::kGrid &&
         spec.inputs[0].index_dims.size() == 1 && spec.inputs[0].channels >= 1 &&
         spec.inputs[0].channels <= 2 && spec.outputs.size() == 1 && spec.outputs[0].single_row;
}

std::vector<Ranked> classify_sound(const Bundle& bundle, Engine& engine, const io::Audio& sound,
                                   const ClassifySoundOptions& options) {
  if (!is_sound_classifier(bundle.spec)) {
    throw Error(ErrorCode::kArgument,
                cat("model \"", printable(bundle.spec.name), "\" does not classify sounds"));
  }
  if (options.windows < 1) {
    throw Error(ErrorCode::kArgument, cat("cannot listen to ", options.windows, " windows"));
  }
  const tokens::AudioProcessorConfig config = sound_config(bundle);
  const InputSpec& input = bundle.spec.inputs[0];
  const int64_t length = input.index_dims[0];
  const io::Audio heard =
      io::resample(sound, config.sampling_rate, static_cast<int>(input.channels));
  std::vector<float> logits;
  std::vector<double> sum;
  for (const int64_t begin : tokens::spread_windows(heard.length(), length, options.windows)) {
    ModelInputs inputs;
    inputs.arrays[input.name] =
        tokens::audio_window(heard.samples, begin, length, config.do_normalize)
            .reshape({1, length, input.channels});
    const Array answer = engine.forward(inputs).at(bundle.spec.outputs[0].name).to(DType::kF32);
    logits.assign(answer.data<float>(), answer.data<float>() + answer.numel());
    const std::vector<double> probabilities = softmax(logits.data(), answer.numel());
    sum.resize(probabilities.size());
    std::transform(sum.begin(), sum.end(), probabilities.begin(), sum.begin(), std::plus<>());
  }
  if (options.windows > 1) {  // logits whose softmax is the mean
    constexpr double kLeast = 1e-30;
    std::transform(sum.begin(), sum.end(), logits.begin(), [&](double total) {
      return static_cast<float>(
          std::log(std::max(total / static_cast<double>(options.windows), kLeast)));
    });
  }
  return rank_classes(logits.data(), static_cast<int64_t>(logits.size()), options.top,
                      bundle.spec.labels);
}

}  // namespace perceiver::tasks
