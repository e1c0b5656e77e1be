#include "nn/recompute.h"

#include <algorithm>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

namespace perceiver::nn {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct Body : public torch::CustomClassHolder {
  explicit Body(RowsFunction given) : call(std::move(given)) {}
  RowsFunction call;
};

std::vector<at::Tensor> block_of(const std::vector<at::Tensor>& rows, int64_t begin,
                                 int64_t length) {
  std::vector<at::Tensor> block;
  for (const at::Tensor& tensor : rows) {
    block.push_back(tensor.narrow(1, begin, length));
  }
  return block;
}

at::Tensor call_in_blocks(const RowsFunction& body, const std::vector<at::Tensor>& rows,
                          int64_t block_rows) {
  const int64_t count = rows.at(0).size(1);
  if (block_rows >= count) {
    return body(rows);
  }
  at::Tensor result;
  for (int64_t begin = 0; begin < count; begin += block_rows) {
    const int64_t length = std::min(block_rows, count - begin);
    const at::Tensor block = body(block_of(rows, begin, length));
    if (!result.defined()) {
      result = at::empty({block.size(0), count, block.size(2)}, block.options());
    }
    result.narrow(1, begin, length).copy_(block);
  }
  return result;
}

struct RecomputedRows : public torch::autograd::Function<RecomputedRows> {
  static at::Tensor forward(AutogradContext* context, at::TensorList rows,
                            at::TensorList parameters, const c10::intrusive_ptr<Body>& body,
                            int64_t block_rows) {
    variable_list saved = rows.vec();
    saved.insert(saved.end(), parameters.begin(), parameters.end());
    context->save_for_backward(saved);
    context->saved_data["rows"] = static_cast<int64_t>(rows.size());
    context->saved_data["block"] = block_rows;
    context->saved_data["body"] = c10::IValue::make_capsule(body);
    return call_in_blocks(body->call, rows.vec(), block_rows);  // gradients are off in here
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const variable_list saved = context->get_saved_variables();
    const int64_t num_rows = context->saved_data["rows"].toInt();
    const variable_list rows(saved.begin(), saved.begin() + num_rows);
    const auto body =
        c10::static_intrusive_pointer_cast<Body>(context->saved_data["body"].toCapsule());
    const int64_t block_rows = context->saved_data["block"].toInt();
    variable_list results(saved.size() + 2);  // the body and the block size have none
    const int64_t count = rows[0].size(1);
    for (int64_t begin = 0; begin < count; begin += block_rows) {
      const int64_t length = std::min(block_rows, count - begin);
      variable_list block = block_of(rows, begin, length);
      variable_list wanted;
      std::vector<size_t> index;
      for (size_t i = 0; i < saved.size(); ++i) {
        if (!saved[i].requires_grad()) {
          continue;
        }
        if (i < block.size()) {
          block[i] = block[i].detach().requires_grad_(true);
        }
        wanted.push_back(i < block.size() ? block[i] : saved[i]);
        index.push_back(i);
      }
      at::Tensor out;
      {
        const at::AutoGradMode grad_mode(true);
        out = body->call(block);
      }
      const variable_list given = torch::autograd::grad(
          {out}, wanted, {grads[0].narrow(1, begin, length)}, /*retain_graph=*/false,
          /*create_graph=*/false, /*allow_unused=*/true);
      for (size_t i = 0; i < wanted.size(); ++i) {
        add(given[i], saved[index[i]], index[i] < rows.size() ? begin : -1, results[index[i]]);
      }
    }
    return results;
  }

  /// Adds the gradient of one block to `sum`; begin < 0: of a parameter, which all blocks share.
  static void add(const at::Tensor& grad, const at::Tensor& of, int64_t begin, at::Tensor& sum) {
    if (!grad.defined()) {
      return;
    }
    if (begin < 0) {
      sum = sum.defined() ? sum.add_(grad) : grad;
    } else if (grad.size(1) == of.size(1)) {
      sum = grad;
    } else {
      if (!sum.defined()) {
        sum = at::zeros_like(of, at::MemoryFormat::Contiguous);
      }
      sum.narrow(1, begin, grad.size(1)).copy_(grad);
    }
  }
};

}  // namespace

at::Tensor recompute_rows(const RowsFunction& body, const std::vector<at::Tensor>& rows,
                          const std::vector<at::Tensor>& parameters, int64_t block_rows) {
  if (!at::GradMode::is_enabled()) {
    return call_in_blocks(body, rows, block_rows);
  }
  return RecomputedRows::apply(at::TensorList(rows), at::TensorList(parameters),
                               c10::make_intrusive<Body>(body), block_rows);
}

}  // namespace perceiver::nn
