#pragma once

#include <cstdint>
#include <initializer_list>

namespace perceiver::train {

/// SplitMix64 (Steele, Lea, Flood 2014). Small, the same on every machine, and cheap to start, so
/// every example gets a stream of its own: what is drawn for it depends on (seed, purpose, index)
/// and never on which thread or in which order it was made.
class Random {
 public:
  /// @param keys  the seed first, then whatever tells this stream from others
  explicit Random(std::initializer_list<uint64_t> keys) {
    for (const uint64_t key : keys) {
      state_ = mix(state_ ^ key) + kStep;
    }
  }

  uint64_t next() { return mix(state_ += kStep); }
  /// In [0, 1).
  double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }
  /// In [low, high).
  double uniform(double low, double high) { return low + (high - low) * uniform(); }
  /// In [0, n); n > 0. The bias of the remainder is below 2^-40 for any n used here.
  int64_t below(int64_t n) { return static_cast<int64_t>(next() % static_cast<uint64_t>(n)); }

 private:
  static constexpr uint64_t kStep = 0x9E3779B97F4A7C15u;
  static uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
  }
  uint64_t state_ = 0;
};

/// Second key of a stream: what it is for.
enum RandomPurpose : uint64_t {
  kOrder = 1,
  kAugment = 2,
  kWindow = 3,
  kMask = 4,
  kTestMask = 5,
  kDropout = 6,
  kSeries = 7,
  kTaskOrder = 160,    ///< the examples of one of several tasks
  kTextPairs = 161,    ///< generated text examples
  kTokenLabels = 162,  ///< generated labelled texts
  kSoundCrop = 140,
  kClipChoice = 141,
  kLabelMask = 142,
  kModalityDrop = 143,
  kOutputPoints = 144,
  kGeneratedFilm = 145,
  kPicture = 100,
  kMix = 101,
  kPermutation = 102,
  kScene = 103,
  kSegments = 104,
  kPoints = 105,
  kPointSamples = 180,
  kPointSolids = 181,
  kPointAugment = 182,
  kEntityFrames = 183,
  kEntityAugment = 184,
  kEntityHidden = 185,
  kEntityTestHidden = 186,
  kTensorHeldOut = 187,
  kFlowScene = 120,
  kFlowTestScene = 121,
  kFlowAugment = 122,
  kFlowPoints = 123,
};

}  // namespace perceiver::train
