#include "train/data/table.h"

#include "path_fuzzer.h"
#include "train/data/delimited.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace perceiver::train;
  for (const TableFormat format :
       {TableFormat{.separator = '\t', .header = true, .quoted = false},
        TableFormat{.separator = ',', .header = false, .quoted = true}}) {
    fuzz_path(data, size, {"table"}, [&](const auto& path) {
      TableReader table(path, format);
      for (TableRow row; table.next(row);) {
      }
    });
  }
  return fuzz_path(data, size, {"table"}, [](const auto& path) { read_delimited(path); });
}
