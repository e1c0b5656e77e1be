#include "perceiver/io/point_cloud.h"

#include <cstddef>
#include <cstdint>

#include "perceiver/base/error.h"

// libFuzzer entry: any bytes are a mesh and a cloud of points, or each throws perceiver::Error.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    perceiver::io::decode_off(text, "fuzz");
  } catch (const perceiver::Error&) {
  }
  try {
    perceiver::io::decode_points(text, "fuzz");
  } catch (const perceiver::Error&) {
  }
  return 0;
}
