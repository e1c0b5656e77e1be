#include "perceiver/kernels/dispatch.h"

#include <array>
#include <cstdlib>
#include <cstring>

#if defined(__linux__) && defined(__x86_64__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "kernels/kernel_table.h"

// The only file that knows the CPU, compiled without any instruction set's flags.

namespace perceiver::kernels {
namespace {

bool always() {
  return true;
}

// __builtin_cpu_supports also asks whether the operating system saves the registers.
#if defined(__x86_64__)
bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("fma");
}
bool has_avx512bf16() {
  return has_avx512() && __builtin_cpu_supports("avx512bf16");
}
/// AMX's registers are large, and Linux gives them to programs that ask: once, for all threads.
bool may_use_tiles() {
#if defined(__linux__)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // asm/prctl.h: ARCH_REQ_XCOMP_PERM
  static const bool given = syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return given;
#else
  return false;
#endif
}
bool has_amx() {
  return has_avx512bf16() && __builtin_cpu_supports("amx-tile") &&
         __builtin_cpu_supports("amx-bf16") && may_use_tiles();
}
bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
#endif

struct Candidate {
  const char* name;
  Isa isa;
  bool (*runs_here)();
  const char* lack;  ///< what is missing where it does not run
  const KernelTable* table;
};

constexpr std::array kByPreference {
#if defined(__x86_64__)
  Candidate{"avx512", Isa::kAvx512, has_avx512,
            "this CPU or its operating system has no AVX-512 (F, BW, VL and DQ)", &kAvx512Kernels},
      Candidate{"avx2", Isa::kAvx2, has_avx2,
                "this CPU or its operating system has no AVX2 with fused multiply-add",
                &kAvx2Kernels},
#endif
      Candidate{"portable", Isa::kPortable, always, "", &kPortableKernels}, Candidate {
    "reference", Isa::kReference, always, "", nullptr
  }
};

/// Forward attention in bfloat16, used with the avx512 set.
struct Bfloat16Candidate {
  const char* name;
  bool (*runs_here)();
  const char* lack;
  const ForwardKernel* kernel;
};

#if defined(__x86_64__)
constexpr std::array kBfloat16ByPreference{
    Bfloat16Candidate{"amx", has_amx, "this CPU or its operating system has no AMX (TILE and BF16)",
                      &kAmxBfloat16},
    Bfloat16Candidate{"avx512bf16", has_avx512bf16,
                      "this CPU or its operating system has no AVX512_BF16", &kAvx512Bfloat16},
};
#else
constexpr std::array<Bfloat16Candidate, 0> kBfloat16ByPreference;
#endif

const Candidate* find(const std::string& name) {
  for (const Candidate& candidate : kByPreference) {
    if (candidate.name == name) {
      return &candidate;
    }
  }
  return nullptr;
}

struct Selection {
  const Candidate* active = nullptr;
  bool forced = false;
  std::string problem;
};

Selection select_from_environment() {
  Selection selection;
  const char* wanted = std::getenv("PERCEIVER_KERNELS");
  if (wanted == nullptr || *wanted == '\0') {
    for (const Candidate& candidate : kByPreference) {
      if (candidate.runs_here()) {
        selection.active = &candidate;
        return selection;
      }
    }
  }
  const Candidate* named = find(wanted);
  if (named == nullptr) {
    selection.problem = "PERCEIVER_KERNELS=" + std::string(wanted) + " is not one of";
    for (const Candidate& candidate : kByPreference) {
      selection.problem += std::string(" ") + candidate.name;
    }
  } else if (!named->runs_here()) {
    selection.problem = "PERCEIVER_KERNELS=" + std::string(wanted) + ": " + named->lack;
  } else {
    selection.active = named;
    selection.forced = true;
  }
  return selection;
}

Selection& selection() {
  static Selection chosen = select_from_environment();
  return chosen;
}

std::string why_not_active(const Candidate& candidate) {
  const Selection& chosen = selection();
  if (!candidate.runs_here()) {
    return candidate.lack;
  }
  if (chosen.active == nullptr) {
    return chosen.problem;
  }
  return std::string(chosen.active->name) + (chosen.forced ? " is forced" : " is preferred");
}

/// Asked on every call; the CPU's answer is kept.
const Bfloat16Candidate* usable_bfloat16() {
  static const Bfloat16Candidate* const best = []() -> const Bfloat16Candidate* {
    for (const Bfloat16Candidate& candidate : kBfloat16ByPreference) {
      if (candidate.runs_here()) {
        return &candidate;
      }
    }
    return nullptr;
  }();
  return active_isa() == Isa::kAvx512 ? best : nullptr;
}

}  // namespace

std::vector<KernelSet> bfloat16_kernel_sets() {
  const Bfloat16Candidate* active = usable_bfloat16();
  std::vector<KernelSet> sets;
  for (const Bfloat16Candidate& candidate : kBfloat16ByPreference) {
    KernelSet set{candidate.name, candidate.runs_here(), active == &candidate, ""};
    if (!set.runs_here) {
      set.reason = candidate.lack;
    } else if (!set.active) {
      set.reason = std::string(active == nullptr ? active_kernels() : active->name) + " is used";
    }
    sets.push_back(set);
  }
  return sets;
}

const char* active_bfloat16_kernels() {
  const Bfloat16Candidate* active = usable_bfloat16();
  return active == nullptr ? "" : active->name;
}

std::vector<KernelSet> kernel_sets() {
  std::vector<KernelSet> sets;
  for (const Candidate& candidate : kByPreference) {
    const bool active = selection().active == &candidate;
    sets.push_back({.name = candidate.name,
                    .runs_here = candidate.runs_here(),
                    .active = active,
                    .reason = active ? "" : why_not_active(candidate)});
  }
  return sets;
}

const char* active_kernels() {
  return selection().active == nullptr ? "" : selection().active->name;
}

const char* kernel_problem() {
  return selection().problem.c_str();
}

bool use_kernels(const std::string& name) {
  const Candidate* candidate = find(name);
  if (candidate == nullptr || !candidate->runs_here()) {
    return false;
  }
  selection() = {.active = candidate, .forced = true, .problem = ""};
  return true;
}

bool has_native_bfloat16() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512bf16") || __builtin_cpu_supports("amx-bf16");
#else
  return false;
#endif
}

Isa active_isa() {
  return selection().active == nullptr ? Isa::kReference : selection().active->isa;
}

const KernelTable* active_table() {
  return selection().active == nullptr ? nullptr : selection().active->table;
}

const ForwardKernel* active_bfloat16() {
  const Bfloat16Candidate* active = usable_bfloat16();
  return active == nullptr ? nullptr : active->kernel;
}

}  // namespace perceiver::kernels
