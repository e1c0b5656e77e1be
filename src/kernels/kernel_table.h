#pragma once

#include <cstdint>

#include "kernels/strassen_kernel.h"
#include "perceiver/kernels/attend.h"
#include "perceiver/kernels/rows.h"

// What each instruction set's files export, and which of them runs. Only dispatch.cpp asks the CPU.

namespace perceiver::kernels {

/// A piece of a forward call for one thread: queries and keys of one head.
struct ForwardItem {
  int64_t batch = 0, head = 0;
  int64_t first_query = 0, queries = 0;
  int64_t first_key = 0, keys = 0;
};

struct ForwardKernel {
  /// Floats of scratch that `item` needs for up to `queries` queries.
  int64_t (*scratch)(const AttendShape& shape, int64_t queries);
  /// Computes out, lse and sums of the item's queries over the item's keys alone.
  /// @param scratch   64-byte aligned
  void (*item)(const AttendForward<float>& args, const ForwardItem& item, float* scratch);
};

struct KernelTable {
  ForwardKernel attend;
  /// As in rows.h, for rows [first, end); null results are not written.
  void (*row_statistics)(RowRange rows, int64_t width, const float* x, int64_t x_stride, float eps,
                         float* mean, float* inverse_deviation);
  void (*normalise_rows)(RowRange rows, int64_t width, const float* x, int64_t x_stride, float eps,
                         const PartedRows& out);
  void (*activate_rows)(RowRange rows, int64_t width, float* x, int64_t stride, const float* bias,
                        Activation activation);
  StrassenKernel strassen;
};

/// Best first.
enum class Isa { kAvx512, kAvx2, kPortable, kReference };

extern const KernelTable kAvx512Kernels;
extern const KernelTable kAvx2Kernels;
extern const KernelTable kPortableKernels;

/// Forward attention whose products multiply bfloat16 and add up in float32.
extern const ForwardKernel kAmxBfloat16;
extern const ForwardKernel kAvx512Bfloat16;

/// The set in use; kReference also where PERCEIVER_KERNELS names an unusable one.
Isa active_isa();
/// Its table; null for kReference.
const KernelTable* active_table();
/// The bfloat16 attention beside it; null where this CPU, or the set in use, has none.
const ForwardKernel* active_bfloat16();

}  // namespace perceiver::kernels
