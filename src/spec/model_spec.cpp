#include "perceiver/spec/model_spec.h"

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/spec/parameters.h"

namespace perceiver {
namespace {

template <typename Part>
const Part& find_named(const std::vector<Part>& parts, const std::string& wanted,
                       const char* what) {
  std::string known;
  for (const Part& part : parts) {
    if (part.name == wanted) {
      return part;
    }
    known += (known.empty() ? "" : ", ") + printable(part.name);
  }
  throw Error(ErrorCode::kArgument,
              cat("the model has no ", what, " '", printable(wanted), "', only: ", known));
}

}  // namespace

const InputSpec& ModelSpec::input(const std::string& wanted) const {
  return find_named(inputs, wanted, "input");
}

const OutputSpec& ModelSpec::output(const std::string& wanted) const {
  return find_named(outputs, wanted, "output");
}

void validate(const ModelSpec& spec) {
  parameter_table(spec);  // resolves every width and bounds their sum
}

}  // namespace perceiver
