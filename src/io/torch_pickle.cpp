#include "io/torch_pickle.h"

#include <algorithm>
#include <array>

namespace perceiver::io {
namespace {

struct TorchDType {
  std::string_view name;
  DType dtype;
};

constexpr std::array kTorchDTypes = {
    TorchDType{"torch.DoubleStorage", DType::kF64},    TorchDType{"torch.float64", DType::kF64},
    TorchDType{"torch.FloatStorage", DType::kF32},     TorchDType{"torch.float32", DType::kF32},
    TorchDType{"torch.HalfStorage", DType::kF16},      TorchDType{"torch.float16", DType::kF16},
    TorchDType{"torch.BFloat16Storage", DType::kBF16}, TorchDType{"torch.bfloat16", DType::kBF16},
    TorchDType{"torch.LongStorage", DType::kI64},      TorchDType{"torch.int64", DType::kI64},
    TorchDType{"torch.IntStorage", DType::kI32},       TorchDType{"torch.int32", DType::kI32},
    TorchDType{"torch.ShortStorage", DType::kI16},     TorchDType{"torch.int16", DType::kI16},
    TorchDType{"torch.CharStorage", DType::kI8},       TorchDType{"torch.int8", DType::kI8},
    TorchDType{"torch.ByteStorage", DType::kU8},       TorchDType{"torch.uint8", DType::kU8},
    TorchDType{"torch.BoolStorage", DType::kBool},     TorchDType{"torch.bool", DType::kBool},
    TorchDType{"torch.uint16", DType::kU16},           TorchDType{"torch.uint32", DType::kU32},
    TorchDType{"torch.uint64", DType::kU64},
};

// Known kinds of numbers that no Array holds: they may be named, so that the error can name the
// tensor instead.
constexpr std::array<std::string_view, 14> kForeign = {
    "ComplexFloatStorage", "ComplexDoubleStorage", "QInt8Storage",
    "QInt32Storage",       "QUInt8Storage",        "QUInt4x2Storage",
    "QUInt2x4Storage",     "UntypedStorage",       "complex32",
    "complex64",           "complex128",           "float8_e4m3fn",
    "float8_e5m2",         "float8_e8m0fnu"};

constexpr std::string_view kUntyped = "torch.storage.UntypedStorage";
constexpr std::string_view kRebuildTensor = "torch._utils._rebuild_tensor";
constexpr std::string_view kRebuildTensor2 = "torch._utils._rebuild_tensor_v2";
constexpr std::string_view kRebuildTensor3 = "torch._utils._rebuild_tensor_v3";
constexpr std::string_view kRebuildParameter = "torch._utils._rebuild_parameter";
constexpr std::string_view kRebuildParameterState = "torch._utils._rebuild_parameter_with_state";
constexpr std::string_view kOrderedDict = "collections.OrderedDict";
constexpr std::string_view kSize = "torch.Size";
constexpr std::array kFunctions = {
    kUntyped,          kRebuildTensor,         kRebuildTensor2, kRebuildTensor3,
    kRebuildParameter, kRebuildParameterState, kOrderedDict,    kSize};

std::vector<int64_t> integers(PickleMachine& machine, const PickleValue& value, const char* what) {
  if (!value.is(PickleKind::kTuple) && !value.is(PickleKind::kList)) {
    machine.refuse(cat("a tensor's ", what, " is not a tuple"));
  }
  if (value.items.size() > kMaxTensorRank) {
    machine.refuse(cat("a tensor's ", what, " has more than ", kMaxTensorRank, " numbers"));
  }
  std::vector<int64_t> numbers;
  for (const PickleValue* item : value.items) {
    if (!item->is(PickleKind::kInt)) {
      machine.refuse(cat("a tensor's ", what, " holds something else than integers"));
    }
    numbers.push_back(item->integer);
  }
  return numbers;
}

// (storage, offset, shape, strides, ...); version 3 carries the dtype as its seventh argument.
PickleValue* rebuild_tensor(PickleMachine& machine, std::string_view function,
                            const PickleValue& arguments) {
  const auto& items = arguments.items;
  const bool version3 = function == kRebuildTensor3;
  if (items.size() < (version3 ? 7u : 4u) || items[0]->as<TorchStorage>() == nullptr ||
      !items[1]->is(PickleKind::kInt)) {
    machine.refuse("a tensor is not rebuilt from a storage, an offset, a shape and strides");
  }
  auto tensor = std::make_unique<TorchTensor>();
  tensor->storage = items[0]->as<TorchStorage>();
  tensor->offset = items[1]->integer;
  tensor->shape = integers(machine, *items[2], "shape");
  tensor->strides = integers(machine, *items[3], "strides");
  if (version3) {
    tensor->dtype = items[6]->text;
  }
  return machine.make_object(std::move(tensor));
}

// OrderedDict(), or OrderedDict([[key, value], ...]) as Python 2 wrote it.
PickleValue* make_dict(PickleMachine& machine, const PickleValue& arguments) {
  PickleValue* dict = machine.make(PickleKind::kDict);
  if (arguments.items.empty()) {
    return dict;
  }
  const PickleValue& pairs = *arguments.items[0];
  if (arguments.items.size() != 1 || !pairs.is(PickleKind::kList)) {
    machine.refuse("an OrderedDict of something else than pairs");
  }
  for (const PickleValue* pair : pairs.items) {
    const bool usable = pair->is(PickleKind::kList) || pair->is(PickleKind::kTuple);
    if (!usable || pair->items.size() != 2) {
      machine.refuse("an OrderedDict of something else than pairs");
    }
    dict->items.insert(dict->items.end(), pair->items.begin(), pair->items.end());
  }
  return dict;
}

}  // namespace

std::optional<DType> torch_dtype(std::string_view name) {
  for (const TorchDType& known : kTorchDTypes) {
    if (known.name == name) {
      return known.dtype;
    }
  }
  return std::nullopt;
}

bool TorchPickleHandler::allows(std::string_view module, std::string_view name) const {
  const std::string full = module.size() + name.size() < 100 ? cat(module, ".", name) : "";
  const bool foreign = (module == "torch" || module == "torch.storage") &&
                       std::find(kForeign.begin(), kForeign.end(), name) != kForeign.end();
  return foreign || torch_dtype(full).has_value() ||
         std::find(kFunctions.begin(), kFunctions.end(), full) != kFunctions.end();
}

PickleValue* TorchPickleHandler::call(PickleMachine& machine, const PickleValue& function,
                                      PickleValue& arguments) {
  const std::string_view name = function.text;
  if (name == kRebuildTensor || name == kRebuildTensor2 || name == kRebuildTensor3) {
    return rebuild_tensor(machine, name, arguments);
  }
  if (name == kOrderedDict) {
    return make_dict(machine, arguments);
  }
  const bool is_parameter = name == kRebuildParameter || name == kRebuildParameterState;
  if (is_parameter && !arguments.items.empty() &&
      arguments.items[0]->as<TorchTensor>() != nullptr) {
    return arguments.items[0];
  }
  if (name == kSize && arguments.items.size() == 1) {
    return arguments.items[0];
  }
  machine.refuse(cat("\"", name, "\" is not called this way in a checkpoint"));
}

// The attributes of an OrderedDict, such as `_metadata` of a state dict: of no use here.
void TorchPickleHandler::build(PickleMachine& machine, PickleValue& object, PickleValue& state) {
  if (!object.is(PickleKind::kDict) || !state.is(PickleKind::kDict)) {
    machine.refuse("attributes set on what is not an OrderedDict");
  }
}

PickleValue* TorchPickleHandler::persistent(PickleMachine& machine, PickleValue& id) {
  const auto& items = id.items;
  const bool usable = id.is(PickleKind::kTuple) && items.size() >= 5 && items[0]->is_text() &&
                      items[0]->text == "storage" && items[1]->is(PickleKind::kGlobal) &&
                      items[2]->is_text() && items[4]->is(PickleKind::kInt);
  if (!usable) {
    machine.refuse("a persistent id that does not describe a storage");
  }
  // The older container may cut one storage out of another; torch itself stopped doing so in 2017.
  if (items.size() > 5 && !items[5]->is(PickleKind::kNone)) {
    machine.unsupported("a storage that is a view of another storage");
  }
  constexpr size_t kLongestKey = 256;
  if (items[2]->text.size() > kLongestKey) {
    machine.refuse("a storage's key is too long");
  }
  auto storage = std::make_unique<TorchStorage>();
  storage->type = items[1]->text;
  storage->key = items[2]->text;
  storage->size = items[4]->integer;
  storages_.push_back(storage.get());
  return machine.make_object(std::move(storage));
}

}  // namespace perceiver::io
