#include <exception>
#include <iostream>
#include <new>
#include <string>

#include "cli/program.h"

#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace {

using perceiver::cli::kWrongUsage;
using perceiver::cli::Program;
using perceiver::cli::UsageError;

constexpr int kFailed = 1;

// A forward pass frees and asks for the same tens of megabytes over and over. Kept by the process,
// they are not zeroed by the kernel each time.
void keep_freed_memory() {
#ifdef __GLIBC__
  constexpr int kLargestAllowedThreshold = 32 << 20;
  mallopt(M_MMAP_THRESHOLD, kLargestAllowedThreshold);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  mallopt(M_TOP_PAD, 64 << 20);
#endif
}

int report(const std::string& message, int code) {
  std::cerr << "perceiver: " << message << '\n';
  return code;
}

}  // namespace

int main(int argc, char** argv) {
  keep_freed_memory();
  try {
    Program program;
    perceiver::cli::add_demo(program);
    perceiver::cli::add_info(program);
    perceiver::cli::add_forward(program);
    perceiver::cli::add_fill_mask(program);
    perceiver::cli::add_classify(program);
    perceiver::cli::add_flow(program);
    perceiver::cli::add_autoencode(program);
    perceiver::cli::add_convert(program);
    perceiver::cli::add_init(program);
    perceiver::cli::add_verify(program);
    perceiver::cli::add_train(program);
    perceiver::cli::add_eval(program);
    perceiver::cli::add_plot(program);
    return program.parse_and_run(argc, argv);
  } catch (const UsageError& error) {
    return report(error.what(), kWrongUsage);
  } catch (const std::bad_alloc&) {
    return report("out of memory", kFailed);
  } catch (const std::exception& error) {
    return report(perceiver::cli::first_line(error.what()), kFailed);
  }
}
