#include "train/task.h"

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"

namespace perceiver::train {
namespace {

const char* kind_word(InputKind kind) {
  switch (kind) {
    case InputKind::kText:
      return "text";
    case InputKind::kGrid:
      return "grid";
    case InputKind::kLabel:
      return "label";
    case InputKind::kSet:
      return "set";
  }
  return "";
}

}  // namespace

Counts Task::counts(const Batch& batch) const {
  return {static_cast<double>(batch.inputs.arrays.begin()->second.size(0))};
}

const InputSpec& only_input(const ModelSpec& model, InputKind kind, const char* task) {
  if (model.inputs.size() != 1 || model.inputs[0].kind != kind) {
    throw Error(ErrorCode::kArgument,
                cat(task, " needs a model with one ", kind_word(kind), " input; ",
                    printable(model.name), " has ", model.inputs.size(), " input(s)",
                    model.inputs.empty() ? "" : ", the first is ",
                    model.inputs.empty() ? "" : printable(model.inputs[0].name)));
  }
  return model.inputs[0];
}

const OutputSpec& only_output(const ModelSpec& model, const char* task) {
  if (model.outputs.size() != 1) {
    throw Error(ErrorCode::kArgument, cat(task, " needs a model with one output; ",
                                          printable(model.name), " has ", model.outputs.size()));
  }
  return model.outputs[0];
}

int64_t output_width(const ModelSpec& model, const OutputSpec& output) {
  return output.head == HeadKind::kNone ? model.decoder.output_channels : output.head_channels;
}

int64_t class_count(const ModelSpec& model, const char* task) {
  const OutputSpec& output = only_output(model, task);
  if (!output.single_row && model.decoder.kind == DecoderKind::kCrossAttend) {
    throw Error(ErrorCode::kArgument, cat(task, " needs an output of one row (single_row); output ",
                                          printable(output.name), " has several"));
  }
  return output_width(model, output);
}

double count_correct(const at::Tensor& logits, const at::Tensor& labels) {
  return logits.argmax(-1).eq(labels).sum().item<double>();
}

}  // namespace perceiver::train
