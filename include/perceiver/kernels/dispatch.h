#pragma once

#include <string>
#include <vector>

// Which kernels this program has and which it uses. One binary; chosen when first asked, from what
// the CPU and the operating system can run. PERCEIVER_KERNELS=<name> forces one.

namespace perceiver::kernels {

struct KernelSet {
  std::string name;  ///< "avx512", "avx2", "portable", "reference"
  bool runs_here;    ///< the CPU can execute it
  bool active;
  std::string
      reason;  ///< why it is not active: "this CPU has no AVX-512", "avx2 is preferred", ...
};

/// Every compiled set, best first.
std::vector<KernelSet> kernel_sets();

/// Name of the active set. An unknown or unrunnable PERCEIVER_KERNELS leaves this empty and
/// kernel_problem() saying why; engines refuse to start then.
const char* active_kernels();
/// Empty, or the one line that explains an unusable PERCEIVER_KERNELS.
const char* kernel_problem();

/// Switches the set, for tests and comparisons. Not thread-safe. @return false if it cannot run
/// here
bool use_kernels(const std::string& name);

/// Kernels of forward attention in bfloat16, best first: "amx", "avx512bf16". They belong to the
/// set avx512 and are used where a call allows bfloat16 and that set is active. Where one does not
/// run, tests know it by an emulation of its instructions only.
std::vector<KernelSet> bfloat16_kernel_sets();
/// Name of the one in use; empty where attention multiplies float32 whatever is allowed.
const char* active_bfloat16_kernels();

/// Whether the CPU multiplies bfloat16 natively (AVX512_BF16 or AMX).
bool has_native_bfloat16();

}  // namespace perceiver::kernels
