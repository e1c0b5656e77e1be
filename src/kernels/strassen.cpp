#include "perceiver/kernels/strassen.h"

#include <algorithm>
#include <atomic>
#include <omp.h>
#include <thread>
#include <vector>

#include "kernels/kernel_table.h"
#include "kernels/scratch.h"
#include "kernels/strassen_kernel.h"

namespace perceiver::kernels {
namespace {

/// Columns of half an output: whole panels with every set of kernels.
constexpr int64_t kWidestPanel = 32;
/// Floats between rows that are copied, so that they don't begin a page apart.
constexpr int64_t kGap = 16;
/// Parts of a step of a chain: few, for what a part makes and the next one finds there; enough to
/// share the last ones.
constexpr int64_t kPartsOfAStep = 4;
constexpr int64_t kPiecesAThread = 4;

/// f(first, end) over [0, count), in pieces for threads as they come.
template <typename F>
void for_each_share(int64_t count, int threads, const F& f) {
  const int64_t wanted = threads > 0 ? threads : omp_get_max_threads();
  const int64_t pieces = std::min(wanted * kPiecesAThread, count);
  const int team = static_cast<int>(std::min(wanted, count));
#pragma omp parallel for schedule(dynamic, 1) num_threads(team) if (team > 1)
  for (int64_t piece = 0; piece < pieces; ++piece) {
    f(count * piece / pieces, count * (piece + 1) / pieces);
  }
}

/// A product divided into chains of parts: a group of rows by neighbouring panels. In a chain
/// follow each other blocks of columns, blocks of channels, steps, and a few panels at a time.
class StrassenChains {
 public:
  StrassenChains(const StrassenCall& call, int64_t threads)
      : groups_(strassen_groups(call.product.rows)),
        panels_(strassen_panels(call.weight.kernel->panel, call.half_out()).count),
        lanes_(std::clamp<int64_t>(threads / groups_, 1, panels_)),
        at_once_(std::max<int64_t>(
            std::min(panels_ / lanes_, call.weight.kernel->block_panels) / kPartsOfAStep, 1)),
        block_slots_(std::max<int64_t>(call.weight.kernel->block_panels / at_once_, 1)),
        steps_(call.weight.kernel->steps),
        rounds_(strassen_blocks(call.half_in(), call.weight.kernel->block_channels) * steps_) {}

  int64_t count() const { return groups_ * lanes_; }
  /// All parts of all chains.
  int64_t parts() const { return groups_ * rounds_ * slots(); }
  /// Neighbouring panels that are one part.
  int64_t slots() const { return (panels_ + at_once_ - 1) / at_once_; }
  int64_t slot(const StrassenPart& part) const { return part.panels.first / at_once_; }
  /// How many parts of its panels come before.
  int64_t round(const StrassenPart& part) const { return part.block * steps_ + part.step; }

  int64_t length(int64_t chain) const { return rounds_ * (end_of(chain) - first_of(chain)); }
  StrassenPart part(int64_t chain, int64_t index) const {
    const int64_t begin = first_of(chain) + index / (rounds_ * block_slots_) * block_slots_;
    const int64_t slots_here = std::min(block_slots_, end_of(chain) - begin);
    const int64_t within = index % (rounds_ * block_slots_);
    const int64_t round = within / slots_here;
    const int64_t first = (begin + within % slots_here) * at_once_;
    return {chain / lanes_,
            round / steps_,
            round % steps_,
            {first, std::min(first + at_once_, panels_)},
            false};
  }

 private:
  int64_t first_of(int64_t chain) const { return slots() * (chain % lanes_) / lanes_; }
  int64_t end_of(int64_t chain) const { return slots() * (chain % lanes_ + 1) / lanes_; }

  int64_t groups_, panels_, lanes_, at_once_, block_slots_, steps_, rounds_;
};

/// One product divided among threads as they come: a thread takes a chain that nobody has, then
/// helps with those that are not done. On cores that others use too, equal shares would wait for
/// the slowest. What is added to an element comes in one order, whoever adds it.
class StrassenWalk {
 public:
  StrassenWalk(const StrassenCall& call, int64_t threads) : call_(call), chains_(call, threads) {
    thread_local std::vector<int> counters;
    const int64_t groups = strassen_groups(call.product.rows);
    counters.assign(static_cast<size_t>(1 + chains_.count() + groups * chains_.slots()), 0);
    counters_ = counters.data();
  }

  int64_t parts() const { return chains_.parts(); }

  /// One thread's share. @param scratch  its own
  void work(int64_t thread, float* scratch) const {
    const int64_t count = chains_.count();
    StrassenPart last{-1, 0, 0, {0, 0}, false};
    int& next_chain = counters_[0];
    for (int64_t chain = take(next_chain); chain < count; chain = take(next_chain)) {
      follow(chain, 1, last, scratch);
    }
    for (int64_t turn = 0; turn < count; ++turn) {
      follow((thread + turn) % count, 2, last, scratch);
    }
  }

 private:
  using Counter = std::atomic_ref<int>;

  static int64_t take(int& counter) { return Counter(counter).fetch_add(1); }
  int& next_part(int64_t chain) const { return counters_[1 + chain]; }
  int& rounds_done(const StrassenPart& part) const {
    return counters_[1 + chains_.count() + part.group * chains_.slots() + chains_.slot(part)];
  }

  /// Does parts of a chain until all are taken.
  /// @param step  how far the next part will probably be: as many threads are there
  /// @param last  what the thread did last
  void follow(int64_t chain, int64_t step, StrassenPart& last, float* scratch) const {
    const int64_t length = chains_.length(chain);
    int& next = next_part(chain);
    for (int64_t index = take(next); index < length; index = take(next)) {
      StrassenPart part = chains_.part(chain, index);
      part.has_sums =
          last.group == part.group && last.block == part.block && last.step == part.step;
      const int round = static_cast<int>(chains_.round(part));
      int& done = rounds_done(part);
      wait_for(done, round);
      call_.weight.kernel->run(call_, part, chains_.part(chain, std::min(index + step, length - 1)),
                               scratch);
      Counter(done).store(round + 1, std::memory_order_release);
      last = part;
    }
  }

  static void wait_for(int& counter, int value) {
    while (Counter(counter).load(std::memory_order_acquire) < value) {
      std::this_thread::yield();
    }
  }

  const StrassenCall& call_;
  StrassenChains chains_;
  int* counters_;  ///< chains taken; of each chain parts taken; of each slot rounds done
};

}  // namespace

bool strassen_takes(int64_t in, int64_t out) {
  return in > 0 && out > 0 && in % 2 == 0 && out % (2 * kWidestPanel) == 0;
}

int64_t strassen_floats(int64_t in, int64_t out) {
  return (in + 2) * out;
}

const StrassenKernel* strassen_kernel() {
  const KernelTable* table = active_table();
  return table == nullptr ? &kStrassenReference : &table->strassen;
}

StrassenWeight strassen_pack(int64_t in, int64_t out, const StridedMatrix& weight,
                             const float* bias, float* packed, const StrassenKernel* kernel,
                             int threads) {
  const StrassenSource source{in, out, weight};
  const int64_t panels = strassen_panels(kernel->panel, out / 2).count;
  for_each_share(panels, threads, [&](int64_t first, int64_t end) {
    kernel->pack(source, {first, end}, packed);
  });
  float* biases = packed + in * out + out;
  if (bias == nullptr) {
    std::fill(biases, biases + out, 0.0F);
  } else {
    std::copy(bias, bias + out, biases);
  }
  return {in, out, packed, kernel};
}

void strassen_multiply(const StrassenWeight& weight, const StrassenProduct& product) {
  if (product.rows == 0) {
    return;
  }
  const StrassenCall call{weight, product};
  const int64_t wanted = product.threads > 0 ? product.threads : omp_get_max_threads();
  const StrassenWalk walk(call, wanted);
  const int64_t threads = std::min(wanted, walk.parts());
  const int64_t floats = (weight.kernel->scratch + 15) / 16 * 16;
  float* scratch = thread_scratch(ScratchUse::kTiles, threads * floats);
#pragma omp parallel num_threads(static_cast<int>(threads)) if (threads > 1)
  {
    const int64_t thread = omp_get_thread_num();
    walk.work(thread, scratch + thread * floats);
  }
}

void strassen_multiply(const StrassenOperands& operands, const StrassenKernel* kernel) {
  const int64_t in = operands.in, out = operands.out, rows = operands.rows;
  if (rows == 0) {
    return;
  }
  float* packed = thread_scratch(ScratchUse::kWeight, strassen_floats(in, out));
  const StrassenWeight weight =
      strassen_pack(in, out, operands.b, operands.bias, packed, kernel, operands.threads);
  StrassenProduct product{.rows = rows,
                          .x = {operands.a.data, operands.a.data + in / 2},
                          .x_stride = operands.a.row_step,
                          .y = {operands.y, operands.y + out / 2},
                          .y_stride = operands.y_stride,
                          .accumulate = operands.accumulate,
                          .activation = {},
                          .threads = operands.threads};
  if (operands.a.column_step != 1) {
    product.x_stride = in + kGap;
    float* copy = thread_scratch(ScratchUse::kRows, rows * product.x_stride);
    const Transposition move{in, operands.a.data, operands.a.column_step, copy, product.x_stride};
    for_each_share(rows, operands.threads, [&](int64_t first, int64_t end) {
      kernel->transpose(move, {first, end});
    });
    product.x[0] = copy;
    product.x[1] = copy + in / 2;
  }
  strassen_multiply(weight, product);
}

}  // namespace perceiver::kernels
