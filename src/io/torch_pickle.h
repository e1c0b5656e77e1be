#pragma once

#include <functional>
#include <optional>

#include "io/array_budget.h"
#include "io/pickle_machine.h"

namespace perceiver::io {

/// A storage as a pickle refers to it: `('storage', torch.FloatStorage, key, device, size)`.
struct TorchStorage : PickleObject {
  std::string_view key;
  std::string type;  ///< "torch.FloatStorage"
  int64_t size = 0;  ///< elements of its dtype; bytes for an untyped storage
};

/// A tensor as a pickle describes it: a strided window of a storage.
struct TorchTensor : PickleObject {
  const TorchStorage* storage = nullptr;
  std::string dtype;  ///< "torch.uint16" where the storage is untyped, else empty
  int64_t offset = 0;
  std::vector<int64_t> shape;
  std::vector<int64_t> strides;
};

/// The names a `torch.save` pickle may use, and what they mean.
class TorchPickleHandler : public PickleHandler {
 public:
  bool allows(std::string_view module, std::string_view name) const override;
  PickleValue* call(PickleMachine& machine, const PickleValue& function,
                    PickleValue& arguments) override;
  void build(PickleMachine& machine, PickleValue& object, PickleValue& state) override;
  PickleValue* persistent(PickleMachine& machine, PickleValue& id) override;
  /// Every storage referred to so far; they live as long as the machine.
  const std::vector<const TorchStorage*>& storages() const { return storages_; }

 private:
  std::vector<const TorchStorage*> storages_;
};

/// Type of a storage class or of a dtype name; nothing for complex, quantized and other numbers.
std::optional<DType> torch_dtype(std::string_view name);

/// Bytes of the storage called `key`, or nothing.
using FindStorage = std::function<std::optional<std::string_view>(std::string_view key)>;

/// Builds the tensors of the top-level value of a checkpoint.
ArrayMap build_torch_tensors(const FileBytes& file, const PickleValue& top,
                             const FindStorage& find_storage);

}  // namespace perceiver::io
