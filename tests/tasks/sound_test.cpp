#include "perceiver/tasks/sound.h"

#include <cmath>

#include <gtest/gtest.h>

#include "perceiver/base/error.h"
#include "tasks/fake_engine.h"

namespace perceiver::tasks {
namespace {

Bundle listener() {
  Bundle bundle;
  bundle.spec.name = "listener";
  InputSpec input;
  input.name = "audio";
  input.index_dims = {8};
  input.channels = 1;
  bundle.spec.inputs = {input};
  OutputSpec output;
  output.name = "logits";
  output.single_row = true;
  bundle.spec.outputs = {output};
  bundle.spec.labels = {"quiet", "loud"};
  bundle.preprocessor = Json{{"sampling_rate", 100}};
  return bundle;
}

io::Audio ramp(int64_t length, int rate = 100) {
  io::Audio audio;
  audio.sample_rate = rate;
  audio.samples = Array::zeros(DType::kF32, {length, 1});
  for (int64_t t = 0; t < length; ++t) {
    audio.samples.mutable_data<float>()[t] = static_cast<float>(t + 1);
  }
  return audio;
}

// Answers with the first sample of the window against 0.
test::FakeEngine first_sample(const Bundle& bundle) {
  return {bundle.spec, [](const ModelInputs& inputs, const OutputRequest&) {
            const float first = inputs.arrays.at("audio").data<float>()[0];
            return ArrayMap{{"logits", Array::of<float>({1, 2}, {0, first})}};
          }};
}

TEST(ClassifySound, HearsTheMiddleAndAveragesWindows) {
  const Bundle bundle = listener();
  test::FakeEngine engine = first_sample(bundle);
  const std::vector<Ranked> middle = classify_sound(bundle, engine, ramp(12));
  EXPECT_EQ(engine.last_inputs.arrays.at("audio").shape(), (std::vector<int64_t>{1, 8, 1}));
  EXPECT_EQ(middle[0].label, "loud");
  EXPECT_DOUBLE_EQ(middle[0].logit, 3);  // samples 3..10 of 1..12
  const std::vector<Ranked> spread = classify_sound(bundle, engine, ramp(12), {2, 3});
  EXPECT_EQ(engine.encodes, 4);
  const auto sure = [](double logit) { return 1 / (1 + std::exp(-logit)); };
  EXPECT_NEAR(spread[0].probability, (sure(1) + sure(3) + sure(5)) / 3, 1e-6);
  classify_sound(bundle, engine, ramp(4));
  const float* padded = engine.last_inputs.arrays.at("audio").data<float>();
  EXPECT_EQ(padded[1], 0);
  EXPECT_EQ(padded[2], 1);
  EXPECT_EQ(padded[6], 0);
}

TEST(ClassifySound, ResamplesToTheModelsRate) {
  const Bundle bundle = listener();
  test::FakeEngine engine = first_sample(bundle);
  io::Audio sound = ramp(400, 200);
  for (int64_t t = 0; t < 400; ++t) {
    sound.samples.mutable_data<float>()[t] /= 512;  // sound beyond 1 is cut
  }
  classify_sound(bundle, engine, sound, {1, 1});
  const float* heard = engine.last_inputs.arrays.at("audio").data<float>();
  EXPECT_NEAR(heard[4] - heard[3], 2.0 / 512, 0.2 / 512);
}

TEST(ClassifySound, RefusesOtherModelsAndAnUnstatedRate) {
  Bundle bundle = listener();
  test::FakeEngine engine = first_sample(bundle);
  bundle.preprocessor.reset();
  EXPECT_THROW(classify_sound(bundle, engine, ramp(8)), Error);
  bundle = listener();
  bundle.spec.inputs[0].index_dims = {8, 8};
  EXPECT_FALSE(is_sound_classifier(bundle.spec));
  EXPECT_THROW(classify_sound(bundle, engine, ramp(8)), Error);
}

}  // namespace
}  // namespace perceiver::tasks
