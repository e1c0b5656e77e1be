#pragma once

#include <string>
#include <vector>

#include "perceiver/spec/model_spec.h"

namespace perceiver {

struct PresetInfo {
  std::string name;     ///< what `--preset` takes: "language-perceiver", "modelnet40", ...
  std::string summary;  ///< one line
};

/// In a fixed order, the six released models first.
const std::vector<PresetInfo>& preset_list();

/// @throws Error(kArgument) naming the nearest preset
ModelSpec preset(const std::string& name);

}  // namespace perceiver
