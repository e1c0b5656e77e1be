#include "runtime/token_factors.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "runtime/linear.h"

namespace perceiver::runtime {
namespace {

struct Spread {
  double mean = 0;
  double squares = 0;  ///< sum of (x - mean)^2
};

Spread spread_of(const float* x, int64_t width) {
  if (width == 0) {
    return {};
  }
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t c = 0; c < width; ++c) {
    sum += x[c];
  }
  const float mean = sum / static_cast<float>(width);
  // the rounded mean serves both: squares and (mean - mu)^2 refer to the same number
  float squares = 0, rest = 0;
#pragma omp simd reduction(+ : squares, rest)
  for (int64_t c = 0; c < width; ++c) {
    const float d = x[c] - mean;
    squares += d * d;
    rest += d;
  }
  const double correction = static_cast<double>(rest) / static_cast<double>(width);
  return {static_cast<double>(mean) + correction,
          static_cast<double>(squares) - correction * correction * static_cast<double>(width)};
}

/// Coordinates of consecutive points of a row-major grid, without a division a point.
template <typename Extents>
class GridWalk {
 public:
  GridWalk(const Extents& extents, size_t axes, int64_t first) : extents_(extents), axes_(axes) {
    go_to(first);
  }
  void go_to(int64_t point) {
    for (size_t x = axes_; x-- > 0;) {
      at_[x] = point % extents_[x];
      point /= extents_[x];
    }
  }
  size_t at(size_t axis) const { return static_cast<size_t>(at_[axis]); }
  void step() {
    for (size_t x = axes_; x-- > 0;) {
      if (++at_[x] < extents_[x]) {
        return;
      }
      at_[x] = 0;
    }
  }

 private:
  const Extents& extents_;
  size_t axes_;
  Extents at_{};
};

constexpr int64_t kRowsPerTask = 512;

}  // namespace

bool TokenFactors::applies(const TokenSource& source) {
  if (!source.factors() || source.positions().axes.empty() ||
      source.positions().axes.size() > static_cast<size_t>(kernels::kMaxGridAxes)) {
    return false;
  }
  return std::all_of(source.positions().index_dims.begin(), source.positions().index_dims.end(),
                     [](int64_t extent) { return extent > 0; });
}

TokenFactors::TokenFactors(const TokenSource& source)
    : content_(source.content_channels()), channels_(source.channels()) {
  for (size_t axis = 0; axis < source.positions().axes.size(); ++axis) {
    add_axis(source, axis);
  }
  if (source.constant_channels() > 0) {
    constant_.assign(source.constant(), source.constant() + source.constant_channels());
    const Spread spread = spread_of(constant_.data(), source.constant_channels());
    constant_mean_ = spread.mean;
    constant_spread_ = spread.squares;
  }
}

void TokenFactors::add_axis(const TokenSource& source, size_t index) {
  Axis axis;
  axis.table = source.positions().axes[index].to(DType::kF32);
  axis.extent = axis.table.size(0);
  axis.width = axis.table.size(1);
  axis.columns = axis_columns(source.positions(), index);
  for (int64_t& column : axis.columns) {
    column += content_;
  }
  for (int64_t c = 0; c < axis.extent; ++c) {
    const Spread spread = spread_of(features(axis).row(c), axis.width);
    axis.mean.push_back(spread.mean);
    axis.spread.push_back(spread.squares);
  }
  axes_.push_back(std::move(axis));
}

bool TokenFactors::fits(const TokenSource& source) const {
  const std::vector<Array>& axes = source.positions().axes;
  if (source.content_channels() != content_ || source.channels() != channels_ ||
      axes.size() != axes_.size() ||
      !std::equal(constant_.begin(), constant_.end(), source.constant(),
                  source.constant() + source.constant_channels())) {
    return false;
  }
  // The same grid may have its points elsewhere when only some of them are asked for.
  return std::equal(axes.begin(), axes.end(), axes_.begin(), [](const Array& its, const Axis& own) {
    return its.dtype() == DType::kF32 && its.shape() == own.table.shape() &&
           (its.bytes() == own.table.bytes() ||
            std::memcmp(its.bytes(), own.table.bytes(), static_cast<size_t>(its.nbytes())) == 0);
  });
}

ConstMatrix TokenFactors::features(const Axis& axis) {
  return {axis.table.data<float>(), axis.extent, axis.width, axis.width};
}

TokenFactors::Extents TokenFactors::grid() const {
  Extents extents{};
  for (size_t x = 0; x < axes_.size(); ++x) {
    extents[x] = axes_[x].extent;
  }
  return extents;
}

int64_t TokenFactors::extents() const {
  int64_t total = 0;
  for (const Axis& axis : axes_) {
    total += axis.extent;
  }
  return total;
}

void TokenFactors::scales(ConstMatrix content, const TokenWindow& window, float eps,
                          float* out) const {
  const Extents extents = grid();
  const auto width = [](int64_t n) { return static_cast<double>(n); };
  const double all = width(channels_);
  const int64_t constants = static_cast<int64_t>(constant_.size());
#pragma omp parallel for schedule(static)
  for (int64_t task = 0; task < content.rows; task += kRowsPerTask) {
    const int64_t end = std::min(task + kRowsPerTask, content.rows);
    GridWalk walk(extents, axes_.size(), window.token(task));
    for (int64_t i = task; i < end; ++i, walk.step()) {
      if (i % window.columns == 0) {
        walk.go_to(window.token(i));
      }
      const Spread own = spread_of(content.row(i), content_);
      double mu = width(content_) * own.mean + width(constants) * constant_mean_;
      for (size_t x = 0; x < axes_.size(); ++x) {
        mu += width(axes_[x].width) * axes_[x].mean[walk.at(x)];
      }
      mu /= all;
      const auto about_mu = [mu, width](double mean, double squares, int64_t n) {
        return squares + width(n) * (mean - mu) * (mean - mu);
      };
      double squares = about_mu(own.mean, own.squares, content_) +
                       about_mu(constant_mean_, constant_spread_, constants);
      for (size_t x = 0; x < axes_.size(); ++x) {
        const size_t c = walk.at(x);
        squares += about_mu(axes_[x].mean[c], axes_[x].spread[c], axes_[x].width);
      }
      out[i] = static_cast<float>(1 / std::sqrt(squares / all + static_cast<double>(eps)));
    }
  }
}

Matrix TokenFactors::columns_of(const Axis& axis, ConstMatrix x, Workspace& workspace) {
  const Matrix part = workspace.dense(x.rows, axis.width);
  for (int64_t i = 0; i < x.rows; ++i) {
    float* to = part.row(i);
    for (const int64_t column : axis.columns) {
      *to++ = x.row(i)[column];
    }
  }
  return part;
}

float TokenFactors::constant_score(const float* x) const {
  const float* own = x + channels_ - static_cast<int64_t>(constant_.size());
  double score = 0;
  for (size_t k = 0; k < constant_.size(); ++k) {
    score += static_cast<double>(own[k]) * static_cast<double>(constant_[k]);
  }
  return static_cast<float>(score);
}

void TokenFactors::table(int axis, ConstMatrix x, Matrix out, Workspace& workspace) const {
  const Workspace::Scope scope(workspace);
  const Axis& own = axes_[static_cast<size_t>(axis)];
  multiply_transposed(columns_of(own, x, workspace), features(own), out);
  if (axis > 0 || constant_.empty()) {
    return;
  }
  for (int64_t i = 0; i < out.rows; ++i) {
    const float score = constant_score(x.row(i));
    for (int64_t c = 0; c < out.columns; ++c) {
      out.row(i)[c] += score;
    }
  }
}

void TokenFactors::table_by_coordinate(int axis, ConstMatrix x, Matrix out,
                                       Workspace& workspace) const {
  const Workspace::Scope scope(workspace);
  const Axis& own = axes_[static_cast<size_t>(axis)];
  multiply_transposed(features(own), columns_of(own, x, workspace), out);
  if (axis > 0 || constant_.empty()) {
    return;
  }
  float* scores = workspace.take(out.columns);
  for (int64_t i = 0; i < out.columns; ++i) {
    scores[i] = constant_score(x.row(i));
  }
  for (int64_t c = 0; c < out.rows; ++c) {
    for (int64_t i = 0; i < out.columns; ++i) {
      out.row(c)[i] += scores[i];
    }
  }
}

void TokenFactors::gather(ConstMatrix sums, Matrix tokens, Workspace& workspace) const {
  for (int64_t i = 0; i < sums.rows; ++i) {
    std::copy_n(sums.row(i), content_, tokens.row(i));
  }
  int64_t offset = content_;
  for (const Axis& axis : axes_) {
    const Workspace::Scope scope(workspace);
    const Matrix part = workspace.dense(sums.rows, axis.width);
    multiply(sums.slice(offset, axis.extent), features(axis), part);
    offset += axis.extent;
    for (int64_t i = 0; i < sums.rows; ++i) {
      const float* from = part.row(i);
      for (const int64_t column : axis.columns) {
        tokens.row(i)[column] = *from++;
      }
    }
  }
  const int64_t first = channels_ - static_cast<int64_t>(constant_.size());
  for (int64_t i = 0; i < sums.rows && !constant_.empty(); ++i) {
    double total = 0;
    for (int64_t c = 0; c < axes_[0].extent; ++c) {
      total += static_cast<double>(sums.row(i)[content_ + c]);
    }
    for (size_t k = 0; k < constant_.size(); ++k) {
      tokens.row(i)[first + static_cast<int64_t>(k)] =
          static_cast<float>(total * static_cast<double>(constant_[k]));
    }
  }
}

void centre_rows(Matrix x) {
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < x.rows; ++i) {
    double sum = 0;
    for (int64_t c = 0; c < x.columns; ++c) {
      sum += static_cast<double>(x.row(i)[c]);
    }
    const double mean = sum / static_cast<double>(x.columns);
    for (int64_t c = 0; c < x.columns; ++c) {
      x.row(i)[c] = static_cast<float>(static_cast<double>(x.row(i)[c]) - mean);
    }
  }
}

FactoredTables& tables_of(std::vector<std::unique_ptr<FactoredTables>>& kept,
                          const std::string& name, const TokenSource& source) {
  auto found =
      std::find_if(kept.begin(), kept.end(), [&](const auto& one) { return one->name == name; });
  if (found != kept.end() && (*found)->factors.fits(source)) {
    return **found;
  }
  auto made =
      std::make_unique<FactoredTables>(FactoredTables{name, TokenFactors(source), {}, false});
  if (found == kept.end()) {
    found = kept.insert(found, std::move(made));
  } else {
    *found = std::move(made);
  }
  return **found;
}

}  // namespace perceiver::runtime
