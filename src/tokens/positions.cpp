#include "perceiver/tokens/positions.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"

namespace perceiver::tokens {
namespace {

/// n equally spaced values, both ends included. Counted from the nearer end, multiply and add
/// rounded once: so torch computes it, bit for bit.
template <typename T>
std::vector<T> linspace(T start, T end, int64_t n) {
  std::vector<T> values(static_cast<size_t>(n), start);
  if (n < 2) {
    return values;
  }
  const T step = (end - start) / static_cast<T>(n - 1);
  for (int64_t i = 0; i < n; ++i) {
    values[static_cast<size_t>(i)] = i < n / 2 ? std::fma(step, static_cast<T>(i), start)
                                               : std::fma(-step, static_cast<T>(n - 1 - i), end);
  }
  return values;
}

template <typename T>
std::vector<T> coordinates(int64_t n, AxisGrid grid) {
  if (n < 0) {
    throw Error(ErrorCode::kArgument, cat("an axis of ", n, " points cannot be"));
  }
  if (grid == AxisGrid::kInclusive) {
    return linspace<T>(T(-1), T(1), n);
  }
  std::vector<T> values(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) {
    values[static_cast<size_t>(i)] = T(-1) + static_cast<T>(2 * i) / static_cast<T>(n);
  }
  return values;
}

template <typename T>
std::vector<T> bands(int64_t num_bands, int64_t max_resolution) {
  return linspace<T>(T(1), static_cast<T>(static_cast<double>(max_resolution) / 2), num_bands);
}

/// Sine and cosine of the rounded argument, themselves correctly rounded: float goes through
/// double, which is within torch's own last-bit spread and the same on every machine.
template <typename T>
T exact_sin(T x) {
  return static_cast<T>(std::sin(static_cast<double>(x)));
}
template <typename T>
T exact_cos(T x) {
  return static_cast<T>(std::cos(static_cast<double>(x)));
}

/// sin(pi * (x * f)) for each band, and the cosines behind if asked for.
template <typename T>
void write_waves(T x, const std::vector<T>& frequencies, T* sines, T* cosines) {
  constexpr T kPi = std::numbers::pi_v<T>;
  for (size_t j = 0; j < frequencies.size(); ++j) {
    const T argument = kPi * (x * frequencies[j]);
    sines[j] = exact_sin(argument);
    if (cosines != nullptr) {
      cosines[j] = exact_cos(argument);
    }
  }
}

void check_axes(const PositionSpec& position, size_t dims, const std::vector<int64_t>& resolution) {
  if (position.num_bands < 0) {
    throw Error(ErrorCode::kArgument,
                cat("num_bands is ", position.num_bands, ", must be at least 0"));
  }
  if (resolution.size() != dims) {
    throw Error(ErrorCode::kArgument, cat("max_resolution ", shape_string(resolution), " has ",
                                          resolution.size(), " axes, the positions have ", dims));
  }
}

template <typename T>
Array axis_table(const PositionSpec& position, int64_t n, int64_t resolution, AxisGrid grid) {
  const int64_t k = position.num_bands;
  const int64_t raw = position.concat_pos ? 1 : 0;
  const int64_t width = raw + k * (position.sine_only ? 1 : 2);
  Array table = Array::zeros(DTypeOf<T>::value, {n, width});
  const std::vector<T> points = coordinates<T>(n, grid);
  const std::vector<T> frequencies = bands<T>(k, resolution);
  T* row = table.mutable_data<T>();
  for (const T x : points) {
    if (position.concat_pos) {
      row[0] = x;
    }
    write_waves(x, frequencies, row + raw, position.sine_only ? nullptr : row + raw + k);
    row += width;
  }
  return table;
}

/// Copies per-axis rows into one dense row: raw coordinates, then sines, then cosines.
template <typename T>
class RowWriter {
 public:
  explicit RowWriter(const SeparablePositions& separable)
      : dims_(separable.axes.size()),
        bands_(separable.num_bands),
        raw_(separable.concat_pos ? 1 : 0),
        waves_(separable.sine_only ? 1 : 2),
        index_dims_(separable.index_dims) {
    for (const Array& axis : separable.axes) {
      tables_.push_back(axis.data<T>());
    }
  }

  int64_t width() const { return static_cast<int64_t>(dims_) * axis_width(); }

  void write(int64_t flat_index, T* out) const {
    for (size_t k = dims_; k-- > 0;) {
      const T* row = tables_[k] + flat_index % index_dims_[k] * axis_width();
      flat_index /= index_dims_[k];
      if (raw_ != 0) {
        out[k] = row[0];
      }
      for (int64_t wave = 0; wave < waves_; ++wave) {
        const int64_t block = wave * static_cast<int64_t>(dims_) + static_cast<int64_t>(k);
        std::copy_n(row + raw_ + wave * bands_, bands_,
                    out + raw_ * static_cast<int64_t>(dims_) + block * bands_);
      }
    }
  }

 private:
  int64_t axis_width() const { return raw_ + waves_ * bands_; }

  size_t dims_;
  int64_t bands_, raw_, waves_;
  std::vector<int64_t> index_dims_;
  std::vector<const T*> tables_;
};

template <typename T, typename IndexAt>
Array write_rows(const SeparablePositions& separable, int64_t count, IndexAt index_at) {
  const RowWriter<T> writer(separable);
  Array out = Array::zeros(DTypeOf<T>::value, {count, writer.width()});
  T* row = out.mutable_data<T>();
  for (int64_t i = 0; i < count; ++i, row += writer.width()) {
    writer.write(index_at(i), row);
  }
  return out;
}

template <typename IndexAt>
Array write_rows(const SeparablePositions& separable, int64_t count, IndexAt index_at) {
  if (separable.axes.empty()) {
    throw Error(ErrorCode::kArgument, "positions without an axis have no rows");
  }
  return separable.axes.front().dtype() == DType::kF64
             ? write_rows<double>(separable, count, index_at)
             : write_rows<float>(separable, count, index_at);
}

template <typename T>
Array features_of(const PositionSpec& position, const Array& points) {
  const int64_t d = points.size(-1);
  const int64_t k = position.num_bands;
  const int64_t raw = position.concat_pos ? d : 0;
  const int64_t width = fourier_channels(position, d);
  std::vector<int64_t> shape = points.shape();
  shape.back() = width;
  Array out = Array::zeros(DTypeOf<T>::value, std::move(shape));
  std::vector<std::vector<T>> frequencies;
  for (const int64_t resolution : position.max_resolution) {
    frequencies.push_back(bands<T>(k, resolution));
  }
  const int64_t count = d == 0 ? 0 : points.numel() / d;
  const T* x = points.data<T>();
  T* row = out.mutable_data<T>();
  for (int64_t i = 0; i < count; ++i, x += d, row += width) {
    std::copy_n(x, raw, row);
    for (int64_t axis = 0; axis < d; ++axis) {
      T* sines = row + raw + axis * k;
      write_waves(x[axis], frequencies[static_cast<size_t>(axis)], sines,
                  position.sine_only ? nullptr : sines + d * k);
    }
  }
  return out;
}

void check_dtype(DType dtype) {
  if (dtype != DType::kF32 && dtype != DType::kF64) {
    throw Error(ErrorCode::kArgument,
                cat("Fourier tables come in F32 or F64, not ", dtype_name(dtype)));
  }
}

}  // namespace

int64_t fourier_channels(const PositionSpec& position, int64_t dims) {
  return dims * ((position.concat_pos ? 1 : 0) + position.num_bands * (position.sine_only ? 1 : 2));
}

std::vector<double> axis_coordinates(int64_t n, AxisGrid grid) {
  return coordinates<double>(n, grid);
}

SeparablePositions fourier_grid(const PositionSpec& position,
                                const std::vector<int64_t>& index_dims, AxisGrid grid,
                                DType dtype) {
  check_dtype(dtype);
  const std::vector<int64_t>& resolution =
      position.max_resolution.empty() ? index_dims : position.max_resolution;
  check_axes(position, index_dims.size(), resolution);
  SeparablePositions out;
  out.index_dims = index_dims;
  out.concat_pos = position.concat_pos;
  out.sine_only = position.sine_only;
  out.num_bands = position.num_bands;
  for (size_t k = 0; k < index_dims.size(); ++k) {
    out.axes.push_back(dtype == DType::kF64
                           ? axis_table<double>(position, index_dims[k], resolution[k], grid)
                           : axis_table<float>(position, index_dims[k], resolution[k], grid));
  }
  return out;
}

Array SeparablePositions::dense() const {
  return write_rows(*this, element_count(index_dims), [](int64_t i) { return i; });
}

Array SeparablePositions::rows(const std::vector<int64_t>& flat_indices) const {
  const int64_t points = element_count(index_dims);
  for (const int64_t index : flat_indices) {
    if (index < 0 || index >= points) {
      throw Error(ErrorCode::kArgument, cat("point ", index, " lies outside the grid ",
                                            shape_string(index_dims), " of ", points, " points"));
    }
  }
  return write_rows(*this, static_cast<int64_t>(flat_indices.size()),
                    [&](int64_t i) { return flat_indices[static_cast<size_t>(i)]; });
}

Array fourier_features(const PositionSpec& position, const Array& coordinates) {
  check_dtype(coordinates.dtype());
  if (coordinates.dim() < 1) {
    throw Error(ErrorCode::kShape, "coordinates need a last axis of their dimensions");
  }
  check_axes(position, static_cast<size_t>(coordinates.size(-1)), position.max_resolution);
  return coordinates.dtype() == DType::kF64 ? features_of<double>(position, coordinates)
                                            : features_of<float>(position, coordinates);
}

}  // namespace perceiver::tokens
