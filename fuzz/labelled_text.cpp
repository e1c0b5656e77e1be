#include "train/data/labelled_text.h"

#include "path_fuzzer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace perceiver::train;
  return fuzz_path(data, size, {"train.conll"}, [](const auto& path) {
    BadRows bad{.limit = 2};
    read_labelled_text(path, {.labels = {"O", "B-PER"}, .first_byte_only = true, .max_bytes = 32},
                       bad);
  });
}
