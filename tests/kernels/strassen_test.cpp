#include "perceiver/kernels/strassen.h"

#include <cmath>
#include <cstdlib>
#include <limits>
#include <memory>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/every_set.h"
#include "kernels/kernel_table.h"
#include "kernels/rows_reference.h"
#include "kernels/wide_lanes.h"
#include "perceiver/kernels/dispatch.h"
#include "support/normal_floats.h"

// Against the definition in double, with every set of kernels and with 16 lanes on any CPU.

namespace perceiver::kernels {
namespace {

constexpr float kPattern = -321.5F;

struct Free {
  void operator()(float* p) const { std::free(p); }
};
using Aligned = std::unique_ptr<float, Free>;

Aligned aligned(int64_t floats) {
  const size_t bytes = (static_cast<size_t>(floats) * sizeof(float) + 63) / 64 * 64;
  return Aligned(static_cast<float*>(std::aligned_alloc(64, bytes)));
}

double at(const std::vector<float>& values, int64_t i) {
  return static_cast<double>(values[static_cast<size_t>(i)]);
}

constexpr double kBar = 5e-6;  // a plain float32 product has some 2e-6

/// One product: x [rows, in], weight [out, in], bias [out], y [rows, out], without gaps.
struct Case {
  int64_t rows, in, out;
  std::vector<float> x, weight, bias, y;
  bool accumulate = false;
  std::optional<Activation> activation;

  Case(int64_t num_rows, int64_t width_in, int64_t width_out)
      : rows(num_rows),
        in(width_in),
        out(width_out),
        x(normal_floats(rows * in, 1)),
        weight(normal_floats(in * out, 2)),
        bias(normal_floats(out, 3)),
        y(normal_floats(rows * out, 4)) {}

  double expected(int64_t r, int64_t o) const {
    double sum = at(bias, o);
    for (int64_t c = 0; c < in; ++c) {
      sum += at(x, r * in + c) * at(weight, o * in + c);
    }
    sum += accumulate ? at(y, r * out + o) : 0;
    return activation ? activation_reference(sum, *activation) : sum;
  }
};

/// Rows in two halves, with `gap` floats of a pattern behind each row.
struct Halves {
  int64_t rows, width, stride;
  std::vector<float> data;

  Halves(const std::vector<float>& from, int64_t num_rows, int64_t columns, int64_t gap)
      : rows(num_rows),
        width(columns / 2),
        stride(width + gap),
        data(static_cast<size_t>(2 * rows * stride), kPattern) {
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < columns; ++c) {
        data[index(r, c)] = from[static_cast<size_t>(r * columns + c)];
      }
    }
  }
  size_t index(int64_t r, int64_t c) const {
    return static_cast<size_t>((c / width * rows + r) * stride + c % width);
  }
  float* half(int64_t h) { return data.data() + h * rows * stride; }
  bool intact() const {
    for (int64_t r = 0; r < 2 * rows; ++r) {
      for (int64_t c = width; c < stride; ++c) {
        if (data[static_cast<size_t>(r * stride + c)] != kPattern) {
          return false;
        }
      }
    }
    return true;
  }
};

/// y of a case, as it comes out.
Halves multiplied(const Case& c, int threads, int64_t gap = 3, const KernelTable* table = nullptr) {
  const Aligned packed = aligned(strassen_floats(c.in, c.out));
  Halves x(c.x, c.rows, c.in, gap), y(c.y, c.rows, c.out, gap);
  StrassenProduct product{.rows = c.rows,
                          .x = {x.half(0), x.half(1)},
                          .x_stride = x.stride,
                          .y = {y.half(0), y.half(1)},
                          .y_stride = y.stride,
                          .accumulate = c.accumulate,
                          .activation = c.activation,
                          .threads = threads};
  const StrassenKernel* kernel = table == nullptr ? strassen_kernel() : &table->strassen;
  strassen_multiply(
      strassen_pack(c.in, c.out, {c.weight.data(), 1, c.in}, c.bias.data(), packed.get(), kernel),
      product);
  EXPECT_TRUE(x.intact());
  EXPECT_TRUE(y.intact()) << "wrote beside the rows";
  return y;
}

/// Largest error as a share of the root of `in`, which results are about as large as.
double error_of(const Case& c, const Halves& y) {
  double worst = 0;
  for (int64_t r = 0; r < c.rows; ++r) {
    for (int64_t o = 0; o < c.out; ++o) {
      worst =
          std::max(worst, std::abs(static_cast<double>(y.data[y.index(r, o)]) - c.expected(r, o)));
    }
  }
  return worst / std::sqrt(static_cast<double>(c.in));
}

/// Runs `test(table)` with every set of kernels that runs here, then with 16 lanes.
template <typename F>
void with_every_table(F test) {
  with_every_set([&] { test(nullptr); });
  if (wide_lanes_kernels() != nullptr) {
    SCOPED_TRACE("16 lanes");
    test(wide_lanes_kernels());
  }
}

TEST(Strassen, AgreesWithTheDefinition) {
  // a row alone, too few for halves, odd ones, more than a group; one block of channels and two,
  // odd halves, slices that are not whole
  const int64_t shapes[][3] = {{1, 2, 64},      {5, 34, 128},   {63, 96, 64},
                               {64, 98, 64},    {65, 34, 192},  {130, 2, 128},
                               {129, 1370, 64}, {300, 66, 128}, {67, 18, 256}};
  with_every_table([&](const KernelTable* table) {
    for (const auto& [rows, in, out] : shapes) {
      Case c(rows, in, out);
      for (const bool accumulate : {false, true}) {
        c.accumulate = accumulate;
        EXPECT_LT(error_of(c, multiplied(c, 2, 3, table)), kBar)
            << rows << "x" << in << "x" << out << (accumulate ? ", accumulated" : "");
      }
    }
  });
}

TEST(Strassen, Activates) {
  with_every_table([](const KernelTable* table) {
    for (const Activation activation :
         {Activation::kGeluErf, Activation::kGeluTanh, Activation::kRelu, Activation::kSilu}) {
      Case c(67, 50, 64);
      c.activation = activation;
      EXPECT_LT(error_of(c, multiplied(c, 2, 3, table)), kBar) << static_cast<int>(activation);
    }
  });
}

TEST(Strassen, EveryNumberOfThreadsGivesTheSameBytes) {
  with_every_table([](const KernelTable* table) {
    for (const int64_t rows : {70, 601}) {  // a group, whose columns are divided, and three
      const Case c(rows, 130, 192);
      const std::vector<float> one = multiplied(c, 1, 0, table).data;
      EXPECT_LT(error_of(c, multiplied(c, 1, 3, table)), kBar);
      for (const int threads : {2, 3, 8}) {
        EXPECT_EQ(multiplied(c, threads, 0, table).data, one) << rows << " " << threads;
      }
    }
  });
}

TEST(Strassen, SmallColumnsKeepTheirDigitsBesideLargeOnes) {
  // scores of a softmax may be ten thousand times the values beside them
  with_every_table([](const KernelTable* table) {
    Case c(128, 64, 128);
    for (int64_t o = 0; o < c.out; ++o) {
      const float size = o < 64 ? 1e4F : 1e-4F;
      c.bias[static_cast<size_t>(o)] *= size;
      for (int64_t i = 0; i < c.in; ++i) {
        c.weight[static_cast<size_t>(o * c.in + i)] *= size;
      }
    }
    const Halves y = multiplied(c, 2, 3, table);
    for (int64_t r = 0; r < c.rows; ++r) {
      for (int64_t o = 0; o < c.out; ++o) {
        EXPECT_NEAR(static_cast<double>(y.data[y.index(r, o)]), c.expected(r, o),
                    (o < 64 ? 1e4 : 1e-4) * kBar * 8);
      }
    }
  });
}

TEST(Strassen, ZeroColumnsAndHugeOnesStayFinite) {
  with_every_table([](const KernelTable* table) {
    Case c(64, 32, 64);
    std::fill(c.weight.begin(), c.weight.begin() + 32, 0.0F);
    std::fill(c.weight.begin() + 32, c.weight.begin() + 64, 1e35F);
    std::fill(c.weight.begin() + 64, c.weight.begin() + 96, 1e-42F);
    const Halves y = multiplied(c, 2, 3, table);
    for (int64_t r = 0; r < c.rows; ++r) {
      EXPECT_EQ(at(y.data, static_cast<int64_t>(y.index(r, 0))), at(c.bias, 0));
      EXPECT_NEAR(at(y.data, static_cast<int64_t>(y.index(r, 1))), c.expected(r, 1), 1e31);
      EXPECT_NEAR(at(y.data, static_cast<int64_t>(y.index(r, 2))), c.expected(r, 2), 1e-6);
    }
  });
}

TEST(Strassen, ARowThatIsNotFiniteSpoilsItsGroupAlone) {
  with_every_table([](const KernelTable* table) {
    Case c(512, 16, 64);
    c.x[0] = std::numeric_limits<float>::quiet_NaN();
    const Halves y = multiplied(c, 2, 3, table);
    EXPECT_TRUE(std::isnan(y.data[y.index(0, 0)]));
    for (int64_t r = 256; r < 512; ++r) {
      for (int64_t o = 0; o < 64; ++o) {
        EXPECT_TRUE(std::isfinite(y.data[y.index(r, o)])) << r;
      }
    }
  });
}

/// columns [width, height] of `rows` [height, width].
std::vector<float> transposed(const std::vector<float>& rows, int64_t height, int64_t width) {
  std::vector<float> columns(rows.size());
  for (int64_t r = 0; r < height; ++r) {
    for (int64_t c = 0; c < width; ++c) {
      columns[static_cast<size_t>(c * height + r)] = rows[static_cast<size_t>(r * width + c)];
    }
  }
  return columns;
}

/// x W^T + bias of a case, its matrices lying by rows or by columns; `gap` floats behind each row
/// of the result.
Halves multiplied_now(const Case& c, bool x_by_columns, bool weight_by_columns, int64_t gap,
                      int threads, const KernelTable* table) {
  const std::vector<float> x = x_by_columns ? transposed(c.x, c.rows, c.in) : c.x;
  const std::vector<float> weight =
      weight_by_columns ? transposed(c.weight, c.out, c.in) : c.weight;
  const int64_t stride = c.out + gap;
  std::vector<float> y(static_cast<size_t>(c.rows * stride), kPattern);
  for (int64_t r = 0; r < c.rows; ++r) {
    std::copy_n(c.y.begin() + r * c.out, c.out, y.begin() + r * stride);
  }
  const StrassenOperands operands{
      .rows = c.rows,
      .in = c.in,
      .out = c.out,
      .a = x_by_columns ? StridedMatrix{x.data(), 1, c.rows} : StridedMatrix{x.data(), c.in, 1},
      .b = weight_by_columns ? StridedMatrix{weight.data(), c.out, 1}
                             : StridedMatrix{weight.data(), 1, c.in},
      .bias = c.bias.data(),
      .y = y.data(),
      .y_stride = stride,
      .accumulate = c.accumulate,
      .threads = threads};
  strassen_multiply(operands, table == nullptr ? strassen_kernel() : &table->strassen);
  std::vector<float> dense;
  for (int64_t r = 0; r < c.rows; ++r) {
    dense.insert(dense.end(), y.begin() + r * stride, y.begin() + r * stride + c.out);
    for (int64_t i = c.out; i < stride; ++i) {
      EXPECT_EQ(y[static_cast<size_t>(r * stride + i)], kPattern) << "wrote beside row " << r;
    }
  }
  return Halves(dense, c.rows, c.out, 0);
}

TEST(Strassen, MultipliesMatricesThatLieByRowsOrByColumns) {
  // one row, odd ones, several groups; halves that are no multiple of four; a width of a page
  const int64_t shapes[][3] = {{1, 2, 64}, {65, 34, 192}, {130, 1024, 64}, {601, 66, 320}};
  with_every_table([&](const KernelTable* table) {
    for (const auto& [rows, in, out] : shapes) {
      Case c(rows, in, out);
      for (const int layout : {0, 1, 2, 3}) {
        c.accumulate = layout % 2 == 0;
        const Halves one = multiplied_now(c, layout / 2 == 1, layout % 2 == 1, 5, 1, table);
        // without fused multiply-add sums of 1,024 round to 6e-6
        EXPECT_LT(error_of(c, one), 2 * kBar) << rows << "x" << in << "x" << out << ", " << layout;
        const Halves three = multiplied_now(c, layout / 2 == 1, layout % 2 == 1, 5, 3, table);
        EXPECT_EQ(three.data, one.data);
      }
    }
  });
}

TEST(Strassen, TakesWhatHalvesIntoWholePanels) {
  EXPECT_TRUE(strassen_takes(2, 64));
  EXPECT_TRUE(strassen_takes(1280, 1792));
  EXPECT_FALSE(strassen_takes(3, 64));
  EXPECT_FALSE(strassen_takes(2, 96));
  EXPECT_FALSE(strassen_takes(0, 64));
  EXPECT_FALSE(strassen_takes(2, 0));
}

}  // namespace
}  // namespace perceiver::kernels
