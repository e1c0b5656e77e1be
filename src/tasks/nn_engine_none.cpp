#include "perceiver/base/error.h"
#include "tasks/nn_engine.h"

namespace perceiver::tasks {

bool has_nn_engine() {
  return false;
}

std::unique_ptr<Engine> make_nn_engine(const Bundle&, const EngineChoice&, DType, Plan) {
  throw Error(ErrorCode::kUnsupported,
              "this program was built without LibTorch (PERCEIVER_TORCH=OFF): it has no engine nn, "
              "no fp64 and no CUDA");
}

}  // namespace perceiver::tasks
