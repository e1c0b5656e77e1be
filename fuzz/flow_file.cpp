#include <cstddef>
#include <cstdint>
#include <string_view>

#include "perceiver/base/error.h"
#include "perceiver/io/flow_file.h"

// libFuzzer entry: any bytes either are a Middlebury flow or throw perceiver::Error.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    perceiver::io::decode_flo({reinterpret_cast<const char*>(data), size}, "fuzz",
                              {.max_pixels = 1 << 18});
  } catch (const perceiver::Error&) {
  }
  return 0;
}
