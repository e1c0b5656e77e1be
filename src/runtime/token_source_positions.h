#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "perceiver/base/array.h"
#include "perceiver/spec/model_spec.h"
#include "perceiver/tokens/positions.h"
#include "runtime/stems.h"
#include "runtime/token_source_cache.h"

namespace perceiver::runtime {

/// Encodings before any linear, any rows of them.
class EncodingRows {
 public:
  virtual ~EncodingRows() = default;
  virtual int64_t width() const = 0;
  virtual void write(int64_t b, const RowRange& range, Matrix out) const = 0;
};

/// Rows of a table in memory.
std::unique_ptr<EncodingRows> table_rows(const float* table, int64_t width);
/// Rows of a grid's Fourier features.
std::unique_ptr<EncodingRows> fourier_rows(
    std::shared_ptr<const tokens::SeparablePositions> positions);
/// Features of the coordinates in a raw array, example by example.
/// @param position  with max_resolution
std::unique_ptr<EncodingRows> coordinate_rows(const PositionSpec& position, Array raw,
                                              RawLayout layout);
/// A learned plane [h, w] for another plane: bicubic, corners not aligned, edges repeated.
std::unique_ptr<EncodingRows> resized_rows(const float* table, const std::vector<int64_t>& trained,
                                           const std::vector<int64_t>& wanted, int64_t width);

/// Encodings and the linears that follow them.
class PositionRows {
 public:
  PositionRows() = default;
  PositionRows(std::unique_ptr<EncodingRows> encoding, const PositionSpec& position,
               const std::string& prefix, const Weights& weights, SourceCache::Parts& cache);

  bool defined() const { return encoding_ != nullptr; }
  bool has_linears() const { return !extra_.empty() || projection_ != nullptr; }
  int64_t width() const;
  void write(int64_t b, const RowRange& range, Matrix out, StemScratch& scratch) const;

  /// Computes all rows once and keeps them in the cache, unless they are too many. Only for
  /// encodings that are the same for every example.
  /// @param grid  what the rows depend on besides `part`
  void keep_table(const std::string& part, const std::vector<int64_t>& grid, int64_t rows,
                  SourceCache::Parts& cache);

 private:
  void write_linears(int64_t b, const RowRange& range, Matrix out, StemScratch& scratch) const;

  std::unique_ptr<EncodingRows> encoding_;
  std::vector<std::shared_ptr<const Linear>> extra_;
  std::shared_ptr<const Linear> projection_;
  std::shared_ptr<const Array> table_;
};

}  // namespace perceiver::runtime
