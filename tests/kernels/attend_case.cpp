#include "kernels/attend_case.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <random>
#include <sstream>
#include <stdexcept>

namespace perceiver::kernels {
namespace {

constexpr double kEpsilon = 0x1p-24;  // half of float's epsilon: one rounding
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
const float kPattern = -12345.678f;

bool same_bits(float a, float b) {
  return std::memcmp(&a, &b, sizeof(a)) == 0;
}

void lengthen_every_other(GuardedRows& keys, float factor) {
  constexpr int64_t kRun = 512;
  for (int64_t b = 0; b < keys.batches; ++b) {
    for (int64_t h = 0; h < keys.heads; ++h) {
      for (int64_t i = 0; i < keys.num_rows; ++i) {
        for (int64_t c = 0; c < keys.width; ++c) {
          keys.at(b, h, i, c) *= i / kRun % 2 == 1 ? factor : 1;
        }
      }
    }
  }
}

void fill_normal(GuardedRows& rows, float size, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  for (int64_t b = 0; b < rows.batches; ++b) {
    for (int64_t h = 0; h < rows.heads; ++h) {
      for (int64_t i = 0; i < rows.num_rows; ++i) {
        for (int64_t c = 0; c < rows.width; ++c) {
          rows.at(b, h, i, c) = size * normal(random);
        }
      }
    }
  }
}

void parse_grid(const std::string& value, AttendLine& line) {
  const size_t colon = value.find(':');
  line.side = value.substr(0, colon) == "keys" ? GridSide::kKeys : GridSide::kQueries;
  std::istringstream extents(value.substr(colon + 1));
  for (std::string extent; std::getline(extents, extent, 'x');) {
    line.extents.push_back(std::stoll(extent));
  }
}

void parse_word(const std::string& name, const std::string& value, AttendLine& line) {
  AttendShape& shape = line.shape;
  const std::pair<const char*, int64_t*> numbers[] = {
      {"batch", &shape.batch}, {"heads", &shape.heads}, {"q", &shape.queries}, {"k", &shape.keys},
      {"qk", &shape.qk_dim},   {"v", &shape.v_dim},     {"begin", &line.begin}};
  for (const auto& [known, number] : numbers) {
    if (name == known) {
      *number = std::stoll(value);
      return;
    }
  }
  if (name == "share") {
    line.share = value;
  } else if (name == "mask") {
    line.mask = value;
  } else if (name == "bias") {
    line.bias = value == "1";
  } else if (name == "scale") {
    line.scale = value == "1";
  } else if (name == "sums") {
    line.sums = value;
  } else if (name == "size") {
    line.size = std::stof(value);
  } else if (name == "steps") {
    line.steps = std::stof(value);
  } else if (name == "grid") {
    parse_grid(value, line);
  } else {
    throw std::invalid_argument("unknown word " + name + " in: " + line.text);
  }
}

}  // namespace

AttendLine parse_line(const std::string& text) {
  AttendLine line;
  line.text = text.substr(0, text.find('#'));
  std::istringstream words(line.text);
  for (std::string word; words >> word;) {
    const size_t equals = word.find('=');
    parse_word(word.substr(0, equals), word.substr(equals + 1), line);
  }
  return line;
}

std::vector<AttendLine> read_lines(const std::string& path) {
  std::ifstream file(path);
  if (!file) {
    throw std::invalid_argument("cannot read " + path);
  }
  std::vector<AttendLine> lines;
  for (std::string text; std::getline(file, text);) {
    if (text.substr(0, text.find('#')).find('=') != std::string::npos) {
      lines.push_back(parse_line(text));
    }
  }
  return lines;
}

GuardedRows::GuardedRows(int64_t num_batches, int64_t heads_of_batch, int64_t rows,
                         int64_t row_width, bool share)
    : batches(share ? 1 : num_batches),
      heads(share ? 1 : heads_of_batch),
      num_rows(rows),
      width(row_width) {
  row_stride_ = width + 3;
  const int64_t head_floats = num_rows * row_stride_ + 5;
  head_stride_ = share ? 0 : head_floats;
  batch_stride_ = share ? 0 : heads * head_floats;
  data_.assign(static_cast<size_t>(batches * heads * head_floats + 2 * kGuard), kPattern);
}

Rows<float> GuardedRows::rows() {
  return {data_.empty() ? nullptr : start(), batch_stride_, head_stride_, row_stride_};
}
Rows<const float> GuardedRows::inputs() const {
  return {data_.empty() ? nullptr : data_.data() + kGuard, batch_stride_, head_stride_,
          row_stride_};
}
float& GuardedRows::at(int64_t batch, int64_t head, int64_t row, int64_t c) {
  return start()[batch * batch_stride_ + head * head_stride_ + row * row_stride_ + c];
}
float GuardedRows::at(int64_t batch, int64_t head, int64_t row, int64_t c) const {
  return data_[static_cast<size_t>(kGuard + batch * batch_stride_ + head * head_stride_ +
                                   row * row_stride_ + c)];
}

void GuardedRows::fill(float value) {
  for (int64_t row = 0; row < batches * heads * num_rows; ++row) {
    for (int64_t c = 0; c < width; ++c) {
      at(row / num_rows / heads, row / num_rows % heads, row % num_rows, c) = value;
    }
  }
}

bool GuardedRows::intact() const {
  GuardedRows copy = *this;
  copy.fill(kPattern);
  return std::all_of(copy.data_.begin(), copy.data_.end(),
                     [](float x) { return same_bits(x, kPattern); });
}

bool AttendResults::intact() const {
  return out.intact() && lse.intact() &&
         std::all_of(std::begin(sums), std::end(sums),
                     [](const GuardedRows& rows) { return rows.intact(); });
}

std::string AttendResults::difference(const AttendResults& other) const {
  std::ostringstream text;
  const auto check = [&text](const char* name, const GuardedRows& a, const GuardedRows& b) {
    for (int64_t n = 0; n < a.batches * a.heads * a.num_rows * a.width; ++n) {
      const int64_t row = n / a.width, head = row / a.num_rows;
      const float x = a.at(head / a.heads, head % a.heads, row % a.num_rows, n % a.width);
      const float y = b.at(head / a.heads, head % a.heads, row % a.num_rows, n % a.width);
      if (text.str().empty() && !same_bits(x, y)) {
        text << name << " row " << row << " column " << n % a.width << ": " << x << " and " << y;
      }
    }
  };
  check("out", out, other.out);
  check("lse", lse, other.lse);
  for (int x = 0; x < kMaxGridAxes; ++x) {
    check("sums", sums[x], other.sums[x]);
  }
  return text.str();
}

AttendCase::AttendCase(const AttendLine& line, uint32_t seed) : line_(line) {
  const AttendShape& shape = line_.shape;
  const auto shares = [this](char name) { return line_.share.find(name) != std::string::npos; };
  q_ = GuardedRows(shape.batch, shape.heads, shape.queries, shape.qk_dim, shares('q'));
  k_ = GuardedRows(shape.batch, shape.heads, shape.keys, shape.qk_dim, shares('k'));
  v_ = GuardedRows(shape.batch, shape.heads, shape.keys, shape.v_dim, shares('v'));
  fill_normal(q_, line_.size, seed);
  fill_normal(k_, line_.size, seed + 1);
  lengthen_every_other(k_, line_.steps);
  fill_normal(v_, 1, seed + 2);
  const bool on_keys = line_.side == GridSide::kKeys;
  for (size_t x = 0; x < line_.extents.size(); ++x) {
    const int64_t extent = line_.extents[x];
    tables_[x] = GuardedRows(shape.batch, shape.heads, on_keys ? shape.queries : extent,
                             on_keys ? extent : shape.keys, false);
    fill_normal(tables_[x], line_.size, seed + 3 + static_cast<uint32_t>(x));
  }
  std::mt19937 random(seed + 10);
  std::normal_distribution<float> normal;
  if (line_.bias) {
    bias_.resize(static_cast<size_t>(shape.batch * shape.heads * shape.keys));
    std::generate(bias_.begin(), bias_.end(), [&] { return 2 * normal(random); });
  }
  if (line_.side != GridSide::kNone && line_.scale) {
    const int64_t tokens = on_keys ? shape.keys : shape.queries;
    scale_.resize(static_cast<size_t>(shape.batch * tokens));
    std::generate(scale_.begin(), scale_.end(), [&] { return 0.5f + std::abs(normal(random)); });
  }
  if (!line_.mask.empty()) {
    make_mask(seed + 11);
    poison_masked();
  }
}

void AttendCase::make_mask(uint32_t seed) {
  const AttendShape& shape = line_.shape;
  const bool shared = line_.mask == "shared";
  mask_batch_ = shared ? 0 : shape.keys;
  mask_.assign(static_cast<size_t>(shape.keys * (shared ? 1 : shape.batch)), 0);
  std::mt19937 random(seed);
  for (size_t n = 0; n < mask_.size(); ++n) {
    const int64_t key = static_cast<int64_t>(n) % shape.keys;
    if (line_.mask == "random" || shared) {
      mask_[n] = static_cast<uint8_t>(random() % 3);  // anything but 0 attends
    } else if (line_.mask == "first") {
      mask_[n] = key == (shape.keys - 1) / 256 * 256;
    } else if (line_.mask == "last") {
      mask_[n] = key == shape.keys - 1;
    }
  }
}

/// A masked key may hold anything: NaN shows where it is looked at.
void AttendCase::poison_masked() {
  for (int64_t b = 0; b < line_.shape.batch; ++b) {
    for (int64_t j = 0; j < line_.shape.keys; ++j) {
      if (is_valid(b, j) || !line_.share.empty() || line_.mask == "shared") {
        continue;
      }
      for (int64_t h = 0; h < line_.shape.heads; ++h) {
        for (int64_t c = 0; c < line_.shape.qk_dim; ++c) {
          k_.at(b, h, j, c) = kNan;
        }
        for (int64_t c = 0; c < line_.shape.v_dim; ++c) {
          v_.at(b, h, j, c) = kNan;
        }
      }
      if (line_.side == GridSide::kKeys && !scale_.empty()) {
        scale_[static_cast<size_t>(b * line_.shape.keys + j)] = 1e30f;
      }
    }
  }
}

bool AttendCase::is_valid(int64_t batch, int64_t key) const {
  return mask_.empty() || mask_[static_cast<size_t>(batch * mask_batch_ + key)] != 0;
}

AttendResults AttendCase::make_results() const {
  const AttendShape& shape = line_.shape;
  AttendResults results;
  results.out = GuardedRows(shape.batch, shape.heads, shape.queries, shape.v_dim, false);
  results.out.fill(kNan);
  // lse has no strides: one row of all the queries
  results.lse = GuardedRows(1, 1, 1, shape.batch * shape.heads * shape.queries, false);
  results.lse.fill(kNan);
  for (size_t x = 0; x < line_.extents.size() && line_.side == GridSide::kKeys; ++x) {
    if (line_.sums[x] == '1') {
      results.sums[x] =
          GuardedRows(shape.batch, shape.heads, shape.queries, line_.extents[x], false);
      results.sums[x].fill(kNan);
    }
  }
  return results;
}

AttendForward<float> AttendCase::call(AttendResults& results) const {
  AttendForward<float> args;
  args.shape = line_.shape;
  args.q = q_.inputs();
  args.k = k_.inputs();
  args.v = v_.inputs();
  args.scale = 1 / std::sqrt(static_cast<float>(std::max<int64_t>(line_.shape.qk_dim, 1)));
  args.key_mask = mask_.empty() ? nullptr : mask_.data();
  args.key_mask_batch = mask_batch_;
  args.key_bias = bias_.empty() ? nullptr : bias_.data();
  TokenGrid<float>& grid = args.grid;
  grid.side = line_.side;
  grid.num_axes = static_cast<int>(line_.extents.size());
  grid.begin = line_.begin;
  grid.scale = scale_.empty() ? nullptr : scale_.data();
  grid.scale_batch = line_.side == GridSide::kKeys ? line_.shape.keys : line_.shape.queries;
  for (size_t x = 0; x < line_.extents.size(); ++x) {
    grid.extents[x] = line_.extents[x];
    grid.tables[x] = tables_[x].inputs();
    args.sums[x] = results.sums[x].rows();
  }
  args.out = results.out.rows();
  args.lse = results.lse.rows().data;
  return args;
}

namespace {

struct Place {
  int64_t batch, head, query;
};

int64_t coordinate(const AttendLine& line, int64_t token, size_t axis) {
  int64_t index = line.begin + token;
  for (size_t later = line.extents.size() - 1; later > axis; --later) {
    index /= line.extents[later];
  }
  return index % line.extents[axis];
}

/// Largest sum of magnitudes behind a score of the row, and the largest weight factor a and value
/// of a valid key.
struct RowSize {
  double score = 0, factor = 0, value = 0;
  double product = 0;  ///< of `score`, what queries and keys multiplied contribute
};

struct Magnitude {
  double product, tables;
};

Magnitude magnitude(const AttendForward<float>& args, const AttendLine& line, Place place,
                    int64_t key) {
  const auto at = [&](const Rows<const float>& rows, int64_t row) {
    return rows.data + place.batch * rows.batch + place.head * rows.head + row * rows.row;
  };
  double sum = 0;
  for (int64_t c = 0; c < args.shape.qk_dim; ++c) {
    sum += std::abs(static_cast<double>(at(args.q, place.query)[c]) *
                    static_cast<double>(at(args.k, key)[c]));
  }
  Magnitude result{sum * static_cast<double>(args.scale), 0};
  for (size_t x = 0; x < line.extents.size(); ++x) {
    const bool keys = line.side == GridSide::kKeys;
    const float* row = keys ? at(args.grid.tables[x], place.query)
                            : at(args.grid.tables[x], coordinate(line, place.query, x));
    result.tables += std::abs(static_cast<double>(keys ? row[coordinate(line, key, x)] : row[key]));
  }
  return result;
}

RowSize row_size(const AttendForward<float>& args, const AttendCase& attend_case, Place place) {
  const AttendLine& line = attend_case.line();
  const AttendShape& shape = args.shape;
  RowSize size;
  for (int64_t key = 0; key < shape.keys; ++key) {
    if (!attend_case.is_valid(place.batch, key)) {
      continue;
    }
    const auto [product, tables] = magnitude(args, line, place, key);
    double score = product + tables;
    double factor = 1, score_factor = 1;
    if (args.grid.scale != nullptr) {
      const int64_t token = line.side == GridSide::kKeys ? key : place.query;
      factor = static_cast<double>(args.grid.scale[place.batch * args.grid.scale_batch + token]);
      score *= factor;
      score_factor = factor;
    }
    if (args.key_bias != nullptr) {
      const int64_t row = place.batch * shape.heads + place.head;
      score += std::abs(static_cast<double>(args.key_bias[row * shape.keys + key]));
    }
    size.score = std::max(size.score, score);
    size.product = std::max(size.product, product * score_factor);
    size.factor = std::max(size.factor, line.side == GridSide::kKeys ? factor : 1);
    const float* value =
        args.v.data + place.batch * args.v.batch + place.head * args.v.head + key * args.v.row;
    for (int64_t c = 0; c < shape.v_dim; ++c) {
      size.value = std::max(size.value, std::abs(static_cast<double>(value[c])));
    }
  }
  return size;
}

/// The worst of many comparisons, in units of what is allowed.
struct Worst {
  double excess = 0;
  std::string text;

  void check(const char* name, Place place, int64_t column, float expected, float actual,
             double allowed) {
    if (same_bits(expected, actual)) {
      return;
    }
    const double error = std::abs(static_cast<double>(expected) - static_cast<double>(actual));
    const double relative =
        std::isfinite(error) ? error / allowed : std::numeric_limits<double>::infinity();
    if (relative > 1 && relative > excess) {
      excess = relative;
      std::ostringstream words;
      words << name << "[" << place.batch << ", " << place.head << ", " << place.query << ", "
            << column << "] is " << actual << ", should be " << expected << " within " << allowed;
      text = words.str();
    }
  }
};

struct Allowed {
  double lse, weights, sums;  ///< the latter two relative to the largest value and factor
};

Allowed allowed_in(const AttendShape& shape, const RowSize& size, Operands operands) {
  // A score sums qk_dim products, rounds q * scale, the tables, bias and token scale; its
  // exponent is rounded once more where the row's maximum is subtracted.
  const double width = static_cast<double>(shape.qk_dim);
  double score = kEpsilon * (2 * std::sqrt(width) + 8) * size.score;
  // Weights: an exponential near 2 ulp, and sums of `keys` terms in vectors and blocks.
  const double sums = kEpsilon * (16 + 2 * std::sqrt(static_cast<double>(shape.keys)));
  if (operands == Operands::kFloat32) {
    return {2 * score + sums, 2 * score + sums, 2 * score + sums};
  }
  // Both factors of each of a score's products are rounded by up to u = 2^-9 of themselves: never
  // more than 2 u times the sum of their magnitudes. Roundings are independent, though: about
  // uniform in +-u they give a standard deviation of 0.82 u |q k| a product and, for normal
  // numbers, of 1.3 u / sqrt(width) of that sum. Six of these is 2 u * 4 / sqrt(width).
  constexpr double kRounding = 0x1p-9;
  score += 2 * kRounding * std::min(1.0, 4 / std::sqrt(std::max(width, 1.0))) * size.product;
  // Off by d a score, a weight is off by a factor of at most e^(2 d) after normalisation, and a
  // weighted mean by no more than twice its largest value however wrong the weights.
  const double weights = std::min(2.0, std::expm1(2 * score)) + sums;
  // The weights and values of the second product are rounded too.
  return {score + sums, weights + 2 * kRounding, weights};
}

}  // namespace

std::string compare(const AttendCase& attend_case, const AttendResults& expected,
                    const AttendResults& actual, Operands operands) {
  AttendResults unused = attend_case.make_results();
  const AttendForward<float> args = attend_case.call(unused);
  const AttendShape& shape = args.shape;
  Worst worst;
  for (int64_t row = 0; row < shape.batch * shape.heads * shape.queries; ++row) {
    const Place place{row / shape.queries / shape.heads, row / shape.queries % shape.heads,
                      row % shape.queries};
    const RowSize size = row_size(args, attend_case, place);
    const Allowed allowed = allowed_in(shape, size, operands);
    const double lse = static_cast<double>(expected.lse.at(0, 0, 0, row));
    worst.check("lse", place, 0, expected.lse.at(0, 0, 0, row), actual.lse.at(0, 0, 0, row),
                allowed.lse + 2 * kEpsilon * std::abs(lse));
    for (int64_t c = 0; c < shape.v_dim; ++c) {
      worst.check("out", place, c, expected.out.at(place.batch, place.head, place.query, c),
                  actual.out.at(place.batch, place.head, place.query, c),
                  allowed.weights * size.value * size.factor);
    }
    for (const GridSide side = args.grid.side; const GuardedRows& sums : expected.sums) {
      const GuardedRows& other = actual.sums[&sums - expected.sums];
      for (int64_t c = 0; side == GridSide::kKeys && c < sums.width; ++c) {
        worst.check("sums", place, c, sums.at(place.batch, place.head, place.query, c),
                    other.at(place.batch, place.head, place.query, c), allowed.sums * size.factor);
      }
    }
  }
  return worst.text;
}

}  // namespace perceiver::kernels
