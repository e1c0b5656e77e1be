#include "perceiver/base/array.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>

#include <gtest/gtest.h>

#include "perceiver/base/error.h"

// Lets AddressSanitizer builds see an allocation fail the way every other build does.
extern "C" const char* __asan_default_options() {
  return "allocator_may_return_null=1";
}

namespace perceiver {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

ErrorCode code_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.code();
  }
  ADD_FAILURE() << "nothing was thrown";
  return ErrorCode::kInternal;
}

TEST(ElementCount, MultipliesAndTreatsAnyZeroAsEmpty) {
  EXPECT_EQ(element_count({}), 1);
  EXPECT_EQ(element_count({2, 3, 4}), 24);
  EXPECT_EQ(element_count({int64_t{1} << 62, 8, 0}), 0);
}

TEST(ElementCount, RefusesNegativeAndOverflowingShapes) {
  EXPECT_EQ(code_of([] { element_count({2, -1}); }), ErrorCode::kShape);
  EXPECT_EQ(code_of([] { element_count({0, -1}); }), ErrorCode::kShape);
  EXPECT_EQ(code_of([] {
              element_count({int64_t{1} << 32, int64_t{1} << 31});
            }),
            ErrorCode::kShape);
}

TEST(ArrayZeros, RefusesByteCountsThatOverflowAndSizesNoMachineHas) {
  EXPECT_EQ(code_of([] { Array::zeros(DType::kF64, {int64_t{1} << 61}); }), ErrorCode::kShape);
  EXPECT_EQ(code_of([] { Array::zeros(DType::kU8, {int64_t{1} << 62}); }), ErrorCode::kIo);
}

TEST(Array, DefaultIsUndefinedButEmptyAndScalarAreDefined) {
  EXPECT_FALSE(Array().defined());
  EXPECT_TRUE(Array::zeros(DType::kF32, {0}).defined());
  const Array scalar = Array::of<float>({}, {3.5F});
  EXPECT_TRUE(scalar.defined());
  EXPECT_EQ(scalar.numel(), 1);
  EXPECT_EQ(scalar.dim(), 0);
  EXPECT_EQ(scalar.data<float>()[0], 3.5F);
}

TEST(Array, CopiesShareAndClonesDoNot) {
  Array array = Array::of<int32_t>({2}, {1, 2});
  const Array shared = array;
  const Array cloned = array.clone();
  array.mutable_data<int32_t>()[0] = 9;
  EXPECT_EQ(shared.data<int32_t>()[0], 9);
  EXPECT_EQ(cloned.data<int32_t>()[0], 1);
}

TEST(Array, ViewKeepsItsOwnerAliveAndRefusesWriting) {
  auto values = std::make_shared<std::vector<float>>(std::vector<float>{1, 2, 3});
  const std::weak_ptr<std::vector<float>> watch = values;
  Array view = Array::view(DType::kF32, {3}, values->data(), values);
  values.reset();
  EXPECT_FALSE(watch.expired());
  EXPECT_EQ(view.data<float>()[2], 3.0F);
  EXPECT_EQ(code_of([&] { view.mutable_bytes(); }), ErrorCode::kInternal);
  view = Array();
  EXPECT_TRUE(watch.expired());
}

TEST(Array, RefusesTheWrongDtypeAndCount) {
  const Array array = Array::of<float>({2}, {1, 2});
  EXPECT_EQ(code_of([&] { array.data<double>(); }), ErrorCode::kShape);
  EXPECT_EQ(code_of([] { Array::of<float>({3}, {1, 2}); }), ErrorCode::kShape);
}

TEST(Array, SizeCountsFromEitherEnd) {
  const Array array = Array::zeros(DType::kU8, {2, 3, 5});
  EXPECT_EQ(array.size(0), 2);
  EXPECT_EQ(array.size(-1), 5);
  EXPECT_EQ(code_of([&] { array.size(3); }), ErrorCode::kShape);
  EXPECT_EQ(code_of([&] { array.size(-4); }), ErrorCode::kShape);
}

TEST(Array, ReshapeAndRowsShareMemory) {
  Array array = Array::of<int16_t>({3, 2}, {0, 1, 2, 3, 4, 5});
  const Array flat = array.reshape({6});
  const Array rows = array.rows(1, 3);
  array.mutable_data<int16_t>()[2] = 7;
  EXPECT_EQ(flat.data<int16_t>()[2], 7);
  EXPECT_EQ(rows.shape(), (std::vector<int64_t>{2, 2}));
  EXPECT_EQ(rows.data<int16_t>()[0], 7);
  EXPECT_EQ(rows.data<int16_t>()[3], 5);
  EXPECT_EQ(array.rows(3, 3).numel(), 0);
  EXPECT_EQ(code_of([&] { array.reshape({5}); }), ErrorCode::kShape);
  EXPECT_EQ(code_of([&] { array.rows(2, 4); }), ErrorCode::kShape);
  EXPECT_EQ(code_of([&] { array.rows(2, 1); }), ErrorCode::kShape);
}

TEST(Half, EveryPatternSurvivesTheWayToFloatAndBack) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float value = half_to_float(half);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(half_to_float(float_to_half(value)))) << bits;
    } else {
      EXPECT_EQ(float_to_half(value), half) << bits;
    }
  }
}

TEST(Half, RoundsToNearestEven) {
  EXPECT_EQ(half_to_float(0x3C00), 1.0F);
  EXPECT_EQ(half_to_float(0x0001), 0x1p-24F);
  EXPECT_EQ(half_to_float(0xC000), -2.0F);
  EXPECT_EQ(float_to_half(1.0F + 0x1p-11F), 0x3C00);             // tie, down to even
  EXPECT_EQ(float_to_half(1.0F + 0x3p-11F), 0x3C02);             // tie, up to even
  EXPECT_EQ(float_to_half(1.0F + 0x1p-11F + 0x1p-20F), 0x3C01);  // above the tie
  EXPECT_EQ(float_to_half(0x1p-25F), 0x0000);                    // subnormal tie to zero
  EXPECT_EQ(float_to_half(std::nextafter(0x1p-25F, 1.0F)), 0x0001);
  EXPECT_EQ(float_to_half(-0x3p-25F), 0x8002);
  EXPECT_EQ(float_to_half(65504.0F), 0x7BFF);
  EXPECT_EQ(float_to_half(65519.996F), 0x7BFF);
  EXPECT_EQ(float_to_half(65520.0F), 0x7C00);
  EXPECT_EQ(float_to_half(-kInf), 0xFC00);
  EXPECT_EQ(float_to_half(-0.0F), 0x8000);
}

TEST(BFloat16, RoundsToNearestEven) {
  EXPECT_EQ(bfloat16_to_float(0x3F80), 1.0F);
  EXPECT_EQ(float_to_bfloat16(1.0F + 0x1p-8F), 0x3F80);
  EXPECT_EQ(float_to_bfloat16(1.0F + 0x3p-8F), 0x3F82);
  EXPECT_EQ(float_to_bfloat16(1.0F + 0x1p-8F + 0x1p-20F), 0x3F81);
  EXPECT_EQ(float_to_bfloat16(std::numeric_limits<float>::max()), 0x7F80);
  EXPECT_EQ(float_to_bfloat16(-kInf), 0xFF80);
  // A NaN whose payload lies in the dropped bits must not become infinity.
  EXPECT_TRUE(std::isnan(bfloat16_to_float(float_to_bfloat16(std::bit_cast<float>(0x7F800001u)))));
}

uint16_t first_bits(const Array& array) {
  uint16_t bits = 0;
  std::memcpy(&bits, array.bytes(), sizeof bits);
  return bits;
}

TEST(ArrayTo, DoubleToSmallFloatsRoundsOnce) {
  // Just above a tie by less than a float can hold: rounding through float would go down to even.
  const double above_half_tie = 1.0 + 0x1p-11 + 0x1p-40;
  EXPECT_EQ(first_bits(Array::of<double>({1}, {above_half_tie}).to(DType::kF16)), 0x3C01);
  EXPECT_EQ(first_bits(Array::of<double>({1}, {-above_half_tie}).to(DType::kF16)), 0xBC01);
  const double below_half_tie = 1.0 + 0x3p-11 - 0x1p-40;
  EXPECT_EQ(first_bits(Array::of<double>({1}, {below_half_tie}).to(DType::kF16)), 0x3C01);
  EXPECT_EQ(first_bits(Array::of<double>({1}, {1.0 + 0x1p-8 + 0x1p-40}).to(DType::kBF16)), 0x3F81);
}

TEST(ArrayTo, IntegerToSmallFloatsRoundsOnce) {
  const int64_t tie = (int64_t{1} << 62) + (int64_t{1} << 54);  // between two bfloat16
  EXPECT_EQ(first_bits(Array::of<int64_t>({1}, {tie}).to(DType::kBF16)), 0x5E80);
  EXPECT_EQ(first_bits(Array::of<int64_t>({1}, {tie + 1}).to(DType::kBF16)), 0x5E81);
  EXPECT_EQ(first_bits(Array::of<int64_t>({1}, {-tie - 1}).to(DType::kBF16)), 0xDE81);
  EXPECT_EQ(first_bits(Array::of<int64_t>({1}, {2049}).to(DType::kF16)), 0x6800);
}

TEST(ArrayTo, FloatToIntegerTruncatesSaturatesAndMakesNanZero) {
  const Array values = Array::of<float>({6}, {-2.9F, 2.9F, 1e30F, -kInf, std::nanf(""), 255.0F});
  const Array bytes = values.to(DType::kU8);
  EXPECT_EQ(std::vector<uint8_t>(bytes.data<uint8_t>(), bytes.data<uint8_t>() + 6),
            (std::vector<uint8_t>{0, 2, 255, 0, 0, 255}));
  const Array longs = values.to(DType::kI64);
  EXPECT_EQ(std::vector<int64_t>(longs.data<int64_t>(), longs.data<int64_t>() + 6),
            (std::vector<int64_t>{-2, 2, std::numeric_limits<int64_t>::max(),
                                  std::numeric_limits<int64_t>::min(), 0, 255}));
}

TEST(ArrayTo, BoolIsWhetherNotZero) {
  const Array flags = Array::of<float>({3}, {0.0F, -0.5F, std::nanf("")}).to(DType::kBool);
  EXPECT_FALSE(flags.data<bool>()[0]);
  EXPECT_TRUE(flags.data<bool>()[1]);
  EXPECT_TRUE(flags.data<bool>()[2]);
  EXPECT_EQ(Array::of<bool>({2}, {true, false}).to(DType::kF32).data<float>()[0], 1.0F);
}

TEST(ArrayTo, SameDtypeShares) {
  const Array array = Array::of<float>({1}, {1});
  EXPECT_EQ(array.to(DType::kF32).bytes(), array.bytes());
}

TEST(ArrayTo, HalfWidensExactly) {
  Array half = Array::zeros(DType::kF16, {1});
  const uint16_t bits = 0x3555;
  std::memcpy(half.mutable_bytes(), &bits, 2);
  EXPECT_EQ(half.to(DType::kF64).data<double>()[0], 0.333251953125);
}

}  // namespace
}  // namespace perceiver
