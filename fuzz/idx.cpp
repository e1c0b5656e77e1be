#include "train/data/idx.h"

#include "path_fuzzer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace perceiver::train;
  return fuzz_path(data, size, {"images"}, [](const auto& path) { read_idx(path); });
}
