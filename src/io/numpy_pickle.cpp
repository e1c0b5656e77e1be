#include "io/numpy_pickle.h"

#include <algorithm>
#include <array>
#include <optional>

namespace perceiver::io {
namespace {

enum class Call {
  kMapping,
  kReconstruct,
  kScalar,
  kFromBuffer,
  kJaxArray,
  kDType,
  kEncode,
  kBytes,
  kNone
};

struct Allowed {
  std::string_view module;
  std::string_view name;
  Call call;
};

// numpy 2 renamed numpy.core to numpy._core; Python 2 and protocols below 3 say __builtin__.
constexpr std::array kAllowed = {
    Allowed{"haiku._src.data_structures", "FlatMapping", Call::kMapping},
    Allowed{"haiku._src.data_structures", "FlatMap", Call::kMapping},
    Allowed{"haiku._src.data_structures", "frozendict", Call::kMapping},
    Allowed{"collections", "OrderedDict", Call::kMapping},
    Allowed{"builtins", "dict", Call::kMapping},
    Allowed{"__builtin__", "dict", Call::kMapping},
    Allowed{"numpy.core.multiarray", "_reconstruct", Call::kReconstruct},
    Allowed{"numpy._core.multiarray", "_reconstruct", Call::kReconstruct},
    Allowed{"numpy.core.multiarray", "scalar", Call::kScalar},
    Allowed{"numpy._core.multiarray", "scalar", Call::kScalar},
    Allowed{"numpy.core.numeric", "_frombuffer", Call::kFromBuffer},
    Allowed{"numpy._core.numeric", "_frombuffer", Call::kFromBuffer},
    Allowed{"jax._src.array", "_reconstruct_array", Call::kJaxArray},
    Allowed{"numpy", "dtype", Call::kDType},
    Allowed{"numpy", "ndarray", Call::kNone},
    Allowed{"_codecs", "encode", Call::kEncode},
    Allowed{"builtins", "bytes", Call::kBytes},
    Allowed{"__builtin__", "bytes", Call::kBytes},
};

const Allowed* find_allowed(std::string_view module, std::string_view name) {
  const auto* found = std::find_if(kAllowed.begin(), kAllowed.end(), [&](const Allowed& allowed) {
    return allowed.module == module && allowed.name == name;
  });
  return found == kAllowed.end() ? nullptr : found;
}

Call call_of(const PickleValue& function) {
  const std::string_view text = function.text;
  const size_t dot = text.rfind('.');
  const Allowed* allowed = find_allowed(text.substr(0, dot), text.substr(dot + 1));
  return allowed == nullptr ? Call::kNone : allowed->call;
}

[[noreturn]] void refuse_call(PickleMachine& machine, const PickleValue& function) {
  machine.refuse(cat("\"", function.text, "\" is not called this way in a checkpoint"));
}

std::vector<int64_t> shape_of(PickleMachine& machine, const PickleValue& value) {
  std::vector<int64_t> shape;
  if (value.is(PickleKind::kInt)) {
    return {value.integer};
  }
  const bool usable = value.is(PickleKind::kTuple) && value.items.size() <= kMaxTensorRank &&
                      std::all_of(value.items.begin(), value.items.end(),
                                  [](const PickleValue* v) { return v->is(PickleKind::kInt); });
  if (!usable) {
    machine.refuse("an array's shape is not a tuple of integers");
  }
  for (const PickleValue* extent : value.items) {
    shape.push_back(extent->integer);
  }
  return shape;
}

const NumpyDType* dtype_of(PickleMachine& machine, const PickleValue& value) {
  const auto* dtype = value.as<NumpyDType>();
  if (dtype == nullptr) {
    machine.refuse("an array without a dtype");
  }
  return dtype;
}

// (version, shape, dtype, is_fortran, data), which numpy's __setstate__ takes.
void fill(PickleMachine& machine, NumpyArray& array, const PickleValue& state) {
  if (array.filled || !state.is(PickleKind::kTuple) || state.items.size() != 5) {
    machine.refuse("an array whose state is not (version, shape, dtype, order, data)");
  }
  array.filled = true;
  array.shape = shape_of(machine, *state.items[1]);
  array.dtype = dtype_of(machine, *state.items[2]);
  array.fortran_order = state.items[3]->integer != 0;
  array.data = state.items[4];
}

PickleValue* make_array(PickleMachine& machine, std::vector<int64_t> shape,
                        const PickleValue& dtype, const PickleValue* data, bool fortran_order) {
  auto array = std::make_unique<NumpyArray>();
  array->filled = true;
  array->shape = std::move(shape);
  array->dtype = dtype_of(machine, dtype);
  array->data = data;
  array->fortran_order = fortran_order;
  return machine.make_object(std::move(array));
}

// _reconstruct_array(_reconstruct, (ndarray, (0,), b'b'), numpy_state, aval_state)
PickleValue* make_jax_array(PickleMachine& machine, const PickleValue& function,
                            const std::vector<PickleValue*>& arguments) {
  const bool usable = arguments.size() == 4 && arguments[0]->is(PickleKind::kGlobal) &&
                      call_of(*arguments[0]) == Call::kReconstruct;
  if (!usable) {
    refuse_call(machine, function);
  }
  auto array = std::make_unique<NumpyArray>();
  fill(machine, *array, *arguments[2]);
  return machine.make_object(std::move(array));
}

// dtype('f4', align, copy); the code may carry its byte order: '<f4'.
PickleValue* make_dtype(PickleMachine& machine, const PickleValue& function,
                        const std::vector<PickleValue*>& arguments) {
  if (arguments.empty() || !arguments[0]->is_text() || arguments[0]->text.empty()) {
    refuse_call(machine, function);
  }
  auto dtype = std::make_unique<NumpyDType>();
  dtype->code = arguments[0]->text;
  if (std::string_view("<>=|").find(dtype->code[0]) != std::string_view::npos) {
    dtype->byte_order = dtype->code[0];
    dtype->code.remove_prefix(1);
  }
  return machine.make_object(std::move(dtype));
}

// A mapping class called with nothing or with one dict: that dict.
PickleValue* make_mapping(PickleMachine& machine, const PickleValue& function,
                          const std::vector<PickleValue*>& arguments) {
  if (arguments.empty()) {
    return machine.make(PickleKind::kDict);
  }
  if (arguments.size() != 1 || !arguments[0]->is(PickleKind::kDict)) {
    refuse_call(machine, function);
  }
  return arguments[0];
}

PickleValue* encode_latin1(PickleMachine& machine, const PickleValue& function,
                           const std::vector<PickleValue*>& arguments) {
  const bool usable = arguments.size() == 2 && arguments[0]->is_text() && arguments[1]->is_text() &&
                      (arguments[1]->text == "latin1" || arguments[1]->text == "latin-1");
  if (!usable) {
    refuse_call(machine, function);
  }
  auto encoded = std::make_unique<EncodedBytes>();
  encoded->text = arguments[0]->text;
  return machine.make_object(std::move(encoded));
}

}  // namespace

bool NumpyPickleHandler::allows(std::string_view module, std::string_view name) const {
  return find_allowed(module, name) != nullptr;
}

PickleValue* NumpyPickleHandler::call(PickleMachine& machine, const PickleValue& function,
                                      PickleValue& arguments) {
  const auto& items = arguments.items;
  switch (call_of(function)) {
    case Call::kMapping:
      return make_mapping(machine, function, items);
    case Call::kReconstruct:  // (ndarray, (0,), b'b'): an empty array whose state follows
      return machine.make_object(std::make_unique<NumpyArray>());
    case Call::kScalar:
      if (items.size() != 2) {
        refuse_call(machine, function);
      }
      return make_array(machine, {}, *items[0], items[1], false);
    case Call::kFromBuffer:
      if (items.size() != 4 || (items[3]->text != "C" && items[3]->text != "F")) {
        refuse_call(machine, function);
      }
      return make_array(machine, shape_of(machine, *items[2]), *items[1], items[0],
                        items[3]->text == "F");
    case Call::kJaxArray:
      return make_jax_array(machine, function, items);
    case Call::kDType:
      return make_dtype(machine, function, items);
    case Call::kEncode:
      return encode_latin1(machine, function, items);
    case Call::kBytes:  // protocol 2 writes b'' as bytes()
      if (!items.empty()) {
        refuse_call(machine, function);
      }
      return machine.make(PickleKind::kBytes);
    case Call::kNone:
      break;
  }
  refuse_call(machine, function);
}

void NumpyPickleHandler::build(PickleMachine& machine, PickleValue& object, PickleValue& state) {
  if (auto* array = object.as<NumpyArray>()) {
    fill(machine, *array, state);
    return;
  }
  // dtype: (version, byte order, subdtype, names, fields, size, alignment, flags)
  auto* dtype = object.as<NumpyDType>();
  const bool usable = dtype != nullptr && state.is(PickleKind::kTuple) && state.items.size() >= 2 &&
                      state.items[1]->text.size() == 1;
  if (!usable) {
    machine.refuse("a state set on what has none in a checkpoint");
  }
  dtype->byte_order = state.items[1]->text[0];
}

}  // namespace perceiver::io
