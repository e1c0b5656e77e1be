#include "io/npy_format.h"
#include "reader_fuzzer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  return perceiver::io::fuzz_reader(
      data, size, [](const perceiver::io::FileBytes& file) { perceiver::io::read_npy(file); });
}
