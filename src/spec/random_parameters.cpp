#include <algorithm>
#include <cmath>
#include <string_view>
#include <thread>

#include "perceiver/base/error.h"
#include "perceiver/spec/parameters.h"

// Weights must be the same on every machine, so nothing here depends on a library's distributions
// or on the last bit of a library's log(): only IEEE add, multiply, divide and square root are used
// (this file is compiled without fused multiply-add). Every element is a function of (seed, tensor
// name, index) alone, so the work splits over threads in any way.

namespace perceiver {
namespace {

// Standard deviation of a unit normal cut at +-2; DeepMind's VarianceScaling divides by it.
constexpr double kCutDeviation = 0.87962566103423978;
// Phi(-2), the mass the cut removes on each side.
constexpr double kTail = 0.022750131948179209;

uint64_t mix(uint64_t x) {  // the finaliser of SplitMix64 (Steele, Lea, Flood 2014)
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

uint64_t stream_key(uint64_t seed, std::string_view name) {
  uint64_t key = mix(seed + 0x9E3779B97F4A7C15u);
  for (const char c : name) {
    key = mix(key ^ static_cast<unsigned char>(c)) + 0x9E3779B97F4A7C15u;
  }
  return key;
}

// Uniform in (0, 1), both ends excluded.
double uniform(uint64_t key, uint64_t index) {
  const uint64_t bits = mix(key + (index + 1) * 0x9E3779B97F4A7C15u);
  return (static_cast<double>(bits >> 12) + 0.5) * 0x1p-52;
}

template <size_t n>
double polynomial(const double (&coefficients)[n], double x) {
  double sum = coefficients[n - 1];
  for (size_t i = n - 1; i-- > 0;) {
    sum = sum * x + coefficients[i];
  }
  return sum;
}

// Natural logarithm by the series of atanh, for 0 < x < 1.
double portable_log(double x) {
  int exponent = 0;
  double mantissa = std::frexp(x, &exponent);  // exact
  if (mantissa < 0.70710678118654752) {
    mantissa *= 2;
    --exponent;
  }
  const double s = (mantissa - 1) / (mantissa + 1);
  const double square = s * s;
  double sum = 0;
  for (int k = 21; k >= 1; k -= 2) {
    sum = sum * square + 1.0 / k;
  }
  return 2 * s * sum + exponent * 0.69314718055994531;
}

// Inverse of the normal distribution function: algorithm AS 241, PPND16 (Wichura 1988).
double inverse_normal(double p) {
  static constexpr double kA[] = {3.3871328727963666080e0, 1.3314166789178437745e2,
                                  1.9715909503065514427e3, 1.3731693765509461125e4,
                                  4.5921953931549871457e4, 6.7265770927008700853e4,
                                  3.3430575583588128105e4, 2.5090809287301226727e3};
  static constexpr double kB[] = {1.0,
                                  4.2313330701600911252e1,
                                  6.8718700749205790830e2,
                                  5.3941960214247511077e3,
                                  2.1213794301586595867e4,
                                  3.9307895800092710610e4,
                                  2.8729085735721942674e4,
                                  5.2264952788528545610e3};
  static constexpr double kC[] = {1.42343711074968357734e0,  4.63033784615654529590e0,
                                  5.76949722146069140550e0,  3.64784832476320460504e0,
                                  1.27045825245236838258e0,  2.41780725177450611770e-1,
                                  2.27238449892691845833e-2, 7.74545014278341407640e-4};
  static constexpr double kD[] = {1.0,
                                  2.05319162663775882187e0,
                                  1.67638483018380384940e0,
                                  6.89767334985100004550e-1,
                                  1.48103976427480074590e-1,
                                  1.51986665636164571966e-2,
                                  5.47593808499534494600e-4,
                                  1.05075007164441684324e-9};
  static constexpr double kE[] = {6.65790464350110377720e0,  5.46378491116411436990e0,
                                  1.78482653991729133580e0,  2.96560571828504891230e-1,
                                  2.65321895265761230930e-2, 1.24266094738807843860e-3,
                                  2.71155556874348757815e-5, 2.01033439929228813265e-7};
  static constexpr double kF[] = {1.0,
                                  5.99832206555887937690e-1,
                                  1.36929880922735805310e-1,
                                  1.48753612908506148525e-2,
                                  7.86869131145613259100e-4,
                                  1.84631831751005468180e-5,
                                  1.42151175831644588870e-7,
                                  2.04426310338993978564e-15};
  const double q = p - 0.5;
  if (std::fabs(q) <= 0.425) {
    const double r = 0.180625 - q * q;
    return q * polynomial(kA, r) / polynomial(kB, r);
  }
  const double r = std::sqrt(-portable_log(q < 0 ? p : 1 - p));
  const double magnitude = r <= 5 ? polynomial(kC, r - 1.6) / polynomial(kD, r - 1.6)
                                  : polynomial(kE, r - 5) / polynomial(kF, r - 5);
  return q < 0 ? -magnitude : magnitude;
}

struct Distribution {
  double constant = 0;
  double deviation = 0;  ///< 0: every element is `constant`
  bool cut = true;       ///< at two deviations
};

Distribution distribution_of(const ParameterInfo& info, InitScheme scheme,
                             double initializer_range) {
  if (info.init == Init::kZeros || info.init == Init::kOnes) {
    return {info.init == Init::kOnes ? 1.0 : 0.0, 0, true};
  }
  if (scheme == InitScheme::kTransformers) {
    return {0, initializer_range, false};
  }
  const double by_fan_in = 1 / std::sqrt(static_cast<double>(info.fan_in));
  switch (info.init) {
    case Init::kAttentionLinear:
      return {0, by_fan_in / kCutDeviation, true};
    case Init::kPlainLinear:
      return {0, by_fan_in, true};
    case Init::kTable:
      return {0, 0.02, true};
    case Init::kEmbedding:
      return {0, 1, true};
    default:
      return {0, 0, true};
  }
}

struct Piece {
  const Distribution* distribution;
  uint64_t key;
  float* out;
  int64_t begin, end;
};

void fill(const Piece& piece) {
  const Distribution& d = *piece.distribution;
  if (d.deviation == 0) {
    std::fill(piece.out + piece.begin, piece.out + piece.end, static_cast<float>(d.constant));
    return;
  }
  const double low = d.cut ? kTail : 0;
  const double mass = 1 - 2 * low;
  for (int64_t i = piece.begin; i < piece.end; ++i) {
    const double p = low + mass * uniform(piece.key, static_cast<uint64_t>(i));
    piece.out[i] = static_cast<float>(d.deviation * inverse_normal(p));
  }
}

void fill_in_parallel(const std::vector<Piece>& pieces) {
  const size_t count = std::clamp<size_t>(std::thread::hardware_concurrency(), 1, 16);
  const auto work = [&](size_t worker) {
    for (size_t i = worker; i < pieces.size(); i += count) {
      fill(pieces[i]);
    }
  };
  std::vector<std::jthread> workers;
  for (size_t worker = 1; worker < count && worker < pieces.size(); ++worker) {
    workers.emplace_back(work, worker);
  }
  work(0);
}

}  // namespace

ArrayMap random_parameters(const ModelSpec& spec, InitScheme scheme, uint64_t seed,
                           double initializer_range) {
  if (!(initializer_range >= 0) || !std::isfinite(initializer_range)) {
    throw Error(ErrorCode::kArgument, "initializer_range must be finite and not negative");
  }
  constexpr int64_t kPiece = 1 << 18;
  const std::vector<ParameterInfo> table = parameter_table(spec);
  std::vector<Distribution> distributions;
  distributions.reserve(table.size());
  ArrayMap tensors;
  std::vector<Piece> pieces;
  for (const ParameterInfo& info : table) {
    Array& tensor = tensors[info.name] = Array::zeros(info.dtype, info.shape);
    if (info.dtype != DType::kF32) {
      continue;  // the batch counter starts at 0
    }
    distributions.push_back(distribution_of(info, scheme, initializer_range));
    const uint64_t key = stream_key(seed, info.name);
    for (int64_t begin = 0; begin < tensor.numel(); begin += kPiece) {
      pieces.push_back({&distributions.back(), key, tensor.mutable_data<float>(), begin,
                        std::min(begin + kPiece, tensor.numel())});
    }
  }
  fill_in_parallel(pieces);
  return tensors;
}

}  // namespace perceiver
