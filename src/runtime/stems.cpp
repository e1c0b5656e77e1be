#include "runtime/stems.h"

#include <algorithm>
#include <array>
#include <type_traits>

#include "perceiver/base/file.h"

namespace perceiver::runtime {
namespace {

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};
struct Bool {
  uint8_t byte;
};

template <typename T>
float as_float(T value) {
  if constexpr (std::is_same_v<T, Half>) {
    return half_to_float(value.bits);
  } else if constexpr (std::is_same_v<T, BFloat16>) {
    return bfloat16_to_float(value.bits);
  } else if constexpr (std::is_same_v<T, Bool>) {
    return value.byte != 0 ? 1.0F : 0.0F;
  } else {
    return static_cast<float>(value);
  }
}

template <typename T>
int64_t as_id(T value) {
  if constexpr (std::is_same_v<T, Bool>) {
    return value.byte != 0 ? 1 : 0;
  } else {
    return static_cast<int64_t>(value);
  }
}

[[noreturn]] void no_float_form(DType dtype) {
  throw Error(ErrorCode::kUnsupported,
              cat("tensors of dtype ", dtype_name(dtype), " are not supported"));
}

/// Calls body(const T*) with the array's elements, integers only.
template <typename Body>
void visit_integers(const Array& array, const Body& body) {
  const std::byte* bytes = array.bytes();
  switch (array.dtype()) {
    case DType::kI64:
      return body(reinterpret_cast<const int64_t*>(bytes));
    case DType::kI32:
      return body(reinterpret_cast<const int32_t*>(bytes));
    case DType::kI16:
      return body(reinterpret_cast<const int16_t*>(bytes));
    case DType::kI8:
      return body(reinterpret_cast<const int8_t*>(bytes));
    case DType::kU8:
      return body(reinterpret_cast<const uint8_t*>(bytes));
    case DType::kBool:
      return body(reinterpret_cast<const Bool*>(bytes));
    default:
      no_float_form(array.dtype());
  }
}

template <typename Body>
void visit_numbers(const Array& array, const Body& body) {
  const std::byte* bytes = array.bytes();
  switch (array.dtype()) {
    case DType::kF64:
      return body(reinterpret_cast<const double*>(bytes));
    case DType::kF32:
      return body(reinterpret_cast<const float*>(bytes));
    case DType::kF16:
      return body(reinterpret_cast<const Half*>(bytes));
    case DType::kBF16:
      return body(reinterpret_cast<const BFloat16*>(bytes));
    default:
      return visit_integers(array, body);
  }
}

template <typename T>
void copy_run(const T* from, int64_t count, float* to) {
  if constexpr (std::is_same_v<T, float>) {
    std::copy_n(from, count, to);
  } else {
    std::transform(from, from + count, to, [](T value) { return as_float(value); });
  }
}

/// Walks the tokens of a layout in order, keeping the element each one begins at.
class Walk {
 public:
  Walk(const RawLayout& layout, int64_t token) : layout_(layout) { go_to(token); }

  void go_to(int64_t token) {
    element_ = layout_.first;
    for (size_t axis = layout_.grid.size(); axis-- > 0;) {
      index_[axis] = token % layout_.grid[axis];
      token /= layout_.grid[axis];
      element_ += index_[axis] * layout_.steps[axis];
    }
  }

  int64_t element() const { return element_; }

  void next() {
    for (size_t axis = layout_.grid.size(); axis-- > 0;) {
      element_ += layout_.steps[axis];
      if (++index_[axis] < layout_.grid[axis]) {
        return;
      }
      element_ -= index_[axis] * layout_.steps[axis];
      index_[axis] = 0;
    }
  }

 private:
  const RawLayout& layout_;
  std::array<int64_t, kMostAxes> index_{};
  int64_t element_ = 0;
};

template <typename T>
void gather(const T* example, const RawLayout& layout, const TokenWindow& window, Matrix out) {
  for_pieces(out.rows, out.columns, [&](int64_t from, int64_t to) {
    Walk walk(layout, window.token(from));
    for (int64_t i = from; i < to; ++i, walk.next()) {
      if (i % window.columns == 0) {
        walk.go_to(window.token(i));
      }
      float* row = out.row(i);
      for (const int64_t run : layout.runs) {
        copy_run(example + walk.element() + run, layout.run, row);
        row += layout.run;
      }
    }
  });
}

}  // namespace

Matrix StemScratch::matrix(std::vector<float>& memory, int64_t rows, int64_t columns) {
  if (static_cast<int64_t>(memory.size()) < rows * columns) {
    memory.resize(static_cast<size_t>(rows * columns));
  }
  return {memory.data(), rows, columns, columns};
}

int64_t RawLayout::row_stride() const {
  if (runs.size() != 1 || grid.empty()) {
    return -1;
  }
  int64_t expected = steps.back();
  for (size_t axis = grid.size(); axis-- > 0;) {
    if (steps[axis] != expected && grid[axis] != 1) {
      return -1;
    }
    expected *= grid[axis];
  }
  return steps.back();
}

void copy_rows(const Array& raw, const RawLayout& layout, int64_t b, const TokenWindow& window,
               Matrix out) {
  if (window.count() > 0 && layout.width() > 0) {
    visit_numbers(raw, [&](const auto* elements) {
      gather(elements + b * layout.example, layout, window, out);
    });
  }
}

ContentReader::ContentReader(Array raw, RawLayout layout)
    : channels_(layout.width()), raw_(std::move(raw)), layout_(std::move(layout)) {}

ContentReader::ContentReader(Array raw, RawLayout layout, std::shared_ptr<const Linear> linear)
    : channels_(linear->out()),
      raw_(std::move(raw)),
      layout_(std::move(layout)),
      linear_(std::move(linear)) {}

ContentReader::ContentReader(const float* bias, int64_t width)
    : channels_(width), table_(bias), is_bias_(true) {}

ContentReader::ContentReader(Array ids, const float* table, int64_t width)
    : channels_(width), raw_(std::move(ids)), table_(table) {}

void ContentReader::read(int64_t b, int64_t begin, int64_t end, Matrix out,
                         StemScratch& scratch) const {
  if (channels_ == 0 || begin >= end) {
    return;
  }
  if (is_bias_) {
    fill_rows(table_, out);
  } else if (table_ != nullptr) {
    read_embedding(b, begin, end, out);
  } else if (linear_ != nullptr) {
    read_linear(b, begin, end, out, scratch);
  } else {
    read_raw(b, neighbours(begin, end), out);
  }
}

bool ContentReader::read_raw(int64_t b, const TokenWindow& window, Matrix out) const {
  if (table_ != nullptr || linear_ != nullptr) {
    return false;
  }
  copy_rows(raw_, layout_, b, window, out);
  return true;
}

void ContentReader::forget(int64_t b, int64_t begin, int64_t end) const {
  const int64_t stride = layout_.row_stride();
  if (layout_.run == 0 || stride < layout_.run) {
    return;
  }
  const int64_t width = dtype_size(raw_.dtype());
  const int64_t first = b * layout_.example + layout_.first + begin * stride;
  MappedFile::forget(raw_.bytes() + first * width,
                     static_cast<uint64_t>((end - begin) * stride * width));
}

void ContentReader::read_linear(int64_t b, int64_t begin, int64_t end, Matrix out,
                                StemScratch& scratch) const {
  const int64_t stride = layout_.row_stride();
  if (raw_.dtype() == DType::kF32 && stride >= layout_.run) {  // read where it lies
    const float* rows = raw_.data<float>() + b * layout_.example + layout_.first + begin * stride;
    linear_->apply(ConstMatrix(rows, end - begin, layout_.run, stride), out);
    return;
  }
  for (int64_t row = begin; row < end; row += kStemRows) {
    const int64_t stop = std::min(row + kStemRows, end);
    const Matrix values = StemScratch::matrix(scratch.first, stop - row, layout_.width());
    copy_rows(raw_, layout_, b, row, stop, values);
    linear_->apply(values, out.block(row - begin, stop - begin));
  }
}

void ContentReader::read_embedding(int64_t b, int64_t begin, int64_t end, Matrix out) const {
  const int64_t first = b * raw_.size(1) + begin;
  visit_integers(raw_, [&](const auto* ids) {
    for_pieces(end - begin, channels_, [&](int64_t from, int64_t to) {
      for (int64_t i = from; i < to; ++i) {
        std::copy_n(table_ + as_id(ids[first + i]) * channels_, channels_, out.row(i));
      }
    });
  });
}

Array as_flags(const Array& given) {
  const bool bytes =
      given.dtype() == DType::kBool || given.dtype() == DType::kU8 || given.dtype() == DType::kI8;
  return bytes ? given : given.to(DType::kBool);
}

IdRange id_range(const Array& ids) {
  IdRange range;
  visit_integers(ids, [&](const auto* first) {
    range = {as_id(first[0]), as_id(first[0])};
    for (int64_t i = 1; i < ids.numel(); ++i) {
      range.smallest = std::min(range.smallest, as_id(first[i]));
      range.largest = std::max(range.largest, as_id(first[i]));
    }
  });
  return range;
}

void fill_rows(const float* row, Matrix out) {
  for_pieces(out.rows, out.columns, [&](int64_t from, int64_t to) {
    for (int64_t i = from; i < to; ++i) {
      std::copy_n(row, out.columns, out.row(i));
    }
  });
}

}  // namespace perceiver::runtime
