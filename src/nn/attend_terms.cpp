#include "perceiver/nn/attend_terms.h"

#include <algorithm>
#include <optional>

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_fused_sdp_choice.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include "nn/attend_tiles.h"
#include "nn/neighbours.h"
#include "perceiver/base/error.h"
#include "perceiver/base/str.h"

namespace perceiver::nn {
namespace {

using kernels::GridSide;

std::string shape(const at::Tensor& x) {
  return shape_string(x.sizes().vec());
}

/// Throws unless `x` is `expected`, where extents of 1 in the leading `shared` dimensions pass too.
void check_part(const char* name, const at::Tensor& x, const std::vector<int64_t>& expected,
                size_t shared) {
  bool fits = x.dim() == static_cast<int64_t>(expected.size());
  for (size_t d = 0; fits && d < expected.size(); ++d) {
    const int64_t size = x.size(static_cast<int64_t>(d));
    fits = size == expected[d] || (d < shared && size == 1);
  }
  if (!fits) {
    throw Error(ErrorCode::kShape, cat("[attend_terms] ", name, " is ", shape(x), ", expected ",
                                       shape_string(expected)));
  }
}

void check_grid(const GridTerms& grid, const AttendExtents& x) {
  if (grid.side == GridSide::kNone) {
    if (grid.scale.defined() || !grid.tables.empty()) {
      throw Error(ErrorCode::kShape, "[attend_terms] a scale or tables but no side on a grid");
    }
    return;
  }
  if (grid.extents.size() != grid.tables.size() ||
      grid.tables.size() > static_cast<size_t>(kernels::kMaxGridAxes)) {
    throw Error(ErrorCode::kShape,
                cat("[attend_terms] ", grid.tables.size(), " tables for a grid of ",
                    shape_string(grid.extents), "; at most ", kernels::kMaxGridAxes, " axes"));
  }
  const bool keys = grid.side == GridSide::kKeys;
  const int64_t tokens = keys ? x.keys : x.queries;
  int64_t points = 1;
  for (size_t axis = 0; axis < grid.extents.size(); ++axis) {
    const int64_t extent = grid.extents[axis];
    points *= extent;
    check_part("a table of a grid's axis", grid.tables[axis],
               keys ? std::vector<int64_t>{x.batch, x.heads, x.queries, extent}
                    : std::vector<int64_t>{x.batch, x.heads, extent, x.keys},
               2);
  }
  if (!grid.extents.empty() && (grid.begin < 0 || grid.begin + tokens > points)) {
    throw Error(ErrorCode::kShape,
                cat("[attend_terms] tokens ", grid.begin, " to ", grid.begin + tokens,
                    " do not lie on a grid of ", shape_string(grid.extents)));
  }
  if (grid.scale.defined()) {
    check_part("the scale of the tokens on the grid", grid.scale, {x.batch, tokens}, 1);
  }
}

void check(const AttendTerms& terms) {
  const at::Tensor &q = terms.q, &k = terms.k, &v = terms.v;
  if (q.dim() != 4 || k.dim() != 4 || v.dim() != 4 || q.size(3) != k.size(3) ||
      k.size(2) != v.size(2) || k.size(2) == 0) {
    throw Error(ErrorCode::kShape, cat("[attend_terms] queries ", shape(q), ", keys ", shape(k),
                                       " and values ", shape(v), " do not fit together"));
  }
  const AttendExtents x = attend_extents(terms);
  check_part("queries", q, {x.batch, x.heads, x.queries, q.size(3)}, 2);
  check_part("keys", k, {x.batch, x.heads, x.keys, k.size(3)}, 2);
  check_part("values", v, {x.batch, x.heads, x.keys, v.size(3)}, 2);
  if (terms.key_mask.defined()) {
    check_part("the key mask", terms.key_mask, {x.batch, x.keys}, 1);
  }
  if (terms.key_bias.defined()) {
    check_part("the key bias", terms.key_bias, {x.batch, x.heads, x.keys}, 2);
  }
  check_grid(terms.grid, x);
}

/// Rows the kernels can walk: the last dimension dense, nothing expanded (an expanded input would
/// need a gradient that is not).
at::Tensor walkable(const at::Tensor& x) {
  bool dense = x.dim() == 0 || x.size(-1) <= 1 || x.stride(-1) == 1;
  for (int64_t d = 0; d + 1 < x.dim(); ++d) {
    dense = dense && (x.size(d) <= 1 || x.stride(d) != 0);
  }
  return dense ? x : x.contiguous();
}

/// The same terms in layouts the kernels can walk and, for those, in one dtype; autograd sees the
/// changes. Tiles of half types keep scales and tables as exact as they come.
AttendTerms prepare(AttendTerms terms, AttendPath path) {
  const AttendExtents x = attend_extents(terms);
  const at::ScalarType type = terms.q.scalar_type();
  const auto typed = [&](const at::Tensor& part) {
    return path == AttendPath::kTiles ? part : part.to(type);
  };
  for (at::Tensor* part : {&terms.q, &terms.k, &terms.v}) {
    *part = walkable(part->to(type));
  }
  if (terms.key_mask.defined()) {
    terms.key_mask = terms.key_mask.to(at::kBool).contiguous();
  }
  if (terms.key_bias.defined()) {
    terms.key_bias = typed(terms.key_bias).expand({x.batch, x.heads, x.keys}).contiguous();
  }
  if (terms.grid.scale.defined()) {
    terms.grid.scale = typed(terms.grid.scale).contiguous();
  }
  for (at::Tensor& table : terms.grid.tables) {
    table = walkable(typed(table));
  }
  return terms;
}

template <typename T>
kernels::Rows<const T> rows_of(const at::Tensor& x) {
  return {x.const_data_ptr<T>(), x.size(0) == 1 ? 0 : x.stride(0), x.size(1) == 1 ? 0 : x.stride(1),
          x.stride(2)};
}

template <typename T>
kernels::Rows<T> writable_rows_of(const at::Tensor& x) {
  if (!x.defined()) {
    return {};
  }
  return {x.mutable_data_ptr<T>(), x.size(0) == 1 ? 0 : x.stride(0),
          x.size(1) == 1 ? 0 : x.stride(1), x.stride(2)};
}

template <typename T>
kernels::AttendForward<T> forward_arguments(const AttendTerms& terms, const Attended& result) {
  const AttendExtents x = attend_extents(terms);
  kernels::AttendForward<T> args;
  args.shape = {x.batch, x.heads, x.queries, x.keys, terms.q.size(3), terms.v.size(3)};
  args.q = rows_of<T>(terms.q);
  args.k = rows_of<T>(terms.k);
  args.v = rows_of<T>(terms.v);
  args.scale = static_cast<T>(terms.scale);
  if (terms.key_mask.defined()) {
    args.key_mask = static_cast<const uint8_t*>(terms.key_mask.const_data_ptr());
    args.key_mask_batch = terms.key_mask.size(0) == 1 ? 0 : x.keys;
  }
  if (terms.key_bias.defined()) {
    args.key_bias = terms.key_bias.const_data_ptr<T>();
  }
  const GridTerms& grid = terms.grid;
  args.grid.side = grid.side;
  args.grid.num_axes = static_cast<int>(grid.tables.size());
  args.grid.begin = grid.begin;
  if (grid.scale.defined()) {
    args.grid.scale = grid.scale.const_data_ptr<T>();
    args.grid.scale_batch = grid.scale.size(0) == 1 ? 0 : grid.scale.size(1);
  }
  for (size_t axis = 0; axis < grid.tables.size(); ++axis) {
    args.grid.extents[axis] = grid.extents[axis];
    args.grid.tables[axis] = rows_of<T>(grid.tables[axis]);
  }
  args.out = writable_rows_of<T>(result.out);
  args.lse = result.lse.mutable_data_ptr<T>();
  for (size_t axis = 0; axis < result.sums.size(); ++axis) {
    args.sums[axis] = writable_rows_of<T>(result.sums[axis]);
  }
  return args;
}

template <typename T>
kernels::AttendBackward<T> backward_arguments(const AttendTerms& terms, const Attended& result,
                                              const Attended& grad,
                                              const PerInput<at::Tensor>& into) {
  kernels::AttendBackward<T> args;
  args.forward = forward_arguments<T>(terms, result);
  args.grad_out = rows_of<T>(grad.out);
  args.grad_lse = grad.lse.defined() ? grad.lse.const_data_ptr<T>() : nullptr;
  for (size_t axis = 0; axis < grad.sums.size(); ++axis) {
    if (grad.sums[axis].defined()) {
      args.grad_sums[axis] = rows_of<T>(grad.sums[axis]);
    }
  }
  args.grad_q = writable_rows_of<T>(into.q);
  args.grad_k = writable_rows_of<T>(into.k);
  args.grad_v = writable_rows_of<T>(into.v);
  args.grad_scale = into.scale.defined() ? into.scale.mutable_data_ptr<T>() : nullptr;
  args.grad_key_bias = into.key_bias.defined() ? into.key_bias.mutable_data_ptr<T>() : nullptr;
  for (size_t axis = 0; axis < into.tables.size(); ++axis) {
    args.grad_tables[axis] = writable_rows_of<T>(into.tables[axis]);
  }
  return args;
}

Attended attend_by_kernels(const AttendTerms& terms, AttendPath path) {
  const AttendExtents x = attend_extents(terms);
  const at::TensorOptions options = terms.q.options();
  const int64_t width = terms.v.size(3);
  Attended result{
      .out = at::empty_strided({x.batch, x.heads, x.queries, width},
                               {x.queries * x.heads * width, width, x.heads * width, 1}, options),
      .lse = at::empty({x.batch, x.heads, x.queries}, options),
      .sums = {}};
  for (size_t axis = 0; axis < terms.grid.tables.size() && terms.grid.side == GridSide::kKeys;
       ++axis) {
    result.sums.push_back(
        at::empty({x.batch, x.heads, x.queries, terms.grid.extents[axis]}, options));
  }
  if (terms.q.scalar_type() == at::kDouble) {
    kernels::attend_reference(forward_arguments<double>(terms, result));
  } else if (path == AttendPath::kReference) {
    kernels::attend_reference(forward_arguments<float>(terms, result));
  } else {
    kernels::attend(forward_arguments<float>(terms, result), at::get_num_threads());
  }
  return result;
}

PerInput<at::Tensor> backward_by_kernels(const AttendTerms& terms, const Attended& result,
                                         const Attended& grad, const PerInput<bool>& wanted,
                                         AttendPath path) {
  const auto zeros = [](const at::Tensor& x, bool want) {
    return want ? at::zeros_like(x) : at::Tensor();
  };
  // as their inputs lie, so that what made those of one product takes their gradients as one too
  const std::vector<at::Tensor> made =
      wanted.q && wanted.k && wanted.v
          ? zeros_lying_as({terms.q, terms.k, terms.v})
          : std::vector<at::Tensor>{zeros(terms.q, wanted.q), zeros(terms.k, wanted.k),
                                    zeros(terms.v, wanted.v)};
  PerInput<at::Tensor> into{.q = made[0],
                            .k = made[1],
                            .v = made[2],
                            .key_bias = zeros(terms.key_bias, wanted.key_bias),
                            .scale = zeros(terms.grid.scale, wanted.scale),
                            .tables = {}};
  for (size_t axis = 0; axis < terms.grid.tables.size(); ++axis) {
    into.tables.push_back(zeros(terms.grid.tables[axis], wanted.tables[axis]));
  }
  Attended dense{walkable(grad.out), grad.lse.defined() ? grad.lse.contiguous() : grad.lse, {}};
  for (const at::Tensor& sums : grad.sums) {
    dense.sums.push_back(sums.defined() ? walkable(sums) : sums);
  }
  if (terms.q.scalar_type() == at::kDouble) {
    kernels::attend_backward_reference(backward_arguments<double>(terms, result, dense, into));
  } else if (path == AttendPath::kReference) {
    kernels::attend_backward_reference(backward_arguments<float>(terms, result, dense, into));
  } else {
    kernels::attend_backward(backward_arguments<float>(terms, result, dense, into),
                             at::get_num_threads());
  }
  return into;
}

/// What is not a tensor.
struct Layout {
  double scale;
  GridSide side;
  int64_t begin;
  std::vector<int64_t> extents;
  bool has_bias, has_scale;
  AttendPath path;
  int64_t tile_bytes;
};

constexpr size_t kFirstOptional = 3;  // after q, k, v come key_bias, scale and the tables

std::vector<at::Tensor> differentiable_inputs(const AttendTerms& terms) {
  std::vector<at::Tensor> inputs{terms.q, terms.k, terms.v};
  for (const at::Tensor& part : {terms.key_bias, terms.grid.scale}) {
    if (part.defined()) {
      inputs.push_back(part);
    }
  }
  inputs.insert(inputs.end(), terms.grid.tables.begin(), terms.grid.tables.end());
  return inputs;
}

/// The inverse of differentiable_inputs.
AttendTerms terms_from(at::TensorList inputs, const at::Tensor& key_mask, const Layout& layout) {
  AttendTerms terms;
  terms.q = inputs[0];
  terms.k = inputs[1];
  terms.v = inputs[2];
  terms.key_mask = key_mask;
  terms.scale = layout.scale;
  terms.grid.side = layout.side;
  terms.grid.begin = layout.begin;
  terms.grid.extents = layout.extents;
  size_t next = kFirstOptional;
  if (layout.has_bias) {
    terms.key_bias = inputs[next++];
  }
  if (layout.has_scale) {
    terms.grid.scale = inputs[next++];
  }
  const size_t tables = layout.extents.size();
  terms.grid.tables = inputs.slice(next, tables).vec();
  return terms;
}

Attended compute(const AttendTerms& terms, const Layout& layout) {
  return layout.path == AttendPath::kTiles ? attend_tiles(terms, layout.tile_bytes)
                                           : attend_by_kernels(terms, layout.path);
}

struct AttendTermsFunction : public torch::autograd::Function<AttendTermsFunction> {
  using Context = torch::autograd::AutogradContext;

  static torch::autograd::variable_list forward(Context* context, at::TensorList inputs,
                                                const std::optional<at::Tensor>& key_mask,
                                                const Layout& layout) {
    const AttendTerms terms = terms_from(inputs, key_mask.value_or(at::Tensor()), layout);
    const Attended result = compute(terms, layout);
    torch::autograd::variable_list outputs{result.out, result.lse};
    outputs.insert(outputs.end(), result.sums.begin(), result.sums.end());
    torch::autograd::variable_list saved{terms.key_mask};
    saved.insert(saved.end(), outputs.begin(), outputs.end());
    saved.insert(saved.end(), inputs.begin(), inputs.end());
    context->save_for_backward(saved);
    context->set_materialize_grads(false);
    context->saved_data["scale"] = layout.scale;
    context->saved_data["extents"] = layout.extents;
    context->saved_data["layout"] = std::vector<int64_t>{static_cast<int64_t>(layout.side),
                                                         layout.begin,
                                                         layout.has_bias,
                                                         layout.has_scale,
                                                         static_cast<int64_t>(layout.path),
                                                         layout.tile_bytes,
                                                         static_cast<int64_t>(outputs.size())};
    return outputs;
  }

  static torch::autograd::variable_list backward(Context* context,
                                                 torch::autograd::variable_list grads) {
    if (at::GradMode::is_enabled()) {
      throw Error(ErrorCode::kUnsupported,
                  "[attend_terms] has no second derivatives (create_graph)");
    }
    const std::vector<int64_t> numbers = context->saved_data["layout"].toIntVector();
    const Layout layout{.scale = context->saved_data["scale"].toDouble(),
                        .side = static_cast<GridSide>(numbers[0]),
                        .begin = numbers[1],
                        .extents = context->saved_data["extents"].toIntVector(),
                        .has_bias = numbers[2] != 0,
                        .has_scale = numbers[3] != 0,
                        .path = static_cast<AttendPath>(numbers[4]),
                        .tile_bytes = numbers[5]};
    const size_t outputs = static_cast<size_t>(numbers[6]);
    const torch::autograd::variable_list saved = context->get_saved_variables();
    const at::TensorList inputs = at::TensorList(saved).slice(1 + outputs);
    const AttendTerms terms = terms_from(inputs, saved[0], layout);
    const Attended result{
        saved[1], saved[2], {saved.begin() + 3, saved.begin() + 1 + static_cast<int64_t>(outputs)}};
    const Attended grad{grads[0].defined() ? grads[0] : at::zeros_like(result.out),
                        grads[1],
                        {grads.begin() + 2, grads.end()}};
    const PerInput<bool> wanted = wanted_gradients(*context, layout);
    const PerInput<at::Tensor> made =
        layout.path == AttendPath::kTiles
            ? attend_tiles_backward(terms, result, grad, wanted, layout.tile_bytes)
            : backward_by_kernels(terms, result, grad, wanted, layout.path);
    torch::autograd::variable_list in_order{made.q, made.k, made.v};
    if (layout.has_bias) {
      in_order.push_back(made.key_bias);
    }
    if (layout.has_scale) {
      in_order.push_back(made.scale);
    }
    in_order.insert(in_order.end(), made.tables.begin(), made.tables.end());
    in_order.resize(in_order.size() + 2);  // the mask and the layout have none
    return in_order;
  }

 private:
  static PerInput<bool> wanted_gradients(const Context& context, const Layout& layout) {
    size_t next = kFirstOptional;
    PerInput<bool> wanted{};
    wanted.q = context.needs_input_grad(0);
    wanted.k = context.needs_input_grad(1);
    wanted.v = context.needs_input_grad(2);
    wanted.key_bias = layout.has_bias && context.needs_input_grad(next++);
    wanted.scale = layout.has_scale && context.needs_input_grad(next++);
    for (size_t axis = 0; axis < layout.extents.size(); ++axis) {
      wanted.tables.push_back(context.needs_input_grad(next++));
    }
    return wanted;
  }
};

AttendPath resolve(AttendPath path, const at::Tensor& q) {
  const bool plain = q.scalar_type() == at::kFloat || q.scalar_type() == at::kDouble;
  if (path == AttendPath::kReference && !(plain && q.is_cpu())) {
    throw Error(ErrorCode::kUnsupported,
                "[attend_terms] the reference takes float32 and float64 on the CPU");
  }
  return path == AttendPath::kBest && !(plain && q.is_cpu()) ? AttendPath::kTiles : path;
}

/// Whether LibTorch has a kernel that makes no matrix of scores for these terms.
bool has_fused_kernel(const AttendTerms& terms) {
  constexpr int64_t kByMatrices = 0;  // sdp::SDPBackend::math
  if (terms.key_mask.defined() || terms.key_bias.defined() || terms.grid.side != GridSide::kNone) {
    return false;
  }
  return at::_fused_sdp_choice(terms.q, terms.k, terms.v, {}, /*dropout_p=*/0,
                               /*is_causal=*/false, terms.scale) != kByMatrices;
}

}  // namespace

AttendExtents attend_extents(const AttendTerms& terms) {
  AttendExtents x{1, 1, terms.q.size(2), terms.k.size(2)};
  const auto widen = [&](const at::Tensor& part, bool has_heads) {
    if (part.defined() && part.dim() > 1) {
      x.batch = std::max(x.batch, part.size(0));
      x.heads = has_heads ? std::max(x.heads, part.size(1)) : x.heads;
    }
  };
  for (const at::Tensor* part : {&terms.q, &terms.k, &terms.v, &terms.key_bias}) {
    widen(*part, true);
  }
  for (const at::Tensor& table : terms.grid.tables) {
    widen(table, true);
  }
  widen(terms.key_mask, false);
  widen(terms.grid.scale, false);
  return x;
}

Attended attend_terms_by(const AttendTerms& terms, AttendPath path, int64_t tile_bytes) {
  check(terms);
  path = resolve(path, terms.q);
  const AttendTerms ready = prepare(terms, path);
  const Layout layout{.scale = ready.scale,
                      .side = ready.grid.side,
                      .begin = ready.grid.begin,
                      .extents = ready.grid.extents,
                      .has_bias = ready.key_bias.defined(),
                      .has_scale = ready.grid.scale.defined(),
                      .path = path,
                      .tile_bytes = tile_bytes};
  const std::vector<at::Tensor> inputs = differentiable_inputs(ready);
  const bool differentiable =
      at::GradMode::is_enabled() &&
      std::any_of(inputs.begin(), inputs.end(), [](const auto& x) { return x.requires_grad(); });
  if (!differentiable) {
    const at::NoGradGuard no_grad;
    return compute(ready, layout);
  }
  // autograd takes an absent tensor only as an empty optional
  const std::optional<at::Tensor> mask =
      ready.key_mask.defined() ? std::optional(ready.key_mask) : std::nullopt;
  const auto outputs = AttendTermsFunction::apply(at::TensorList(inputs), mask, layout);
  return {outputs[0], outputs[1], {outputs.begin() + 2, outputs.end()}};
}

Attended attend_terms(const AttendTerms& terms) {
  return attend_terms_by(terms, AttendPath::kBest);
}

at::Tensor attended_values(const AttendTerms& terms) {
  if (terms.q.is_cpu()) {
    return attend_terms(terms).out;
  }
  check(terms);
  if (!has_fused_kernel(terms)) {
    return attend_terms(terms).out;
  }
  return at::scaled_dot_product_attention(terms.q, terms.k, terms.v, {}, /*dropout_p=*/0,
                                          /*is_causal=*/false, terms.scale);
}

}  // namespace perceiver::nn
