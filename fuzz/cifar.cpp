#include "path_fuzzer.h"
#include "train/data/pictures.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace perceiver::train;
  return fuzz_path(data, size, {"batch.bin"}, [](const auto& path) {
    check_labels(read_cifar({path}, /*label_bytes=*/1), 10);
  });
}
