// Conversions between dtypes. Every one rounds once: a detour over a wider type would round twice
// (double to float to half differs from double to half near ties), so detours round to odd.
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "perceiver/base/array.h"
#include "perceiver/base/error.h"

namespace perceiver {

float half_to_float(uint16_t bits) {
  const uint32_t sign = (bits & 0x8000u) << 16;
  const uint32_t exponent = (bits >> 10) & 0x1Fu;
  const uint32_t mantissa = bits & 0x3FFu;
  if (exponent == 0x1F) {
    return std::bit_cast<float>(sign | 0x7F800000u | (mantissa << 13));
  }
  if (exponent == 0) {  // zero and subnormals: mantissa * 2^-24, exact in float
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24F;
    return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
  }
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

uint16_t float_to_half(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7FFFFFFFu;
  if (magnitude > 0x7F800000u) {  // a NaN stays one: quiet, with its upper payload
    return static_cast<uint16_t>(sign | 0x7E00u | ((magnitude >> 13) & 0x3FFu));
  }
  if (magnitude >= 0x477FF000u) {  // 65520, the tie between 65504 and 65536, and beyond
    return static_cast<uint16_t>(sign | 0x7C00u);
  }
  if (magnitude < 0x38800000u) {  // below 2^-14: adding 0.5 lets the FPU round at 2^-24
    const float shifted = std::bit_cast<float>(magnitude) + 0.5F;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3F000000u));
  }
  const uint32_t odd = (magnitude >> 13) & 1u;
  return static_cast<uint16_t>(sign | ((magnitude - 0x38000000u + 0xFFFu + odd) >> 13));
}

float bfloat16_to_float(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

uint16_t float_to_bfloat16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) {
    return static_cast<uint16_t>((bits >> 16) | 0x40u);
  }
  return static_cast<uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
}

namespace {

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

template <typename T>
constexpr bool kIsSmallFloat = std::is_same_v<T, Half> || std::is_same_v<T, BFloat16>;

// The value as float with the last bit set when inexact: a later rounding to at most 22 bits then
// gives what one rounding of `value` would.
float round_to_odd(double value) {
  const float nearest = static_cast<float>(value);
  if (std::isnan(value) || static_cast<double>(nearest) == value) {
    return nearest;
  }
  const bool away = std::fabs(static_cast<double>(nearest)) > std::fabs(value);
  const uint32_t toward_zero = std::bit_cast<uint32_t>(nearest) - (away ? 1u : 0u);
  return std::bit_cast<float>(toward_zero | 1u);
}

template <typename T>
double integer_round_to_odd(T value) {
  const bool negative = value < T{0};
  auto magnitude = static_cast<uint64_t>(static_cast<int64_t>(value));
  magnitude = negative ? uint64_t{0} - magnitude : magnitude;
  if (magnitude >> 53 != 0) {
    constexpr uint64_t kBelow = 0x7FF;
    magnitude = (magnitude & ~kBelow) | ((magnitude & kBelow) != 0 ? kBelow + 1 : 0);
  }
  const double result = static_cast<double>(magnitude);
  return negative ? -result : result;
}

template <typename To, typename From>
To float_to_integer(From value) {
  using Limits = std::numeric_limits<To>;
  if (std::isnan(value)) {
    return 0;
  }
  // Both bounds are powers of two, so exact in From; the cast itself truncates toward zero.
  const From upper = std::ldexp(From{1}, Limits::digits);
  const From lower = Limits::is_signed ? -upper : From{0};
  if (value >= upper) {
    return Limits::max();
  }
  return value <= lower ? Limits::min() : static_cast<To>(value);
}

template <typename To, typename From>
To convert_one(From value) {
  if constexpr (std::is_same_v<From, Half>) {
    return convert_one<To>(half_to_float(value.bits));
  } else if constexpr (std::is_same_v<From, BFloat16>) {
    return convert_one<To>(bfloat16_to_float(value.bits));
  } else if constexpr (kIsSmallFloat<To>) {
    float nearly = 0.0F;
    if constexpr (std::is_same_v<From, float>) {
      nearly = value;
    } else if constexpr (std::is_same_v<From, double>) {
      nearly = round_to_odd(value);
    } else {
      nearly = round_to_odd(integer_round_to_odd(value));
    }
    return {std::is_same_v<To, Half> ? float_to_half(nearly) : float_to_bfloat16(nearly)};
  } else if constexpr (std::is_same_v<To, bool>) {
    return value != From{0};
  } else if constexpr (std::is_floating_point_v<From> && std::is_integral_v<To>) {
    return float_to_integer<To>(value);
  } else {
    return static_cast<To>(value);
  }
}

// Loads through memcpy: a BOOL byte read from a file may hold any value, which no `bool` may.
template <typename T>
T load(const std::byte* from) {
  if constexpr (std::is_same_v<T, bool>) {
    return *from != std::byte{0};
  } else {
    T value;
    std::memcpy(&value, from, sizeof value);
    return value;
  }
}

template <typename Fn>
void with_type(DType dtype, const Fn& fn) {
  switch (dtype) {
    case DType::kF64:
      return fn(double{});
    case DType::kF32:
      return fn(float{});
    case DType::kF16:
      return fn(Half{});
    case DType::kBF16:
      return fn(BFloat16{});
    case DType::kI64:
      return fn(int64_t{});
    case DType::kI32:
      return fn(int32_t{});
    case DType::kI16:
      return fn(int16_t{});
    case DType::kI8:
      return fn(int8_t{});
    case DType::kU64:
      return fn(uint64_t{});
    case DType::kU32:
      return fn(uint32_t{});
    case DType::kU16:
      return fn(uint16_t{});
    case DType::kU8:
      return fn(uint8_t{});
    case DType::kBool:
      return fn(bool{});
  }
  throw Error(ErrorCode::kInternal, "Array::to: not a dtype");
}

}  // namespace

Array Array::to(DType dtype) const {
  if (dtype == dtype_ || !defined()) {
    return *this;
  }
  Array result = zeros(dtype, shape_);
  const int64_t count = numel_;
  const std::byte* from = data_;
  std::byte* to = result.mutable_;
  with_type(dtype_, [&](auto source) {
    using From = decltype(source);
    with_type(dtype, [&](auto target) {
      using To = decltype(target);
      for (int64_t i = 0; i < count; ++i) {
        const To value = convert_one<To>(load<From>(from + i * int64_t{sizeof(From)}));
        std::memcpy(to + i * int64_t{sizeof(To)}, &value, sizeof value);
      }
    });
  });
  return result;
}

}  // namespace perceiver
