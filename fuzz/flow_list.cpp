#include "path_fuzzer.h"
#include "train/data/flow_files.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace perceiver::train;
  return fuzz_path(data, size, {"pairs.txt", "pairs.json"},
                   [](const auto& path) { read_flow_list(path); });
}
