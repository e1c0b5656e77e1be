#include "train/data/normalisation.h"

#include <algorithm>
#include <limits>
#include <string>
#include <utility>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "train/fields.h"

namespace perceiver::train {
namespace {

std::vector<double> numbers(const Json& json, const std::string& where, int64_t channels) {
  const bool fits =
      json.is_array() && std::cmp_equal(json.size(), channels) &&
      std::all_of(json.begin(), json.end(), [](const Json& v) { return v.is_number(); });
  if (!fits) {
    throw Error(ErrorCode::kFormat, cat(where, " must be a list of ", channels,
                                        " number(s), one per "
                                        "channel of the model's input"));
  }
  return json.get<std::vector<double>>();
}

}  // namespace

void Normalisation::apply(float* values, int64_t count) const {
  const size_t channels = scale.size();
  size_t channel = 0;
  for (int64_t i = 0; i < count; ++i) {
    values[i] = values[i] * scale[channel] + offset[channel];
    channel = channel + 1 == channels ? 0 : channel + 1;
  }
}

Normalisation read_normalisation(const Recipe& recipe, int64_t channels) {
  const std::string where = cat(printable(recipe.path.string()), ": preprocessor");
  if (!recipe.preprocessor) {
    throw Error(ErrorCode::kFormat, cat(where, " is missing: it says how pictures are normalised"));
  }
  Fields fields(*recipe.preprocessor, where);
  const double rescale =
      fields.number("rescale_factor", 1.0 / 255, 0, std::numeric_limits<double>::max());
  const auto mean = numbers(fields.at("image_mean"), fields.where("image_mean"), channels);
  const auto deviation = numbers(fields.at("image_std"), fields.where("image_std"), channels);
  Normalisation result;
  for (size_t i = 0; i < mean.size(); ++i) {
    if (deviation[i] == 0) {
      throw Error(ErrorCode::kArgument, cat(fields.where("image_std"), " holds 0"));
    }
    result.scale.push_back(static_cast<float>(rescale / deviation[i]));
    result.offset.push_back(static_cast<float>(-mean[i] / deviation[i]));
  }
  return result;
}

}  // namespace perceiver::train
