#include "perceiver/tasks/demo.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numbers>

#include "perceiver/base/error.h"
#include "perceiver/base/json.h"
#include "perceiver/base/str.h"
#include "perceiver/io/bytes_tokenizer.h"
#include "perceiver/spec/model_shape.h"
#include "perceiver/spec/parameters.h"

namespace perceiver::tasks {
namespace {

namespace fs = std::filesystem;

constexpr const char* kImageModel = "mnist-perceiver";
constexpr const char* kTextModel = "byte-mlm-perceiver";

const Json& member(const Json& json, const char* key, const std::string& where) {
  if (!json.is_object() || !json.contains(key)) {
    throw Error(ErrorCode::kFormat, cat(where, ": \"", key, "\" is missing"));
  }
  return json.at(key);
}

std::string text_member(const Json& json, const char* key, const std::string& where) {
  const Json& value = member(json, key, where);
  if (!value.is_string()) {
    throw Error(ErrorCode::kFormat, cat(where, ": \"", key, "\" must be a text"));
  }
  return value.get<std::string>();
}

DemoModel describe(const ModelSpec& spec, const char* unit, const char* answers) {
  const ModelShape shape = resolve(spec);
  DemoModel model;
  model.name = spec.name;
  model.parameters = parameter_count(spec);
  model.summary =
      cat(shape.num_inputs, " ", unit, " → ", spec.encoder.num_latents, " latents of ",
          spec.encoder.latent_channels, " channels, ",
          spec.encoder.num_blocks * spec.encoder.num_self_attends_per_block, " layers → ",
          spec.outputs.at(0).single_row ? spec.decoder.output_channels : shape.num_outputs, " ",
          answers);
  return model;
}

DemoPicture classify(const Model& model, io::Image picture, std::string truth,
                     std::string caption) {
  ClassifyImageOptions options;
  options.top = 3;
  options.attention = true;
  ImageAnswer answer = classify_image(model.bundle, *model.engine, picture, options);
  return {std::move(picture), std::move(truth), std::move(caption), std::move(answer)};
}

struct Counter {
  const ProgressFn& report;
  int64_t done = 0;
  int64_t total = 0;
  void step() {
    ++done;
    if (report) {
      report({"demo", done, total, ""});
    }
  }
};

void look_at_pictures(const Json& samples, const fs::path& folder, const std::string& where,
                      const Model& model, Counter& counter, DemoReport& report) {
  std::vector<io::Image> pictures;
  for (const Json& sample : member(samples, "pictures", where)) {
    const std::string truth = text_member(sample, "label", where);
    pictures.push_back(io::read_image(folder / text_member(sample, "file", where)));
    report.pictures.push_back(classify(model, pictures.back(), truth, ""));
    counter.step();
  }
  const auto find = [&](const std::string& truth) -> const io::Image& {
    for (size_t i = 0; i < pictures.size(); ++i) {
      if (report.pictures[i].truth == truth) {
        return pictures[i];
      }
    }
    throw Error(ErrorCode::kFormat,
                cat(where, ": no picture has the label \"", printable(truth), "\""));
  };
  const std::string turned = text_member(samples, "turn", where);
  for (int degrees = 0; degrees <= 180; degrees += 20) {
    report.turned.push_back(classify(model, turn_picture(find(turned), degrees), turned,
                                     cat("turned by ", degrees, "°")));
    counter.step();
  }
  const std::string noisy = text_member(samples, "noise", where);
  for (int amount = 0; amount <= 80; amount += 10) {
    report.noisy.push_back(
        classify(model, add_noise(find(noisy), amount / 100.0, 7), noisy, cat(amount, " % noise")));
    counter.step();
  }
}

void read_lines(const Json& samples, const std::string& where, const Model& model, Counter& counter,
                DemoReport& report) {
  FillMaskOptions options;
  options.top = 4;
  options.one_by_one = true;
  for (const Json& sample : member(samples, "lines", where)) {
    if (!sample.is_string()) {
      throw Error(ErrorCode::kFormat, cat(where, ": \"lines\" must hold texts"));
    }
    DemoLine line = parse_demo_line(sample.get<std::string>());
    std::string masked;
    size_t next = 0;
    for (size_t i = 0; i < line.original.size(); ++i) {
      const bool hidden = next < line.hidden.size() && line.hidden[next] == i;
      masked += hidden ? "[MASK]" : line.original.substr(i, 1);
      next += hidden ? 1 : 0;
    }
    line.filled = fill_mask(model.bundle, *model.engine, masked, options);
    report.lines.push_back(std::move(line));
    counter.step();
  }
}

}  // namespace

bool DemoLine::right(size_t i) const {
  const auto byte = static_cast<unsigned char>(original.at(hidden.at(i)));
  return filled.masks.at(i).filled_with == byte + io::ByteVocabulary::kNumSpecial;
}

DemoLine parse_demo_line(const std::string& marked) {
  DemoLine line;
  bool hiding = false;
  for (const char c : marked) {
    if (c == '{' || c == '}') {
      if (hiding == (c == '{')) {
        throw Error(ErrorCode::kFormat, cat("braces do not pair in \"", printable(marked), "\""));
      }
      hiding = c == '{';
      continue;
    }
    if (hiding) {
      line.hidden.push_back(line.original.size());
    }
    line.original += c;
  }
  if (hiding || line.hidden.empty()) {
    throw Error(ErrorCode::kFormat,
                cat("nothing is hidden by braces in \"", printable(marked), "\""));
  }
  return line;
}

DemoReport run_demo(const fs::path& folder, const EngineChoice& choice,
                    const ProgressFn& progress) {
  const fs::path list = folder / "demo" / "demo.json";
  const Json samples = read_json(list);
  const std::string where = list.string();
  const Model image_model = open_model(folder / kImageModel, choice);
  const Model text_model = open_model(folder / kTextModel, choice);
  DemoReport report;
  report.image_model = describe(image_model.bundle.spec, "patches", "classes");
  report.text_model = describe(text_model.bundle.spec, "bytes", "bytes");
  Counter counter{progress, 0,
                  static_cast<int64_t>(member(samples, "pictures", where).size() + 19 +
                                       member(samples, "lines", where).size())};
  const auto start = std::chrono::steady_clock::now();
  look_at_pictures(samples, folder / "demo", where, image_model, counter, report);
  read_lines(samples, where, text_model, counter, report);
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report;
}

io::Image turn_picture(const io::Image& picture, double degrees) {
  const io::Image source = io::to_8_bit(picture);
  const int64_t height = source.height();
  const int64_t width = source.width();
  const int64_t channels = source.channels();
  Array out = Array::zeros(DType::kU8, {height, width, channels});
  const uint8_t* from = source.pixels.data<uint8_t>();
  uint8_t* to = out.mutable_data<uint8_t>();
  const double angle = degrees * std::numbers::pi / 180;
  const double centre_x = static_cast<double>(width - 1) / 2;
  const double centre_y = static_cast<double>(height - 1) / 2;
  const auto sample = [&](int64_t y, int64_t x, int64_t c) {
    const bool inside = y >= 0 && y < height && x >= 0 && x < width;
    return inside ? static_cast<double>(from[(y * width + x) * channels + c]) : 0.0;
  };
  for (int64_t y = 0; y < height; ++y) {
    for (int64_t x = 0; x < width; ++x) {
      const double dx = static_cast<double>(x) - centre_x;
      const double dy = static_cast<double>(y) - centre_y;
      const double sx = centre_x + dx * std::cos(angle) - dy * std::sin(angle);
      const double sy = centre_y + dx * std::sin(angle) + dy * std::cos(angle);
      const auto x0 = static_cast<int64_t>(std::floor(sx));
      const auto y0 = static_cast<int64_t>(std::floor(sy));
      const double fx = sx - static_cast<double>(x0);
      const double fy = sy - static_cast<double>(y0);
      for (int64_t c = 0; c < channels; ++c) {
        const double top = sample(y0, x0, c) * (1 - fx) + sample(y0, x0 + 1, c) * fx;
        const double bottom = sample(y0 + 1, x0, c) * (1 - fx) + sample(y0 + 1, x0 + 1, c) * fx;
        to[(y * width + x) * channels + c] =
            static_cast<uint8_t>(std::lround(top * (1 - fy) + bottom * fy));
      }
    }
  }
  return {out, source.color};
}

io::Image add_noise(const io::Image& picture, double amount, uint64_t seed) {
  const io::Image source = io::to_8_bit(picture);
  Array out = source.pixels.clone();
  uint8_t* value = out.mutable_data<uint8_t>();
  uint64_t state = seed;
  for (int64_t i = 0; i < out.numel(); ++i) {
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;  // Knuth's MMIX generator
    const auto random = static_cast<double>(state >> 56U);
    value[i] = static_cast<uint8_t>(std::lround((1 - amount) * value[i] + amount * random));
  }
  return {out, source.color};
}

}  // namespace perceiver::tasks
