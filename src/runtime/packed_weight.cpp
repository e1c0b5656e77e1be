#include "runtime/packed_weight.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "runtime/dnnl_cpu.h"
#include "runtime/pages.h"
#include "runtime/rows.h"

namespace perceiver::runtime {
namespace {

using dnnl::memory;

/// Row count for which oneDNN is asked how it likes the weights: a middling latent array.
constexpr int64_t kTypicalRows = 512;
/// Primitives kept per layer. Texts of every length would otherwise pile up.
constexpr size_t kKeptPrimitives = 32;
/// The convolutions' blocks of channels on AVX2, and the fewest channels worth it.
constexpr int64_t kConvolutionLanes = 8;
constexpr int64_t kConvolutionLeast = 48;
/// Rows of one product without gaps: a convolution's offsets are 32 bits wide in places.
constexpr int64_t kDenseRows = 1 << 14;

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

/// The oneDNN primitive that computes a product. Its matrix product packs the weights anew in every
/// call where it is built on a GEMM (AVX2, oneDNN 2.6), a fifth of the time at 256 rows. A 1x1
/// convolution over `rows` points is the same product with weights packed once and the epilogue in
/// registers, but takes only rows without gaps. So does the matrix product on AVX-512, which packs
/// once: for rows with gaps it falls back to loops hundreds of times slower.
enum class Form { kMatmul, kConvolution };
constexpr const char* kSlowLoops = "ref";  // how names of oneDNN's fallbacks begin

/// What a primitive needs beside weights and bias.
struct Described {
  dnnl::primitive primitive;
  memory::desc x, y, scratchpad, weights;
  std::string implementation;
};

template <typename PrimitiveDesc>
Described described(const PrimitiveDesc& desc, dnnl::primitive primitive) {
  return {std::move(primitive),   desc.src_desc(),     desc.dst_desc(),
          desc.scratchpad_desc(), desc.weights_desc(), desc.impl_info_str()};
}

struct Prepared {
  Call call;
  dnnl::primitive primitive;
  memory x, y, scratchpad;
  std::string implementation;
  int64_t scratch_bytes = 0;
  uint64_t last_use = 0;
};

Matrix dense_scratch(size_t slot, int64_t rows, int64_t columns) {
  const int64_t bytes = rows * columns * static_cast<int64_t>(sizeof(float));
  return {reinterpret_cast<float*>(scratch(slot, bytes)), rows, columns, columns};
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

/// The weights as oneDNN likes them, and what has been computed with them so far.
struct PackedWeight::State {
  int64_t in = 0, out = 0;
  bool native_bf16 = false;
  Form form = Form::kMatmul;
  bool takes_gaps = true;  ///< whether rows may lie apart
  /// What the primitive computes: `in` and `out`, for a convolution rounded up to whole blocks.
  int64_t wide_in = 0, wide_out = 0;
  memory::desc weights_desc;
  Pages weights_pages;
  memory weights, bias;
  std::vector<float> bias_values;
  std::vector<Prepared> prepared;
  uint64_t uses = 0;

  memory::data_type type() const {
    return native_bf16 ? memory::data_type::bf16 : memory::data_type::f32;
  }
  memory::desc any_weights() const;
  /// [out, in] row-major as this form's weights.
  memory::desc given_weights() const;
  Described describe(const Call& call, const memory::desc& weights_as) const;
  Described describe_matmul(const Call& call, const memory::desc& weights_as,
                            const dnnl::primitive_attr& attributes) const;
  Described describe_convolution(const Call& call, const memory::desc& weights_as,
                                 const dnnl::primitive_attr& attributes) const;
  void choose_form();
  void use_matmul() {
    form = Form::kMatmul;
    wide_in = in;
    wide_out = out;
  }
  std::vector<float> widen(const std::vector<float>& weight) const;
  void pack(const Affine& affine);
  Prepared& prepare(const Call& call);
  void run(const Call& call, const float* x, float* y);
  void multiply(ConstMatrix x, Matrix y, const Epilogue& epilogue);
  void multiply_dense(ConstMatrix x, Matrix y, const Epilogue& epilogue);
};

memory::desc PackedWeight::State::any_weights() const {
  if (form == Form::kConvolution) {
    return {{wide_out, wide_in, 1, 1}, type(), memory::format_tag::any};
  }
  return {{in, out}, type(), memory::format_tag::any};
}

memory::desc PackedWeight::State::given_weights() const {
  if (form == Form::kConvolution) {
    return {{wide_out, wide_in, 1, 1}, memory::data_type::f32, memory::format_tag::oihw};
  }
  return {{in, out}, memory::data_type::f32, memory::format_tag::ba};
}

Described PackedWeight::State::describe(const Call& call, const memory::desc& weights_as) const {
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
  return form == Form::kConvolution ? describe_convolution(call, weights_as, attributes)
                                    : describe_matmul(call, weights_as, attributes);
}

Described PackedWeight::State::describe_matmul(const Call& call, const memory::desc& weights_as,
                                               const dnnl::primitive_attr& attributes) const {
  const memory::desc x = rows_desc(call.rows, in, native_bf16 ? in : call.x_stride, type());
  const memory::desc y = rows_desc(call.rows, out, call.y_stride, memory::data_type::f32);
  const memory::desc b({1, out}, memory::data_type::f32, memory::format_tag::ab);
  const dnnl::matmul::primitive_desc desc(call.has_bias ? dnnl::matmul::desc(x, weights_as, b, y)
                                                        : dnnl::matmul::desc(x, weights_as, y),
                                          attributes, cpu());
  return described(desc, dnnl::matmul(desc));
}

Described PackedWeight::State::describe_convolution(const Call& call,
                                                    const memory::desc& weights_as,
                                                    const dnnl::primitive_attr& attributes) const {
  using Convolution = dnnl::convolution_forward;
  const auto points = [&](int64_t channels) {
    return memory::desc({1, channels, call.rows, 1}, memory::data_type::f32,
                        memory::format_tag::nhwc);
  };
  const memory::desc b({wide_out}, memory::data_type::f32, memory::format_tag::a);
  const memory::dims one{1, 1}, none{0, 0};
  constexpr auto kKind = dnnl::prop_kind::forward_inference;
  constexpr auto kDirect = dnnl::algorithm::convolution_direct;
  const Convolution::primitive_desc desc(
      call.has_bias ? Convolution::desc(kKind, kDirect, points(wide_in), weights_as, b,
                                        points(wide_out), one, none, none)
                    : Convolution::desc(kKind, kDirect, points(wide_in), weights_as,
                                        points(wide_out), one, none, none),
      attributes, cpu());
  return described(desc, Convolution(desc));
}

void PackedWeight::State::choose_form() {
  use_matmul();
  const Call typical{.rows = kTypicalRows, .x_stride = in, .y_stride = out};
  const auto implementation = [&](Form which) {
    form = which;
    return describe(typical, any_weights()).implementation;
  };
  const bool packs_each_call = implementation(Form::kMatmul).find("gemm") != std::string::npos;
  takes_gaps = packs_each_call;
  if (native_bf16 || !packs_each_call || std::min(in, out) < kConvolutionLeast) {
    return;
  }
  wide_in = round_up(in, kConvolutionLanes);
  wide_out = round_up(out, kConvolutionLanes);
  try {
    if (implementation(Form::kConvolution).find("jit_1x1") == std::string::npos) {
      use_matmul();
    } else {
      takes_gaps = false;
    }
  } catch (const dnnl::error&) {
    use_matmul();
  }
}

/// [out, in] with zeros up to [wide_out, wide_in]; empty where these are the same.
std::vector<float> PackedWeight::State::widen(const std::vector<float>& weight) const {
  std::vector<float> wide;
  if (wide_in != in || wide_out != out) {
    wide.resize(static_cast<size_t>(wide_in * wide_out), 0.0F);
    for (int64_t o = 0; o < out; ++o) {
      std::copy_n(weight.begin() + o * in, in, wide.begin() + o * wide_in);
    }
  }
  return wide;
}

void PackedWeight::State::pack(const Affine& affine) {
  choose_form();
  const Call typical{.rows = kTypicalRows, .x_stride = in, .y_stride = out};
  weights_desc = describe(typical, any_weights()).weights;
  weights_pages = Pages(static_cast<int64_t>(weights_desc.get_size()));
  weights = memory(weights_desc, cpu(), weights_pages.data());
  const std::vector<float> widened = widen(affine.weight);
  const std::vector<float>& values = widened.empty() ? affine.weight : widened;
  memory source(given_weights(), cpu(), const_cast<float*>(values.data()));
  dnnl::reorder(source, weights).execute(cpu_stream(), source, weights);
  cpu_stream().wait();
  bias_values = affine.bias;
  bias_values.resize(bias_values.empty() ? 0 : static_cast<size_t>(wide_out), 0.0F);
  if (!bias_values.empty()) {
    const memory::desc as_row({1, out}, memory::data_type::f32, memory::format_tag::ab);
    const memory::desc as_list({wide_out}, memory::data_type::f32, memory::format_tag::a);
    bias = memory(form == Form::kConvolution ? as_list : as_row, cpu(), bias_values.data());
  }
}

Prepared& PackedWeight::State::prepare(const Call& call) {
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
  const Described description = describe(call, weights_desc);
  Prepared made;
  made.call = call;
  made.primitive = description.primitive;
  made.implementation = description.implementation;
  made.x = memory(description.x, cpu(), nullptr);
  made.y = memory(description.y, cpu(), nullptr);
  made.scratchpad = memory(description.scratchpad, cpu(), nullptr);
  made.scratch_bytes = static_cast<int64_t>(description.scratchpad.get_size());
  made.last_use = uses;
  prepared.push_back(std::move(made));
  return prepared.back();
}

void PackedWeight::State::run(const Call& call, const float* x, float* y) {
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

void PackedWeight::State::multiply(ConstMatrix x, Matrix y, const Epilogue& epilogue) {
  Call call{.rows = x.rows, .x_stride = x.stride, .y_stride = y.stride};
  call.activation = epilogue.activation ? static_cast<int>(*epilogue.activation) : -1;
  call.accumulate = epilogue.accumulate;
  call.has_bias = !bias_values.empty();
  if (call.accumulate && call.has_bias) {
    // The bias goes first: with bias and sum together oneDNN's GEMM makes the product elsewhere
    // and adds it afterwards.
    add_bias(bias_values, y);
    call.has_bias = false;
  }
  run(call, x.data, y.data);
}

void PackedWeight::State::multiply_dense(ConstMatrix x, Matrix y, const Epilogue& epilogue) {
  for (int64_t begin = 0; begin < x.rows; begin += kDenseRows) {
    const int64_t end = std::min(begin + kDenseRows, x.rows);
    ConstMatrix from = x.block(begin, end);
    const Matrix to = y.block(begin, end);
    const bool gaps = from.stride != in && from.rows > 1;
    if (in != wide_in || (gaps && !native_bf16)) {  // rounding to bfloat16 closes them
      const Matrix dense = dense_scratch(kInputScratch, from.rows, wide_in);
      copy_matrix(from, dense);
      from = dense;
    }
    Call call{.rows = from.rows,
              .x_stride = gaps && native_bf16 ? from.stride : wide_in,
              .y_stride = wide_out};
    call.activation = epilogue.activation ? static_cast<int>(*epilogue.activation) : -1;
    call.accumulate = epilogue.accumulate;
    call.has_bias = !bias_values.empty();
    if (out == wide_out && (to.stride == out || to.rows == 1)) {
      run(call, from.data, to.data);
      continue;
    }
    const Matrix dense = dense_scratch(kOutputScratch, to.rows, wide_out);
    if (call.accumulate) {
      copy_matrix(to, dense);
    }
    run(call, from.data, dense.data);
    copy_matrix(dense, to);
  }
}

PackedWeight::PackedWeight(const Affine& affine, bool native_bf16)
    : state_(std::make_unique<State>()) {
  state_->in = affine.in;
  state_->out = affine.out;
  state_->native_bf16 = native_bf16;
  try {
    state_->pack(affine);
  } catch (const dnnl::error& error) {
    rethrow(error, cat("linear of ", affine.in, " to ", affine.out));
  }
}

PackedWeight::~PackedWeight() = default;
PackedWeight::PackedWeight(PackedWeight&&) noexcept = default;
PackedWeight& PackedWeight::operator=(PackedWeight&&) noexcept = default;

int64_t PackedWeight::in() const {
  return state_->in;
}
int64_t PackedWeight::out() const {
  return state_->out;
}
bool PackedWeight::sums_in_one_chain(int64_t in, int64_t out, bool native_bf16) {
  State state;
  state.in = in;
  state.out = out;
  state.native_bf16 = native_bf16;
  state.choose_form();
  return state.form == Form::kConvolution;
}

bool PackedWeight::ran_fast() const {
  return std::none_of(state_->prepared.begin(), state_->prepared.end(), [](const Prepared& made) {
    return made.implementation.starts_with(kSlowLoops);
  });
}

void PackedWeight::apply(ConstMatrix x, Matrix y, const Epilogue& epilogue) const {
  try {
    if (state_->takes_gaps) {
      state_->multiply(x, y, epilogue);
    } else {
      state_->multiply_dense(x, y, epilogue);
    }
  } catch (const dnnl::error& error) {
    rethrow(error, cat("linear of ", in(), " to ", out(), " on ", x.rows, " rows"));
  }
}

}  // namespace perceiver::runtime
