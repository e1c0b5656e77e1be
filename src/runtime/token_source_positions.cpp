#include "runtime/token_source_positions.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "runtime/rows.h"

namespace perceiver::runtime {
namespace {

class TableRows : public EncodingRows {
 public:
  TableRows(const float* table, int64_t width) : table_(table), width_(width) {}
  int64_t width() const override { return width_; }
  void write(int64_t /*b*/, const RowRange& range, Matrix out) const override {
    for_pieces(range.count(), width_, [&](int64_t from, int64_t to) {
      for (int64_t i = from; i < to; ++i) {
        std::copy_n(table_ + range.at(i) * width_, width_, out.row(i));
      }
    });
  }

 private:
  const float* table_;
  int64_t width_;
};

/// A dense row is put together of the axes' rows: raw coordinates, then sines, then cosines.
class FourierRows : public EncodingRows {
 public:
  explicit FourierRows(std::shared_ptr<const tokens::SeparablePositions> positions)
      : positions_(std::move(positions)),
        raw_(positions_->concat_pos ? 1 : 0),
        waves_(positions_->sine_only ? 1 : 2) {
    for (const Array& axis : positions_->axes) {
      tables_.push_back(axis.data<float>());
    }
  }

  int64_t width() const override { return static_cast<int64_t>(tables_.size()) * axis_width(); }

  void write(int64_t /*b*/, const RowRange& range, Matrix out) const override {
    for_pieces(range.count(), width(), [&](int64_t from, int64_t to) {
      for (int64_t i = from; i < to; ++i) {
        write_row(range.at(i), out.row(i));
      }
    });
  }

 private:
  int64_t axis_width() const { return raw_ + waves_ * positions_->num_bands; }

  void write_row(int64_t token, float* out) const {
    const int64_t bands = positions_->num_bands;
    const auto axes = static_cast<int64_t>(tables_.size());
    for (int64_t axis = axes; axis-- > 0;) {
      const int64_t extent = positions_->index_dims[static_cast<size_t>(axis)];
      const float* row = tables_[static_cast<size_t>(axis)] + token % extent * axis_width();
      token /= extent;
      if (raw_ != 0) {
        out[axis] = row[0];
      }
      float* waves = out + raw_ * axes + axis * bands;
      std::copy_n(row + raw_, bands, waves);
      if (waves_ == 2) {
        std::copy_n(row + raw_ + bands, bands, waves + axes * bands);
      }
    }
  }

  std::shared_ptr<const tokens::SeparablePositions> positions_;
  int64_t raw_, waves_;
  std::vector<const float*> tables_;
};

class CoordinateRows : public EncodingRows {
 public:
  CoordinateRows(PositionSpec position, Array raw, RawLayout layout)
      : position_(std::move(position)), raw_(std::move(raw)), layout_(std::move(layout)) {}

  int64_t width() const override { return tokens::fourier_channels(position_, layout_.run); }

  void write(int64_t b, const RowRange& range, Matrix out) const override {
    for (int64_t begin = 0; begin < range.count(); begin += kStemRows) {
      const int64_t count = std::min(kStemRows, range.count() - begin);
      Array points = Array::zeros(DType::kF32, {count, layout_.run});
      const Matrix rows{points.mutable_data<float>(), count, layout_.run, layout_.run};
      if (range.points == nullptr) {
        copy_rows(raw_, layout_, b, range.at(begin), range.at(begin) + count, rows);
      } else {
        for (int64_t i = 0; i < count; ++i) {
          const int64_t row = range.at(begin + i);
          copy_rows(raw_, layout_, b, row, row + 1, rows.block(i, i + 1));
        }
      }
      const Array features = tokens::fourier_features(position_, points);
      for (int64_t i = 0; i < count; ++i) {
        std::copy_n(features.data<float>() + i * width(), width(), out.row(begin + i));
      }
    }
  }

 private:
  PositionSpec position_;
  Array raw_;
  RawLayout layout_;
};

/// The four source rows of one target index and their weights.
struct Taps {
  std::array<int64_t, 4> index;
  std::array<float, 4> weight;
};

/// Keys' cubic convolution with A = -0.75, as torch has it, in float like torch.
std::vector<Taps> bicubic_taps(int64_t from, int64_t to) {
  constexpr float kA = -0.75F;
  const auto near = [](float x) { return ((kA + 2) * x - (kA + 3)) * x * x + 1; };
  const auto far = [](float x) { return ((kA * x - 5 * kA) * x + 8 * kA) * x - 4 * kA; };
  const float scale = static_cast<float>(from) / static_cast<float>(to);
  std::vector<Taps> taps(static_cast<size_t>(to));
  for (int64_t i = 0; i < to; ++i) {
    const float place = scale * (static_cast<float>(i) + 0.5F) - 0.5F;
    const float floor = std::floor(place);
    const float t = std::min(std::max(place - floor, 0.0F), 1.0F);
    Taps& tap = taps[static_cast<size_t>(i)];
    tap.weight = {far(t + 1), near(t), near(1 - t), far(2 - t)};
    for (int64_t k = 0; k < 4; ++k) {
      tap.index[static_cast<size_t>(k)] =
          std::clamp<int64_t>(static_cast<int64_t>(floor) + k - 1, 0, from - 1);
    }
  }
  return taps;
}

class ResizedRows : public EncodingRows {
 public:
  ResizedRows(const float* table, const std::vector<int64_t>& trained,
              const std::vector<int64_t>& wanted, int64_t width)
      : table_(table),
        trained_columns_(trained[1]),
        columns_(wanted[1]),
        width_(width),
        rows_(bicubic_taps(trained[0], wanted[0])),
        across_(bicubic_taps(trained[1], wanted[1])) {}

  int64_t width() const override { return width_; }

  void write(int64_t /*b*/, const RowRange& range, Matrix out) const override {
    for_pieces(range.count(), 16 * width_, [&](int64_t from, int64_t to) {
      for (int64_t i = from; i < to; ++i) {
        write_row(range.at(i), out.row(i));
      }
    });
  }

 private:
  void write_row(int64_t token, float* out) const {
    const Taps& down = rows_[static_cast<size_t>(token / columns_)];
    const Taps& across = across_[static_cast<size_t>(token % columns_)];
    std::fill_n(out, width_, 0.0F);
    for (size_t y = 0; y < 4; ++y) {
      const float* line = table_ + down.index[y] * trained_columns_ * width_;
      const float* a = line + across.index[0] * width_;
      const float* b = line + across.index[1] * width_;
      const float* c = line + across.index[2] * width_;
      const float* d = line + across.index[3] * width_;
      for (int64_t k = 0; k < width_; ++k) {
        const float value = a[k] * across.weight[0] + b[k] * across.weight[1] +
                            c[k] * across.weight[2] + d[k] * across.weight[3];
        out[k] += value * down.weight[y];
      }
    }
  }

  const float* table_;
  int64_t trained_columns_, columns_, width_;
  std::vector<Taps> rows_, across_;
};

void add_into(const Matrix& from, Matrix to, bool relu) {
  for (int64_t i = 0; i < to.rows; ++i) {
    float* row = to.row(i);
    const float* other = from.row(i);
    for (int64_t k = 0; k < to.columns; ++k) {
      const float sum = row[k] + other[k];
      row[k] = relu ? std::max(sum, 0.0F) : sum;
    }
  }
}

}  // namespace

std::unique_ptr<EncodingRows> table_rows(const float* table, int64_t width) {
  return std::make_unique<TableRows>(table, width);
}

std::unique_ptr<EncodingRows> fourier_rows(
    std::shared_ptr<const tokens::SeparablePositions> positions) {
  return std::make_unique<FourierRows>(std::move(positions));
}

std::unique_ptr<EncodingRows> coordinate_rows(const PositionSpec& position, Array raw,
                                              RawLayout layout) {
  return std::make_unique<CoordinateRows>(position, std::move(raw), std::move(layout));
}

std::unique_ptr<EncodingRows> resized_rows(const float* table, const std::vector<int64_t>& trained,
                                           const std::vector<int64_t>& wanted, int64_t width) {
  return std::make_unique<ResizedRows>(table, trained, wanted, width);
}

PositionRows::PositionRows(std::unique_ptr<EncodingRows> encoding, const PositionSpec& position,
                           const std::string& prefix, const Weights& weights,
                           SourceCache::Parts& cache)
    : encoding_(std::move(encoding)) {
  for (int64_t i = 0; i < position.num_extra_linears; ++i) {
    extra_.push_back(cache.linear(weights, cat(prefix, ".extra.", i)));
  }
  if (position.project_channels > 0) {
    projection_ = cache.linear(weights, prefix + ".projection");
  }
}

int64_t PositionRows::width() const {
  return projection_ != nullptr ? projection_->out() : encoding_->width();
}

void PositionRows::write(int64_t b, const RowRange& range, Matrix out, StemScratch& scratch) const {
  if (table_ != nullptr) {
    TableRows(table_->data<float>(), width()).write(b, range, out);
  } else if (!has_linears()) {
    encoding_->write(b, range, out);
  } else {
    for (int64_t from = 0; from < range.count(); from += kStemRows) {
      const int64_t to = std::min(from + kStemRows, range.count());
      write_linears(b, range.part(from, to), out.block(from, to), scratch);
    }
  }
}

void PositionRows::write_linears(int64_t b, const RowRange& range, Matrix out,
                                 StemScratch& scratch) const {
  const Matrix x = StemScratch::matrix(scratch.first, range.count(), encoding_->width());
  encoding_->write(b, range, x);
  for (size_t i = 0; i < extra_.size(); ++i) {
    const Matrix change = StemScratch::matrix(scratch.second, x.rows, x.columns);
    extra_[i]->apply(x, change);
    add_into(change, x, i + 1 < extra_.size());
  }
  if (projection_ != nullptr) {
    projection_->apply(x, out);
  } else {
    copy_matrix(x, out);
  }
}

void PositionRows::keep_table(const std::string& part, const std::vector<int64_t>& grid,
                              int64_t rows, SourceCache::Parts& cache) {
  const int64_t row_bytes = width() * static_cast<int64_t>(sizeof(float));
  if (row_bytes == 0 || rows > SourceCache::kMaxTableBytes / row_bytes) {
    return;
  }
  table_ = cache.tables.get(part, grid, [&] {
    Array table = Array::zeros(DType::kF32, {rows, width()});
    StemScratch scratch;
    write(0, {0, rows}, {table.mutable_data<float>(), rows, width(), width()}, scratch);
    return table;
  });
}

std::vector<int64_t> axis_columns(const tokens::SeparablePositions& positions, size_t axis) {
  const auto axes = static_cast<int64_t>(positions.axes.size());
  const auto own = static_cast<int64_t>(axis);
  const int64_t raw = positions.concat_pos ? 1 : 0;
  const int64_t bands = positions.num_bands;
  std::vector<int64_t> columns;
  if (positions.concat_pos) {
    columns.push_back(own);
  }
  for (int64_t wave = 0; wave < (positions.sine_only ? 1 : 2); ++wave) {
    for (int64_t band = 0; band < bands; ++band) {
      columns.push_back(raw * axes + (wave * axes + own) * bands + band);
    }
  }
  return columns;
}

}  // namespace perceiver::runtime
