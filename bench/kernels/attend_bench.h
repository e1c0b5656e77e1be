#pragma once

#include <string>

#include <benchmark/benchmark.h>

namespace perceiver::kernels {

/// Times attend() on a line of tests/shapes/attend.txt's language, on every set of kernels that
/// runs here and 1 thread up to all of them. First the results of a few queries are compared with
/// the formulas in double; where they differ there is an error instead of a time.
/// GFLOP/s counts 2 B H Q K (qk_dim + v_dim), what attend.h states; exponentials come on top.
void register_attend(const std::string& name, const std::string& line);

}  // namespace perceiver::kernels
