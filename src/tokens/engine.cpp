#include "perceiver/tokens/engine.h"

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/tokens/encoder_state.h"

namespace perceiver {

std::unique_ptr<EncoderState> Engine::start_encoding(
    int64_t /*batch*/, const std::map<std::string, std::vector<int64_t>>& /*extents*/) {
  throw Error(ErrorCode::kUnsupported, cat("engine ", name(), " can't encode in blocks"));
}

std::unique_ptr<Encoded> Engine::finish_encoding(const EncoderState& /*state*/) {
  throw Error(ErrorCode::kUnsupported, cat("engine ", name(), " can't encode in blocks"));
}

}  // namespace perceiver
