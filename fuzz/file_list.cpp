#include "path_fuzzer.h"
#include "train/data/class_files.h"
#include "train/data/labelled_files.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace perceiver::train;
  fuzz_path(data, size, {"classes.csv"}, [](const auto& path) { read_class_list(path); });
  return fuzz_path(data, size, {"list.csv"}, [](const auto& path) {
    LabelledFilesSpec spec;
    spec.folder = path.parent_path();
    spec.list = path;
    spec.test_folds = {"1"};
    find_labelled_files(spec);
  });
}
