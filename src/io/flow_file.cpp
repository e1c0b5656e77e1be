#include "perceiver/io/flow_file.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "io/byte_order.h"
#include "io/content_kind.h"
#include "io/picture_formats.h"
#include "perceiver/base/error.h"
#include "perceiver/base/file.h"
#include "perceiver/base/str.h"
#include "perceiver/io/image.h"

static_assert(std::numeric_limits<float>::is_iec559, "flow files hold IEEE 754 floats");

namespace perceiver::io {
namespace {

constexpr size_t kFloHeaderBytes = 12;
constexpr float kFloUnknownAbove = 1e9F;  // vision.middlebury.edu/flow, flowIO: UNKNOWN_FLOW_THRESH
constexpr float kFloUnknownValue = 1e10F;
constexpr double kKittiScale = 64.0, kKittiZero = 32768.0;

Flow blank(int64_t height, int64_t width) {
  return {Array::zeros(DType::kF32, {height, width, 2}),
          Array::zeros(DType::kBool, {height, width})};
}

void check_flow(const Flow& flow) {
  const auto& shape = flow.uv.shape();
  if (shape.size() != 3 || shape[2] != 2 || flow.uv.numel() == 0 ||
      flow.valid.shape() != std::vector<int64_t>{shape[0], shape[1]}) {
    throw Error(ErrorCode::kShape,
                cat("a flow must be uv [H, W, 2] with valid [H, W], got ", shape_string(shape),
                    " and ", shape_string(flow.valid.shape())));
  }
}

ImageLimits image_limits(const FlowLimits& limits) {
  ImageLimits image;
  image.max_pixels = limits.max_pixels;
  image.max_side = limits.max_side;
  return image;
}

uint64_t max_flo_bytes(const FlowLimits& limits) {
  return kFloHeaderBytes + 8 * static_cast<uint64_t>(limits.max_pixels);
}

float read_float(std::string_view bytes, size_t at) {
  const uint32_t bits = read_le32(bytes, at);
  float value = 0.0F;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

void append_le32(std::string& out, uint32_t value) {
  for (int shift = 0; shift < 32; shift += 8) {
    out.push_back(static_cast<char>(value >> shift & 255U));
  }
}

void append_float(std::string& out, float value) {
  uint32_t bits = 0;
  std::memcpy(&bits, &value, sizeof bits);
  append_le32(out, bits);
}

Flow flow_of_kitti(const Image& image, const std::string& where) {
  if (image.pixels.dtype() != DType::kU16 || image.channels() != 3) {
    throw Error(ErrorCode::kFormat,
                cat(where, ": a KITTI flow is a 16-bit RGB PNG, this one has ", image.channels(),
                    " channels of ", dtype_size(image.pixels.dtype()) * 8, " bits"));
  }
  Flow flow = blank(image.height(), image.width());
  const uint16_t* rgb = image.pixels.data<uint16_t>();
  float* uv = flow.uv.mutable_data<float>();
  bool* valid = flow.valid.mutable_data<bool>();
  for (int64_t i = 0; i < flow.valid.numel(); ++i) {
    valid[i] = rgb[3 * i + 2] != 0;
    for (int64_t c = 0; valid[i] && c < 2; ++c) {
      uv[2 * i + c] = static_cast<float>((rgb[3 * i + c] - kKittiZero) / kKittiScale);
    }
  }
  return flow;
}

uint16_t kitti_level(float value, int64_t pixel, int64_t width) {
  const double level = std::nearbyint(static_cast<double>(value) * kKittiScale + kKittiZero);
  if (!(level >= 0.0 && level <= 65535.0)) {
    throw Error(ErrorCode::kArgument,
                cat("flow of ", value, " pixels at row ", pixel / width, ", column ", pixel % width,
                    " does not fit a KITTI PNG (-512 to 511.98)"));
  }
  return static_cast<uint16_t>(level);
}

}  // namespace

Flow make_flow(Array uv) {
  Flow flow{std::move(uv), {}};
  if (flow.uv.dim() == 3) {
    flow.valid = Array::zeros(DType::kBool, {flow.uv.size(0), flow.uv.size(1)});
  }
  check_flow(flow);
  std::fill_n(flow.valid.mutable_data<bool>(), flow.valid.numel(), true);
  return flow;
}

Flow decode_flo(std::string_view bytes, const std::string& where, const FlowLimits& limits) {
  if (bytes.substr(0, 4) != "PIEH") {
    throw Error(ErrorCode::kFormat, cat(where, ": expected a Middlebury flow file, found ",
                                        describe_content(bytes.substr(0, kContentHeadBytes))));
  }
  if (bytes.size() < kFloHeaderBytes) {
    throw Error(ErrorCode::kFormat,
                cat(where, ": truncated flow file of ", bytes.size(), " bytes"));
  }
  const auto width = static_cast<int32_t>(read_le32(bytes, 4));
  const auto height = static_cast<int32_t>(read_le32(bytes, 8));
  check_image_size(width, height, image_limits(limits), where);
  const uint64_t needed =
      kFloHeaderBytes + 8 * static_cast<uint64_t>(width) * static_cast<uint64_t>(height);
  if (bytes.size() != needed) {
    throw Error(ErrorCode::kFormat,
                cat(where, ": ", bytes.size() < needed ? "truncated flow file: " : "flow file: ",
                    width, "x", height, " takes ", needed, " bytes but it has ", bytes.size()));
  }
  Flow flow = blank(height, width);
  float* uv = flow.uv.mutable_data<float>();
  bool* valid = flow.valid.mutable_data<bool>();
  for (int64_t i = 0; i < flow.valid.numel(); ++i) {
    const size_t at = kFloHeaderBytes + 8 * static_cast<size_t>(i);
    const float u = read_float(bytes, at), v = read_float(bytes, at + 4);
    valid[i] = std::fabs(u) <= kFloUnknownAbove && std::fabs(v) <= kFloUnknownAbove;
    uv[2 * i] = valid[i] ? u : 0.0F;
    uv[2 * i + 1] = valid[i] ? v : 0.0F;
  }
  return flow;
}

Flow read_flo(const std::filesystem::path& path, const FlowLimits& limits) {
  return decode_flo(read_file(path, max_flo_bytes(limits)), printable(path.string()), limits);
}

Flow read_kitti_flow(const std::filesystem::path& path, const FlowLimits& limits) {
  ReadImageOptions options;
  options.apply_orientation = false;
  options.limits = image_limits(limits);
  return flow_of_kitti(read_image(path, options), printable(path.string()));
}

Flow read_flow(const std::filesystem::path& path, const FlowLimits& limits) {
  const std::string where = printable(path.string());
  const std::string bytes = read_file(path, max_flo_bytes(limits));
  switch (content_kind(std::string_view(bytes).substr(0, kContentHeadBytes))) {
    case ContentKind::kFlo:
      return decode_flo(bytes, where, limits);
    case ContentKind::kPng: {
      ReadImageOptions options;
      options.apply_orientation = false;
      options.limits = image_limits(limits);
      return flow_of_kitti(decode_image(bytes, where, options), where);
    }
    default:
      throw Error(ErrorCode::kFormat,
                  cat(where, ": expected a Middlebury .flo or KITTI PNG flow, found ",
                      describe_content(std::string_view(bytes).substr(0, kContentHeadBytes))));
  }
}

void write_flo(const std::filesystem::path& path, const Flow& flow) {
  check_flow(flow);
  const float* uv = flow.uv.data<float>();
  const bool* valid = flow.valid.data<bool>();
  write_file_atomically(path, [&](const std::function<void(std::string_view)>& sink) {
    std::string row = "PIEH";
    append_le32(row, static_cast<uint32_t>(flow.width()));
    append_le32(row, static_cast<uint32_t>(flow.height()));
    for (int64_t y = 0; y < flow.height(); ++y) {
      for (int64_t i = y * flow.width(); i < (y + 1) * flow.width(); ++i) {
        append_float(row, valid[i] ? uv[2 * i] : kFloUnknownValue);
        append_float(row, valid[i] ? uv[2 * i + 1] : kFloUnknownValue);
      }
      sink(row);
      row.clear();
    }
  });
}

void write_kitti_flow(const std::filesystem::path& path, const Flow& flow) {
  check_flow(flow);
  Array pixels = Array::zeros(DType::kU16, {flow.height(), flow.width(), 3});
  uint16_t* rgb = pixels.mutable_data<uint16_t>();
  const float* uv = flow.uv.data<float>();
  const bool* valid = flow.valid.data<bool>();
  for (int64_t i = 0; i < flow.valid.numel(); ++i) {
    if (valid[i]) {
      rgb[3 * i] = kitti_level(uv[2 * i], i, flow.width());
      rgb[3 * i + 1] = kitti_level(uv[2 * i + 1], i, flow.width());
      rgb[3 * i + 2] = 1;
    }
  }
  write_png(path, make_image(pixels));
}

}  // namespace perceiver::io
