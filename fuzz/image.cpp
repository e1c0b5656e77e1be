#include <cstddef>
#include <cstdint>
#include <string_view>

#include "perceiver/base/error.h"
#include "perceiver/io/image.h"

// libFuzzer entry: any bytes either decode to a picture or throw perceiver::Error.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  perceiver::io::ReadImageOptions options;
  options.limits.max_pixels = 1 << 18;
  try {
    const std::string_view bytes(reinterpret_cast<const char*>(data), size);
    perceiver::io::to_rgb(perceiver::io::decode_image(bytes, "fuzz", options));
  } catch (const perceiver::Error&) {
  }
  return 0;
}
