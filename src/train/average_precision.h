#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace perceiver::train {

/// Average precision of one class over n examples: the sum over the distinct scores s, from high to
/// low, of (recall gained at s) * (precision of all examples scored s or more). Examples of equal
/// score are taken together, so their order never counts: equal scores throughout give the share of
/// positives, what an answer that looks at nothing gets. A score that is not a number ranks last.
/// @param scores    n scores, higher = more likely
/// @param positive  n flags
/// @return          in (0, 1]; nothing when no example is positive: then it has no value
/// @throws Error(kShape) when the counts differ
std::optional<double> average_precision(const std::vector<float>& scores,
                                        const std::vector<uint8_t>& positive);

/// Mean over the classes that have a positive example, as AudioSet is measured (arXiv 2103.03206
/// section 4.2), and the same of scores that are equal for all examples.
struct MeanAveragePrecision {
  double value = 0;
  double of_equal_scores = 0;  ///< mean share of positives
  int64_t classes = 0;         ///< with a positive example; 0: both means are 0
};

/// @param scores    [n, K], row by row
/// @param positive  [n, K]
/// @throws Error(kShape) when the counts differ or are not whole rows
MeanAveragePrecision mean_average_precision(const std::vector<float>& scores,
                                            const std::vector<uint8_t>& positive, int64_t classes);

}  // namespace perceiver::train
