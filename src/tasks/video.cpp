#include "perceiver/tasks/video.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/io/video.h"
#include "perceiver/tokens/audio_processor.h"
#include "perceiver/tokens/video_processor.h"

namespace perceiver::tasks {
namespace {

bool has_input(const ModelSpec& spec, const char* name) {
  return std::any_of(spec.inputs.begin(), spec.inputs.end(),
                     [&](const InputSpec& input) { return input.name == name; });
}

bool has_output(const ModelSpec& spec, const char* name) {
  return std::any_of(spec.outputs.begin(), spec.outputs.end(),
                     [&](const OutputSpec& output) { return output.name == name; });
}

void require_autoencoder(const ModelSpec& spec) {
  if (!is_video_autoencoder(spec)) {
    throw Error(ErrorCode::kArgument, cat("model \"", printable(spec.name),
                                          "\" does not read and answer a film with sound"));
  }
}

// Frames shown at begin, begin + 1/rate, ... (the latest one not after each time), `count` of them.
Array pick_frames(const std::filesystem::path& path, int64_t count,
                  const ReadClipOptions& options) {
  io::ReadVideoOptions reading;
  reading.start_seconds = options.start_seconds;
  io::VideoReader reader(path, reading);
  std::optional<io::VideoFrame> shown = reader.next();
  if (!shown) {
    throw Error(ErrorCode::kFormat,
                cat(path.string(), ": no frame at or after second ", options.start_seconds));
  }
  const double begin = shown->seconds;
  std::vector<int64_t> shape = shown->pixels.shape();
  shape.insert(shape.begin(), count);
  Array frames = Array::zeros(DType::kU8, shape);
  std::optional<io::VideoFrame> next = reader.next();
  const int64_t bytes = shown->pixels.nbytes();
  for (int64_t i = 0; i < count; ++i) {
    // Half a frame of slack: the times of a 25 Hz film are not exact multiples of 1/25.
    const double time = begin + (static_cast<double>(i) + 0.5) / options.frames_per_second;
    while (next && next->seconds <= time) {
      shown = std::move(next);
      next = reader.next();
    }
    std::memcpy(frames.mutable_bytes() + i * bytes, shown->pixels.bytes(),
                static_cast<size_t>(bytes));
  }
  return frames;
}

// Rows [begin, end) of chunk `k` of `chunks` over `rows`.
std::vector<int64_t> chunk_rows(int64_t rows, int64_t k, int64_t chunks) {
  const int64_t begin = rows * k / chunks;
  const int64_t end = rows * (k + 1) / chunks;
  std::vector<int64_t> out(static_cast<size_t>(end - begin));
  std::iota(out.begin(), out.end(), begin);
  return out;
}

struct Decoded {
  std::vector<float> image;
  std::vector<float> audio;
  Array label;
};

void append(std::vector<float>& to, const ArrayMap& answers, const char* name) {
  const auto found = answers.find(name);
  if (found != answers.end()) {
    const Array values = found->second.to(DType::kF32);
    to.insert(to.end(), values.data<float>(), values.data<float>() + values.numel());
  }
}

void take(Decoded& decoded, const ArrayMap& answers) {
  append(decoded.image, answers, "image");
  append(decoded.audio, answers, "audio");
  if (const auto label = answers.find("label"); label != answers.end()) {
    decoded.label = label->second.to(DType::kF32);
  }
}

Decoded decode_chunks(const Bundle& bundle, Engine& engine, const Encoded& encoded,
                      const AutoencodeOptions& options) {
  const int64_t image_rows = element_count(bundle.spec.output("image").index_dims);
  const int64_t audio_rows = element_count(bundle.spec.output("audio").index_dims);
  const int64_t chunks = std::clamp<int64_t>(options.chunks, 1, std::min(image_rows, audio_rows));
  Decoded decoded;
  for (int64_t k = 0; k < chunks; ++k) {
    OutputRequest request;
    request.only = {"image", "audio"};
    if (k == 0 && has_output(bundle.spec, "label")) {
      request.only.emplace_back("label");  // its one row is the same in every chunk
    }
    request.points["image"] = chunk_rows(image_rows, k, chunks);
    request.points["audio"] = chunk_rows(audio_rows, k, chunks);
    take(decoded, engine.decode(encoded, request));
    if (options.progress) {
      options.progress({"decode", k + 1, chunks, ""});
    }
  }
  return decoded;
}

ModelInputs clip_inputs(const ModelSpec& spec, const Clip& clip) {
  ModelInputs inputs;
  const auto batch = [](const Array& array) {
    std::vector<int64_t> shape = array.shape();
    shape.insert(shape.begin(), 1);
    return array.reshape(shape);
  };
  inputs.arrays["image"] = batch(clip.frames);
  inputs.arrays["audio"] = batch(clip.audio);
  if (has_input(spec, "label")) {
    inputs.arrays["label"] = Array::zeros(DType::kF32, {1, spec.input("label").channels});
  }
  return inputs;
}

}  // namespace

bool is_video_autoencoder(const ModelSpec& spec) {
  const size_t labels = has_input(spec, "label") ? 1 : 0;
  return has_input(spec, "image") && has_input(spec, "audio") && has_output(spec, "image") &&
         has_output(spec, "audio") && spec.inputs.size() == 2 + labels &&
         spec.input("image").index_dims.size() == 3 && spec.input("image").channels == 3 &&
         spec.input("image").index_dims[1] == spec.input("image").index_dims[2] &&
         spec.input("audio").index_dims.size() == 1 && spec.input("audio").channels == 1;
}

Clip read_clip(const ModelSpec& spec, const std::filesystem::path& path,
               const ReadClipOptions& options) {
  require_autoencoder(spec);
  const std::vector<int64_t>& grid = spec.input("image").index_dims;
  return read_clip({.frames = grid[0],
                    .size = grid[1],
                    .samples = spec.input("audio").index_dims[0],
                    .sample_rate = tokens::kModelSampleRate},
                   path, options);
}

Clip read_clip(const ClipShape& shape, const std::filesystem::path& path,
               const ReadClipOptions& options) {
  Clip clip;
  if (shape.frames > 0) {
    tokens::VideoProcessorConfig config;
    config.num_frames = shape.frames;
    config.size = shape.size;
    config.repeat_last = true;
    clip.frames = tokens::process_video(pick_frames(path, shape.frames, options), config);
  }
  if (shape.samples == 0) {
    return clip;
  }
  clip.has_audio = io::probe_video(path).has_audio;
  if (!clip.has_audio) {
    clip.audio = Array::zeros(DType::kF32, {shape.samples, 1});
    return clip;
  }
  io::ReadAudioOptions reading;
  reading.sample_rate = shape.sample_rate;
  reading.channels = 1;
  reading.start_seconds = options.start_seconds;
  reading.max_seconds = static_cast<double>(shape.samples) / shape.sample_rate + 0.1;
  clip.audio =
      tokens::clamp_audio(tokens::fit_audio(io::read_audio(path, reading).samples, shape.samples));
  return clip;
}

Reconstruction autoencode(const Bundle& bundle, Engine& engine, const Clip& clip,
                          const AutoencodeOptions& options) {
  require_autoencoder(bundle.spec);
  const auto encoded = engine.encode(clip_inputs(bundle.spec, clip));
  Decoded decoded;
  if (options.whole_grid) {
    OutputRequest request;
    request.progress = options.progress;
    take(decoded, engine.decode(*encoded, request));
  } else {
    decoded = decode_chunks(bundle, engine, *encoded, options);
  }
  const Array frames = Array::of<float>(clip.frames.shape(), decoded.image);
  const Array audio = Array::of<float>(clip.audio.shape(), decoded.audio);
  Reconstruction result;
  result.video_psnr = psnr(frames, clip.frames, 1);
  result.audio_psnr = psnr(audio, clip.audio, 1);
  result.frames = tokens::frames_to_bytes(frames);
  result.audio = {tokens::clamp_audio(audio), tokens::kModelSampleRate};
  if (decoded.label.defined()) {
    result.classes = rank_classes(decoded.label.data<float>(), decoded.label.size(-1), options.top,
                                  bundle.spec.labels);
  }
  return result;
}

double psnr(const Array& a, const Array& b, double peak) {
  if (a.numel() != b.numel() || a.numel() == 0) {
    throw Error(ErrorCode::kShape,
                cat("cannot compare ", shape_string(a.shape()), " with ", shape_string(b.shape())));
  }
  const float* x = a.data<float>();
  const float* y = b.data<float>();
  double sum = 0;
  for (int64_t i = 0; i < a.numel(); ++i) {
    const double difference = static_cast<double>(x[i]) - static_cast<double>(y[i]);
    sum += difference * difference;
  }
  const double mean = sum / static_cast<double>(a.numel());
  return mean > 0 ? 10 * std::log10(peak * peak / mean) : std::numeric_limits<double>::infinity();
}

}  // namespace perceiver::tasks
