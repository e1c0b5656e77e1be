#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>

#include <nlohmann/json.hpp>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/tokens/image_processor.h"

namespace perceiver::tokens {
namespace {

constexpr int64_t kMaxSide = 16384;

/// Names of classes, and wishes about the caller's arrays that change no value of ours.
constexpr std::array<std::string_view, 9> kIgnoredImageKeys = {
    "image_processor_type", "feature_extractor_type", "processor_class", "transformers_version",
    "do_convert_rgb",       "input_data_format",      "return_tensors",  "device",
    "disable_grouping"};

class ConfigReader {
 public:
  ConfigReader(const Json& json, const std::string& where) : json_(json), where_(where) {
    if (!json.is_object()) {
      throw Error(ErrorCode::kFormat, cat(where, ": expected a JSON object"));
    }
  }

  ImageProcessorConfig read() {
    for (const auto& [key, value] : json_.items()) {
      if (!value.is_null()) {
        read_key(key, value);
      }
    }
    return config_;
  }

 private:
  [[noreturn]] void bad(const std::string& key, const std::string& expected) const {
    throw Error(ErrorCode::kFormat,
                cat(where_, ": ", printable(key), " must be ", expected, ", got ",
                    printable(json_.at(key).dump(-1, ' ', true, Json::error_handler_t::replace))));
  }

  void read_key(const std::string& key, const Json& value) {
    if (key == "do_center_crop") {
      config_.do_center_crop = flag(key, value);
    } else if (key == "do_resize") {
      config_.do_resize = flag(key, value);
    } else if (key == "do_rescale") {
      config_.do_rescale = flag(key, value);
    } else if (key == "do_normalize") {
      config_.do_normalize = flag(key, value);
    } else if (key == "size") {
      config_.size = size(key, value);
    } else if (key == "crop_size") {
      config_.crop_size = size(key, value);
    } else if (key == "resample") {
      config_.resample = filter(key, value);
    } else if (key == "rescale_factor") {
      config_.rescale_factor = number(key, value);
    } else if (key == "image_mean") {
      config_.image_mean = numbers(key, value);
    } else if (key == "image_std") {
      config_.image_std = numbers(key, value);
      check_std(key);
    } else {
      read_other(key, value);
    }
  }

  void read_other(const std::string& key, const Json& value) const {
    if (key == "do_pad") {
      if (flag(key, value)) {
        throw Error(ErrorCode::kUnsupported, cat(where_, ": do_pad is not supported"));
      }
    } else if (key == "data_format") {
      if (value != "channels_first") {
        bad(key, "\"channels_first\"");
      }
    } else if (key == "default_to_square") {
      if (!flag(key, value)) {
        throw Error(ErrorCode::kUnsupported,
                    cat(where_, ": default_to_square false is not supported"));
      }
    } else if (std::find(kIgnoredImageKeys.begin(), kIgnoredImageKeys.end(), key) ==
               kIgnoredImageKeys.end()) {
      throw Error(ErrorCode::kFormat, cat(where_, ": unknown key ", printable(key)));
    }
  }

  bool flag(const std::string& key, const Json& value) const {
    if (!value.is_boolean()) {
      bad(key, "true or false");
    }
    return value.get<bool>();
  }

  int64_t side(const std::string& key, const Json& value) const {
    if (!value.is_number_integer() || value < 1 || value > kMaxSide) {
      bad(key,
          cat("one size, [height, width] or an object of both, in pixels from 1 to ", kMaxSide));
    }
    return value.get<int64_t>();
  }

  ImageSize size(const std::string& key, const Json& value) const {
    if (value.is_object() && value.size() == 2 && value.contains("height") &&
        value.contains("width")) {
      return {side(key, value.at("height")), side(key, value.at("width"))};
    }
    if (value.is_array() && value.size() == 2) {
      return {side(key, value[0]), side(key, value[1])};
    }
    const int64_t both = side(key, value);
    return {both, both};
  }

  ResampleFilter filter(const std::string& key, const Json& value) const {
    if (!value.is_number_integer() || value < 0 || value > 5) {
      bad(key, "a PIL filter number from 0 to 5");
    }
    if (value == 0) {
      throw Error(ErrorCode::kUnsupported, cat(where_, ": resample 0 (nearest) is not supported"));
    }
    return static_cast<ResampleFilter>(value.get<int>());
  }

  double number(const std::string& key, const Json& value) const {
    if (!value.is_number() || !std::isfinite(value.get<double>())) {
      bad(key, "a finite number");
    }
    return value.get<double>();
  }

  std::vector<double> numbers(const std::string& key, const Json& value) const {
    if (!value.is_array()) {
      return {number(key, value)};
    }
    if (value.empty() || value.size() > 4) {
      bad(key, "1 to 4 numbers");
    }
    std::vector<double> out;
    for (const Json& entry : value) {
      out.push_back(number(key, entry));
    }
    return out;
  }

  void check_std(const std::string& key) const {
    for (const double value : config_.image_std) {
      if (value == 0.0) {
        bad(key, "different from 0");
      }
    }
  }

  const Json& json_;
  const std::string& where_;
  ImageProcessorConfig config_;
};

}  // namespace

ImageProcessorConfig image_processor_config_from_json(const Json& json, const std::string& where) {
  return ConfigReader(json, where).read();
}

Json image_processor_config_to_json(const ImageProcessorConfig& config) {
  if (config.resize_style != ResizeStyle::kPil || config.crop_start != CropStart::kFloor) {
    throw Error(ErrorCode::kArgument,
                "preprocessor_config.json has no words for DeepMind's crop and resize variants");
  }
  return Json{
      {"image_processor_type", "PerceiverImageProcessor"},
      {"do_center_crop", config.do_center_crop},
      {"crop_size", {{"height", config.crop_size.height}, {"width", config.crop_size.width}}},
      {"do_resize", config.do_resize},
      {"size", {{"height", config.size.height}, {"width", config.size.width}}},
      {"resample", static_cast<int>(config.resample)},
      {"do_rescale", config.do_rescale},
      {"rescale_factor", config.rescale_factor},
      {"do_normalize", config.do_normalize},
      {"image_mean", config.image_mean},
      {"image_std", config.image_std},
  };
}

}  // namespace perceiver::tokens
