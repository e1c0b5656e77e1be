#include "perceiver/tokens/image_processor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "perceiver/base/error.h"
#include "perceiver/io/safetensors.h"
#include "support/shared.h"

namespace perceiver::tokens {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

template <typename Call>
std::string failure(const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    return std::to_string(static_cast<int>(error.code())) + " " + error.what();
  }
  return "nothing";
}

std::vector<int> levels(const Array& image) {
  return {image.data<uint8_t>(), image.data<uint8_t>() + image.numel()};
}

/// [H, W, 1] with the given rows' values in order.
Array grey(std::vector<int64_t> size, const std::vector<uint8_t>& values) {
  size.push_back(1);
  return Array::of<uint8_t>(size, values);
}

Array numbered(int64_t height, int64_t width) {
  std::vector<uint8_t> values(static_cast<size_t>(height * width));
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<uint8_t>(i + 1);
  }
  return grey({height, width}, values);
}

ImageProcessorConfig parsed(const std::string& text) {
  return image_processor_config_from_json(Json::parse(text), "preprocessor_config.json");
}

TEST(ImageProcessor, EqualsTransformersPilBackendInEveryFloat) {
  PERCEIVER_SHARED_OR_SKIP(folder, "fixtures/transformers/image_processor");
  const ArrayMap io = io::read_safetensors(folder / "io.safetensors");
  const ImageProcessorConfig config = image_processor_config_from_json(
      read_json(folder / "preprocessor_config.json"), "preprocessor_config.json");
  const Array got = process_image(io.at("in.image_uint8"), config);
  const Array& wanted = io.at("f32.pixel_values_pil");  // channels first
  ASSERT_EQ(got.shape(), (std::vector<int64_t>{28, 28, 3}));
  for (int64_t i = 0; i < 28 * 28; ++i) {
    for (int64_t c = 0; c < 3; ++c) {
      ASSERT_EQ(got.data<float>()[3 * i + c], wanted.data<float>()[c * 28 * 28 + i])
          << i << " " << c;
    }
  }
}

TEST(ImageProcessor, ReadsAHubStyleFile) {
  PERCEIVER_SHARED_OR_SKIP(file,
                           "fixtures/transformers/hub_style_vision_conv/preprocessor_config.json");
  EXPECT_EQ(image_processor_config_from_json(read_json(file), "p"), ImageProcessorConfig{});
}

TEST(ImageProcessorConfig, IntegersListsAndObjectsAreSizes) {
  EXPECT_EQ(parsed(R"({"size": 10, "crop_size": [20, 30]})").crop_size, (ImageSize{20, 30}));
  const ImageProcessorConfig config = parsed(R"({"size": {"width": 7, "height": 9}, "resample": 2,
      "image_mean": 0.5, "image_std": [0.1, 0.2, 0.3], "do_rescale": false, "rescale_factor": 2,
      "feature_extractor_type": "PerceiverFeatureExtractor", "processor_class": null})");
  EXPECT_EQ(config.size, (ImageSize{9, 7}));
  EXPECT_EQ(config.resample, ResampleFilter::kBilinear);
  EXPECT_THAT(config.image_mean, ElementsAre(0.5));
  EXPECT_FALSE(config.do_rescale);
}

TEST(ImageProcessorConfig, RoundTrips) {
  ImageProcessorConfig config;
  config.size = {8, 9};
  config.image_std = {0.25};
  config.resample = ResampleFilter::kLanczos;
  EXPECT_EQ(image_processor_config_from_json(image_processor_config_to_json(config), "p"), config);
  config.crop_start = CropStart::kCeil;
  EXPECT_THAT(failure([&] { image_processor_config_to_json(config); }), HasSubstr("1 "));
}

TEST(ImageProcessorConfig, NamesWhatIsWrong) {
  EXPECT_THAT(failure([] { parsed(R"({"sise": 3})"); }),
              AllOf(HasSubstr("3 "), HasSubstr("unknown key sise")));
  EXPECT_THAT(failure([] { parsed(R"({"size": {"shortest_edge": 3}})"); }),
              HasSubstr("size must be"));
  EXPECT_THAT(failure([] { parsed(R"({"size": 0})"); }), HasSubstr("got 0"));
  EXPECT_THAT(failure([] { parsed(R"({"size": 99999999})"); }), HasSubstr("16384"));
  EXPECT_THAT(failure([] { parsed(R"({"do_resize": 1})"); }),
              HasSubstr("do_resize must be true or false"));
  EXPECT_THAT(failure([] { parsed(R"({"image_std": [0, 1, 1]})"); }), HasSubstr("image_std"));
  EXPECT_THAT(failure([] { parsed(R"({"image_mean": []})"); }), HasSubstr("image_mean"));
  EXPECT_THAT(failure([] { parsed(R"({"resample": 0})"); }), HasSubstr("4 "));
  EXPECT_THAT(failure([] { parsed(R"({"do_pad": true})"); }), HasSubstr("do_pad"));
  EXPECT_THAT(failure([] { parsed("[]"); }), HasSubstr("JSON object"));
}

TEST(CenterCrop, FloorsOrCeilsAnOddBorder) {
  const Array image = numbered(1, 5);
  EXPECT_THAT(levels(center_crop(image, {1, 2})), ElementsAre(2, 3));
  EXPECT_THAT(levels(center_crop(image, {1, 2}, CropStart::kCeil)), ElementsAre(3, 4));
  EXPECT_THAT(levels(center_crop(image, {1, 3})), ElementsAre(2, 3, 4));
}

TEST(CenterCrop, SurroundsASmallerPictureWithZerosTheOddRowFirst) {
  EXPECT_THAT(levels(center_crop(numbered(2, 2), {3, 4})),
              ElementsAre(0, 0, 0, 0, 0, 1, 2, 0, 0, 3, 4, 0));
  EXPECT_THAT(levels(center_crop(numbered(1, 3), {2, 1})), ElementsAre(0, 2));
}

// The expected levels below were printed by Pillow 13.
TEST(ResizePil, EqualsPillowOnStepsAndRamps) {
  const Array step = grey({1, 8}, {0, 0, 0, 0, 255, 255, 255, 255});
  EXPECT_THAT(levels(resize_image(step, {1, 4}, ResampleFilter::kBicubic)),
              ElementsAre(0, 17, 238, 255));
  EXPECT_THAT(levels(resize_image(step, {1, 3}, ResampleFilter::kBilinear)),
              ElementsAre(0, 128, 255));
  EXPECT_THAT(levels(resize_image(step, {1, 5}, ResampleFilter::kLanczos)),
              ElementsAre(5, 0, 128, 255, 250));
  EXPECT_THAT(levels(resize_image(step, {1, 3}, ResampleFilter::kBox)), ElementsAre(0, 128, 255));
  EXPECT_THAT(levels(resize_image(step, {1, 3}, ResampleFilter::kHamming)),
              ElementsAre(0, 128, 255));
  EXPECT_THAT(
      levels(resize_image(grey({2, 2}, {10, 90, 200, 60}), {3, 3}, ResampleFilter::kBicubic)),
      ElementsAre(0, 45, 98, 107, 90, 73, 222, 135, 48));
}

TEST(ResizePil, SameSizeChangesNothing) {
  EXPECT_EQ(levels(resize_image(numbered(5, 4), {5, 4}, ResampleFilter::kBicubic)),
            levels(numbered(5, 4)));
}

// The expected levels below were printed by OpenCV 4.10.
TEST(ResizeOpenCv, EqualsOpenCvOnSmallPictures) {
  const Array step = grey({1, 8}, {0, 0, 0, 0, 255, 255, 255, 255});
  const auto resized = [](const Array& image, ImageSize size, ResampleFilter filter) {
    return levels(resize_image(image, size, filter, ResizeStyle::kOpenCv));
  };
  EXPECT_THAT(resized(step, {1, 3}, ResampleFilter::kBilinear), ElementsAre(0, 128, 255));
  EXPECT_THAT(resized(step, {1, 5}, ResampleFilter::kBicubic), ElementsAre(0, 0, 128, 255, 255));
  EXPECT_THAT(resized(grey({2, 2}, {10, 90, 200, 60}), {3, 3}, ResampleFilter::kBilinear),
              ElementsAre(10, 50, 90, 105, 90, 75, 200, 130, 60));
  EXPECT_THAT(failure([&] { resized(step, {1, 2}, ResampleFilter::kLanczos); }), HasSubstr("4 "));
}

TEST(ResizeTensorFlow, IsNotClampedAndDropsTapsOutside) {
  const Array step = grey({1, 4}, {0, 0, 255, 255});
  const Array out = resize_image(step, {1, 8}, ResampleFilter::kBicubic, ResizeStyle::kTensorFlow);
  ASSERT_EQ(out.dtype(), DType::kF32);
  const std::vector<float> values(out.data<float>(), out.data<float>() + 8);
  EXPECT_LT(values[2], 0.0F);    // undershoot before the step
  EXPECT_GT(values[5], 255.0F);  // overshoot after it
  EXPECT_NEAR(values[3] + values[4], 255.0F, 1e-3F);
  const Array flat = resize_image(grey({2, 2}, {7, 7, 7, 7}), {5, 5}, ResampleFilter::kBicubic,
                                  ResizeStyle::kTensorFlow);
  EXPECT_THAT(std::vector<float>(flat.data<float>(), flat.data<float>() + 25),
              Each(::testing::FloatNear(7.0F, 1e-5F)));
}

TEST(ImageProcessor, StepsCanBeSwitchedOff) {
  ImageProcessorConfig config;
  config.do_center_crop = config.do_resize = config.do_normalize = false;
  const Array image = Array::of<uint8_t>({1, 1, 3}, {0, 51, 255});
  const auto values = [](const Array& a) {
    return std::vector<float>(a.data<float>(), a.data<float>() + a.numel());
  };
  EXPECT_THAT(values(process_image(image, config)), ElementsAre(0.0F, 0.2F, 1.0F));
  config.do_rescale = false;
  EXPECT_THAT(values(process_image(image, config)), ElementsAre(0.0F, 51.0F, 255.0F));
  config.do_normalize = true;
  config.image_mean = {1.0};
  config.image_std = {2.0};
  EXPECT_THAT(values(process_image(image, config)), ElementsAre(-0.5F, 25.0F, 127.0F));
}

TEST(ImageProcessor, RefusesWhatDoesNotFit) {
  EXPECT_THAT(failure([] {
                process_image(Array::zeros(DType::kU8, {9, 9, 1}));
              }),
              HasSubstr("image_mean has 3"));
  EXPECT_THAT(failure([] {
                process_image(Array::zeros(DType::kF32, {9, 9, 3}));
              }),
              HasSubstr("2 "));
  EXPECT_THAT(failure([] {
                process_image(Array::zeros(DType::kU8, {1, 1, 3}));
              }),
              HasSubstr("1x1"));
}

}  // namespace
}  // namespace perceiver::tokens
