#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "perceiver/base/progress.h"
#include "perceiver/tasks/bundle.h"

// Replays what the released checkpoints are known to answer, so that a user can tell whether a
// checkpoint was read right (reference: released_models.md; the values are those of transformers'
// own integration tests).

namespace perceiver::tasks {

enum class CheckResult { kPass, kFail, kSkipped };

struct KnownAnswer {
  std::string what;
  std::string expected;
  std::string got;  ///< or why it was skipped
  CheckResult result = CheckResult::kSkipped;
};

/// Inputs that cannot be shipped; an empty path skips the check that needs it.
struct VerifyInputs {
  std::filesystem::path image;  ///< COCO val2017 000000039769.jpg
  std::filesystem::path frame;  ///< the Sintel frame of transformers' test, at least 368 x 496
  ProgressFn progress;
};

/// @throws Error(kArgument) when nothing is known about such a model; Error(kIo), Error(kFormat)
/// for
///         the inputs
std::vector<KnownAnswer> verify_known_answers(const Bundle& bundle, Engine& engine,
                                              const VerifyInputs& inputs);

/// All compared answers agree, and at least one was compared.
bool all_pass(const std::vector<KnownAnswer>& answers);

}  // namespace perceiver::tasks
