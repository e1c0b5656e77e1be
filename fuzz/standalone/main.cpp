// Where there is no libFuzzer (any compiler but clang): damages the files it is given, in the same
// way every time, and hands each copy to the target.
//
//   fuzz_table [-runs=COPIES] [-first=COPY] FILE...
#include <cstdint>
#include <cstdio>
#include <exception>
#include <fstream>
#include <iterator>
#include <sanitizer/common_interface_defs.h>
#include <string>

#include "mutations.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

const char* file = "";
uint64_t copy = 0;

// How to see it again: sanitizers and uncaught exceptions end the process without a word of ours.
void name_copy() {
  std::fprintf(stderr, "copy %llu of %s: -first=%llu -runs=1\n",
               static_cast<unsigned long long>(copy), file, static_cast<unsigned long long>(copy));
}

void run(const std::string& bytes) {
  LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
}

}  // namespace

int main(int argc, char** argv) {
  uint64_t first = 0, runs = 100'000;
  __sanitizer_set_death_callback(name_copy);
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument.starts_with("-runs=")) {
      runs = std::stoull(argument.substr(6));
    } else if (argument.starts_with("-first=")) {
      first = std::stoull(argument.substr(7));
    } else {
      file = argv[i];
      std::ifstream stream(argument, std::ios::binary);
      if (!stream) {
        std::fprintf(stderr, "cannot read %s\n", file);
        return 2;
      }
      const std::string seed{std::istreambuf_iterator<char>(stream), {}};
      run(seed);
      for (copy = first; copy < first + runs; ++copy) {
        run(perceiver::test::mutated(seed, copy));
      }
      std::printf("%s: %llu copies\n", file, static_cast<unsigned long long>(runs));
    }
  }
  return 0;
}
