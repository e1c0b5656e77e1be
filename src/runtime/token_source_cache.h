#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "perceiver/base/array.h"
#include "perceiver/tokens/positions.h"
#include "runtime/conv_stem.h"
#include "runtime/linear.h"
#include "runtime/stems.h"
#include "runtime/token_source.h"
#include "runtime/weights.h"

namespace perceiver::runtime {

/// One value per part of the spec, for the grid it was last asked for: memory stays bounded
/// whatever sizes a caller sends.
template <typename Value>
class GridCache {
 public:
  template <typename Make>
  std::shared_ptr<const Value> get(const std::string& part, const std::vector<int64_t>& grid,
                                   const Make& make) {
    Entry& entry = entries_[part];
    if (entry.value == nullptr || entry.grid != grid) {
      entry.value = std::make_shared<const Value>(make());
      entry.grid = grid;
    }
    return entry.value;
  }

 private:
  struct Entry {
    std::vector<int64_t> grid;
    std::shared_ptr<const Value> value;
  };
  std::map<std::string, Entry> entries_;
};

struct SourceCache::Parts {
  /// Of all sources that were made with this cache, and theirs after it is gone: they are read one
  /// at a time.
  std::shared_ptr<StemScratch> scratch = std::make_shared<StemScratch>();
  GridCache<tokens::SeparablePositions> fourier;  ///< by part and AxisGrid
  GridCache<Array> tables;                        ///< F32 [rows, width], linears applied
  std::map<std::string, std::shared_ptr<ConvStem>> conv_stems;

  std::shared_ptr<const Linear> linear(const Weights& weights, const std::string& prefix) {
    std::shared_ptr<const Linear>& entry = linears_[prefix];
    if (entry == nullptr) {
      // stems and positions stay float32 in a bfloat16 engine: they are a small part of the work,
      // and audio's top Fourier bands would not survive
      entry = std::make_shared<const Linear>(weights.affine(prefix), Precision::kF32);
    }
    return entry;
  }

 private:
  std::map<std::string, std::shared_ptr<const Linear>> linears_;
};

}  // namespace perceiver::runtime
