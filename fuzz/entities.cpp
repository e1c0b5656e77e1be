#include "train/data/entities.h"

#include "path_fuzzer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace perceiver::train;
  fuzz_path(data, size, {"replays.csv"}, [](const auto& path) { read_replay_list(path); });
  return fuzz_path(data, size, {"r00.csv.gz"}, [](const auto& path) { read_entity_frames(path); });
}
