#pragma once

#include "io/array_budget.h"
#include "io/pickle_machine.h"

namespace perceiver::io {

/// A numpy dtype as a pickle describes it: `dtype('f4', False, True)` and its byte order.
struct NumpyDType : PickleObject {
  std::string_view code;  ///< "f4", "i8", "b1", "O8", ...
  char byte_order = '=';  ///< '<', '>', '=' native, '|' does not matter
};

/// Bytes that protocols below 3 carry as text: `_codecs.encode(text, 'latin1')`.
struct EncodedBytes : PickleObject {
  std::string_view text;
};

/// A numpy array, numpy scalar or jax array as a pickle describes it.
struct NumpyArray : PickleObject {
  bool filled = false;  ///< `_reconstruct` makes it empty; its state comes later
  std::vector<int64_t> shape;
  const NumpyDType* dtype = nullptr;
  bool fortran_order = false;
  const PickleValue* data = nullptr;
  Array built;  ///< filled by build_numpy_array, so that shared arrays stay shared
};

/// The names a pickle of Haiku parameters may use: arrays of numpy and jax, Haiku's mappings (which
/// become plain dicts) and the bytes of old protocols.
class NumpyPickleHandler : public PickleHandler {
 public:
  bool allows(std::string_view module, std::string_view name) const override;
  PickleValue* call(PickleMachine& machine, const PickleValue& function,
                    PickleValue& arguments) override;
  void build(PickleMachine& machine, PickleValue& object, PickleValue& state) override;
};

/// The described array in native byte order and row-major order.
/// @throws Error(kFormat) if its bytes do not fill its shape; Error(kUnsupported) if it does not
///   hold plain numbers
Array build_numpy_array(const FileBytes& file, NumpyArray& array, ArrayBudget& budget,
                        const std::string& named);

}  // namespace perceiver::io
