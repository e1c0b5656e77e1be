#include "runtime/linear.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <dnnl.hpp>

#include "perceiver/base/array.h"
#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/kernels/dispatch.h"
#include "runtime/pages.h"

namespace perceiver::runtime {
namespace {

using dnnl::memory;

/// Row count for which oneDNN is asked how it likes the weights: a middling latent array.
constexpr int64_t kTypicalRows = 512;
/// Primitives kept per layer. Texts of every length would otherwise pile up.
constexpr size_t kKeptPrimitives = 32;

/// Never destroyed: statics of other files may still hold primitives at exit.
const dnnl::engine& cpu() {
  static const auto* engine = new dnnl::engine(dnnl::engine::kind::cpu, 0);
  return *engine;
}

dnnl::stream& cpu_stream() {
  thread_local dnnl::stream stream(cpu());
  return stream;
}

/// Room for oneDNN's temporaries and for rounded inputs, shared by all layers of a thread.
std::byte* scratch(size_t slot, int64_t bytes) {
  thread_local std::array<Pages, 3> slots;
  if (slots[slot].size() < bytes) {
    slots[slot] = Pages();
    slots[slot] = Pages(bytes);
  }
  return slots[slot].data();
}
constexpr size_t kPrimitiveScratch = 0, kInputScratch = 1, kOutputScratch = 2;

[[noreturn]] void rethrow(const dnnl::error& error, const std::string& what) {
  throw Error(error.status == dnnl_out_of_memory ? ErrorCode::kIo : ErrorCode::kInternal,
              cat("[", what, "] oneDNN: ", error.message));
}

dnnl::algorithm algorithm_of(Activation activation) {
  switch (activation) {
    case Activation::kGeluErf:
      return dnnl::algorithm::eltwise_gelu_erf;
    case Activation::kGeluTanh:
      return dnnl::algorithm::eltwise_gelu_tanh;
    case Activation::kRelu:
      return dnnl::algorithm::eltwise_relu;
    case Activation::kSilu:
      return dnnl::algorithm::eltwise_swish;
  }
  throw Error(ErrorCode::kInternal, "unknown activation");
}

memory::desc rows_desc(int64_t rows, int64_t columns, int64_t stride, memory::data_type type) {
  return {{rows, columns}, type, memory::dims{std::max(stride, columns), 1}};
}

/// How one product is computed; primitives are kept by it.
struct Call {
  int64_t rows = 0;
  int64_t x_stride = 0;
  int64_t y_stride = 0;
  int activation = -1;
  bool accumulate = false;
  bool has_bias = false;

  bool operator==(const Call& other) const = default;
};

struct Prepared {
  Call call;
  dnnl::matmul primitive;
  memory x, y, scratchpad;
  int64_t scratch_bytes = 0;
  uint64_t last_use = 0;
};

template <typename Body>
void for_rows(int64_t rows, int64_t columns, const Body& body) {
  constexpr int64_t kWorthThreads = int64_t{1} << 15;
#pragma omp parallel for schedule(static) if (rows * columns >= kWorthThreads)
  for (int64_t i = 0; i < rows; ++i) {
    body(i);
  }
}

void add_bias(const std::vector<float>& bias, Matrix y) {
  for_rows(y.rows, y.columns, [&](int64_t i) {
    float* row = y.row(i);
#pragma omp simd
    for (int64_t c = 0; c < y.columns; ++c) {
      row[c] += bias[static_cast<size_t>(c)];
    }
  });
}

}  // namespace

void Affine::fold_norm(const float* gamma, const float* beta) {
  bias.resize(static_cast<size_t>(out), 0.0F);
  for_rows(out, in, [&](int64_t o) {
    float* row = weight.data() + o * in;
    double shift = 0;
    for (int64_t i = 0; i < in; ++i) {
      shift += static_cast<double>(row[i]) * static_cast<double>(beta[i]);
      row[i] = static_cast<float>(static_cast<double>(row[i]) * static_cast<double>(gamma[i]));
    }
    float& b = bias[static_cast<size_t>(o)];
    b = static_cast<float>(static_cast<double>(b) + shift);
  });
}

Affine compose(const Affine& outer, const Affine& inner) {
  if (outer.in != inner.out) {
    throw Error(ErrorCode::kInternal,
                cat("compose: ", outer.in, " inputs after ", inner.out, " outputs"));
  }
  Affine result;
  result.out = outer.out;
  result.in = inner.in;
  result.weight.resize(static_cast<size_t>(result.out * result.in));
  const bool has_bias = !outer.bias.empty() || !inner.bias.empty();
  result.bias.resize(has_bias ? static_cast<size_t>(result.out) : 0);
  for_rows(result.out, result.in, [&](int64_t o) {
    std::vector<double> sums(static_cast<size_t>(inner.in), 0.0);
    double* sum = sums.data();
    double shift = outer.bias.empty() ? 0 : static_cast<double>(outer.bias[static_cast<size_t>(o)]);
    for (int64_t m = 0; m < outer.in; ++m) {
      const double factor =
          static_cast<double>(outer.weight[static_cast<size_t>(o * outer.in + m)]);
      const float* row = inner.weight.data() + m * inner.in;
#pragma omp simd
      for (int64_t i = 0; i < inner.in; ++i) {
        sum[i] += factor * static_cast<double>(row[i]);
      }
      if (!inner.bias.empty()) {
        shift += factor * static_cast<double>(inner.bias[static_cast<size_t>(m)]);
      }
    }
    std::transform(sums.begin(), sums.end(), result.weight.begin() + o * inner.in,
                   [](double value) { return static_cast<float>(value); });
    if (has_bias) {
      result.bias[static_cast<size_t>(o)] = static_cast<float>(shift);
    }
  });
  return result;
}

Affine stack(const std::vector<const Affine*>& parts) {
  Affine result;
  bool has_bias = false;
  for (const Affine* part : parts) {
    if (result.in != 0 && part->in != result.in) {
      throw Error(ErrorCode::kInternal, cat("stack: maps of ", result.in, " and ", part->in));
    }
    result.in = part->in;
    result.out += part->out;
    has_bias = has_bias || !part->bias.empty();
  }
  result.weight.reserve(static_cast<size_t>(result.out * result.in));
  for (const Affine* part : parts) {
    result.weight.insert(result.weight.end(), part->weight.begin(), part->weight.end());
    if (has_bias && part->bias.empty()) {
      result.bias.resize(result.bias.size() + static_cast<size_t>(part->out), 0.0F);
    } else {
      result.bias.insert(result.bias.end(), part->bias.begin(), part->bias.end());
    }
  }
  return result;
}

/// The weights as oneDNN likes them, and what has been computed with them so far.
struct Linear::Packed {
  int64_t in = 0, out = 0;
  bool native_bf16 = false;
  memory::desc weights_desc;
  Pages weights_pages;
  memory weights, bias;
  std::vector<float> bias_values;
  std::vector<Prepared> prepared;
  uint64_t uses = 0;

  memory::data_type type() const {
    return native_bf16 ? memory::data_type::bf16 : memory::data_type::f32;
  }
  dnnl::matmul::primitive_desc describe(const Call& call, const memory::desc& weights_as) const;
  void pack(const Affine& affine);
  Prepared& prepare(const Call& call);
  void run(const Call& call, const float* x, float* y);
};

dnnl::matmul::primitive_desc Linear::Packed::describe(const Call& call,
                                                      const memory::desc& weights_as) const {
  const int64_t x_stride = native_bf16 ? in : call.x_stride;
  const memory::desc x = rows_desc(call.rows, in, x_stride, type());
  const memory::desc y = rows_desc(call.rows, out, call.y_stride, memory::data_type::f32);
  dnnl::post_ops post;
  if (call.accumulate) {
    post.append_sum(1.0F);
  }
  if (call.activation >= 0) {
    const bool silu = static_cast<Activation>(call.activation) == Activation::kSilu;
    post.append_eltwise(1.0F, algorithm_of(static_cast<Activation>(call.activation)),
                        silu ? 1.0F : 0.0F, 0.0F);
  }
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  attributes.set_post_ops(post);
  if (!call.has_bias) {
    return {dnnl::matmul::desc(x, weights_as, y), attributes, cpu()};
  }
  const memory::desc b({1, out}, memory::data_type::f32, memory::format_tag::ab);
  return {dnnl::matmul::desc(x, weights_as, b, y), attributes, cpu()};
}

void Linear::Packed::pack(const Affine& affine) {
  const memory::desc any({in, out}, type(), memory::format_tag::any);
  const Call typical{.rows = kTypicalRows, .x_stride = in, .y_stride = out};
  weights_desc = describe(typical, any).weights_desc();
  weights_pages = Pages(static_cast<int64_t>(weights_desc.get_size()));
  weights = memory(weights_desc, cpu(), weights_pages.data());
  // [out, in] row-major is [in, out] column-major
  const memory::desc given({in, out}, memory::data_type::f32, memory::format_tag::ba);
  memory source(given, cpu(), const_cast<float*>(affine.weight.data()));
  dnnl::reorder(source, weights).execute(cpu_stream(), source, weights);
  cpu_stream().wait();
  bias_values = affine.bias;
  if (!bias_values.empty()) {
    bias = memory({{1, out}, memory::data_type::f32, memory::format_tag::ab}, cpu(),
                  bias_values.data());
  }
}

Prepared& Linear::Packed::prepare(const Call& call) {
  ++uses;
  const auto found = std::find_if(prepared.begin(), prepared.end(),
                                  [&](const Prepared& p) { return p.call == call; });
  if (found != prepared.end()) {
    found->last_use = uses;
    return *found;
  }
  if (prepared.size() == kKeptPrimitives) {
    prepared.erase(std::min_element(
        prepared.begin(), prepared.end(),
        [](const Prepared& a, const Prepared& b) { return a.last_use < b.last_use; }));
  }
  const dnnl::matmul::primitive_desc description = describe(call, weights_desc);
  Prepared made;
  made.call = call;
  made.primitive = dnnl::matmul(description);
  made.x = memory(description.src_desc(), cpu(), nullptr);
  made.y = memory(description.dst_desc(), cpu(), nullptr);
  made.scratchpad = memory(description.scratchpad_desc(), cpu(), nullptr);
  made.scratch_bytes = static_cast<int64_t>(description.scratchpad_desc().get_size());
  made.last_use = uses;
  prepared.push_back(std::move(made));
  return prepared.back();
}

void Linear::Packed::run(const Call& call, const float* x, float* y) {
  Prepared& p = prepare(call);
  void* input = const_cast<float*>(x);
  if (native_bf16) {
    input = scratch(kInputScratch, call.rows * in * 2);
    memory from(rows_desc(call.rows, in, call.x_stride, memory::data_type::f32), cpu(),
                const_cast<float*>(x));
    memory to(rows_desc(call.rows, in, in, memory::data_type::bf16), cpu(), input);
    dnnl::reorder(from, to).execute(cpu_stream(), from, to);
  }
  p.x.set_data_handle(input);
  p.y.set_data_handle(y);
  std::array<dnnl_exec_arg_t, 5> arguments{};
  int count = 0;
  const auto pass = [&](int name, const memory& what) {
    arguments[static_cast<size_t>(count++)] = {name, what.get()};
  };
  pass(DNNL_ARG_SRC, p.x);
  pass(DNNL_ARG_WEIGHTS, weights);
  pass(DNNL_ARG_DST, p.y);
  if (call.has_bias) {
    pass(DNNL_ARG_BIAS, bias);
  }
  if (p.scratch_bytes > 0) {
    p.scratchpad.set_data_handle(scratch(kPrimitiveScratch, p.scratch_bytes));
    pass(DNNL_ARG_SCRATCHPAD, p.scratchpad);
  }
  // the C call: its C++ wrapper builds a map and a vector each time
  dnnl::error::wrap_c_api(
      dnnl_primitive_execute(p.primitive.get(), cpu_stream().get(), count, arguments.data()),
      "could not multiply");
  cpu_stream().wait();
}

Linear::Linear(Affine affine, Precision precision) : packed_(std::make_unique<Packed>()) {
  packed_->in = affine.in;
  packed_->out = affine.out;
  packed_->native_bf16 = precision == Precision::kBF16 && kernels::has_native_bfloat16();
  if (precision == Precision::kBF16 && !packed_->native_bf16) {
    for (float& value : affine.weight) {
      value = bfloat16_to_float(float_to_bfloat16(value));
    }
  }
  try {
    packed_->pack(affine);
  } catch (const dnnl::error& error) {
    rethrow(error, cat("linear of ", affine.in, " to ", affine.out));
  }
}

Linear::Linear() = default;
Linear::~Linear() = default;
Linear::Linear(Linear&&) noexcept = default;
Linear& Linear::operator=(Linear&&) noexcept = default;

int64_t Linear::in() const {
  return packed_ == nullptr ? 0 : packed_->in;
}
int64_t Linear::out() const {
  return packed_ == nullptr ? 0 : packed_->out;
}

void Linear::apply(ConstMatrix x, Matrix y, const Epilogue& epilogue) const {
  if (packed_ == nullptr || x.columns != in() || y.columns != out() || x.rows != y.rows) {
    throw Error(ErrorCode::kInternal, cat("linear of ", in(), " to ", out(), " was given ", x.rows,
                                          "x", x.columns, " for ", y.rows, "x", y.columns));
  }
  if (x.rows == 0) {
    return;
  }
  const bool has_bias = !packed_->bias_values.empty();
  Call call{.rows = x.rows, .x_stride = x.stride, .y_stride = y.stride};
  call.activation = epilogue.activation ? static_cast<int>(*epilogue.activation) : -1;
  try {
    if (!epilogue.accumulate) {
      call.has_bias = has_bias;
      packed_->run(call, x.data, y.data);
    } else if (!epilogue.activation) {
      // The bias goes first: with bias and sum together oneDNN's GEMM makes the product elsewhere
      // and adds it afterwards.
      if (has_bias) {
        add_bias(packed_->bias_values, y);
      }
      call.accumulate = true;
      packed_->run(call, x.data, y.data);
    } else {
      call.has_bias = has_bias;
      call.y_stride = y.columns;
      auto* part = reinterpret_cast<float*>(
          scratch(kOutputScratch, y.rows * y.columns * static_cast<int64_t>(sizeof(float))));
      packed_->run(call, x.data, part);
      for_rows(y.rows, y.columns, [&](int64_t i) {
        for (int64_t c = 0; c < y.columns; ++c) {
          y.row(i)[c] += part[i * y.columns + c];
        }
      });
    }
  } catch (const dnnl::error& error) {
    rethrow(error, cat("linear of ", in(), " to ", out(), " on ", x.rows, " rows"));
  }
}

namespace {

void product(bool transposed, ConstMatrix a, ConstMatrix b, Matrix c, bool accumulate) {
  const int64_t k = a.columns;
  const bool fits = c.rows == a.rows && c.columns == (transposed ? b.rows : b.columns) &&
                    k == (transposed ? b.columns : b.rows);
  if (!fits) {
    throw Error(ErrorCode::kInternal, cat("product of ", a.rows, "x", a.columns, " and ", b.rows,
                                          "x", b.columns, " for ", c.rows, "x", c.columns));
  }
  if (c.rows == 0 || c.columns == 0) {
    return;
  }
  if (k == 0) {
    for (int64_t i = 0; i < c.rows && !accumulate; ++i) {
      std::memset(c.row(i), 0, static_cast<size_t>(c.columns) * sizeof(float));
    }
    return;
  }
  const auto step = [](int64_t stride, int64_t columns) { return std::max(stride, columns); };
  const dnnl::status status =
      dnnl::sgemm('N', transposed ? 'T' : 'N', c.rows, c.columns, k, 1.0F, a.data,
                  step(a.stride, a.columns), b.data, step(b.stride, b.columns),
                  accumulate ? 1.0F : 0.0F, c.data, step(c.stride, c.columns));
  if (status != dnnl::status::success) {
    throw Error(
        status == dnnl::status::out_of_memory ? ErrorCode::kIo : ErrorCode::kInternal,
        cat("oneDNN refused a product of ", a.rows, "x", k, " and ", b.rows, "x", b.columns));
  }
}

}  // namespace

void multiply_transposed(ConstMatrix a, ConstMatrix b, Matrix c, bool accumulate) {
  product(true, a, b, c, accumulate);
}

void multiply(ConstMatrix a, ConstMatrix b, Matrix c, bool accumulate) {
  product(false, a, b, c, accumulate);
}

}  // namespace perceiver::runtime
