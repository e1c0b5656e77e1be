#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "perceiver/base/array.h"
#include "perceiver/tasks/video.h"
#include "train/data/byte_cache.h"
#include "train/data/class_names.h"
#include "train/data/labelled_files.h"

namespace perceiver::train {

/// A stretch of a film as a model reads it.
struct FilmClip {
  Array frames;  ///< [T, S, S, 3] U8; undefined when the shape asks for none
  Array audio;   ///< [samples, 1] F32 in [-1, 1]; likewise
  int64_t nbytes() const {
    return (frames.defined() ? frames.nbytes() : 0) + (audio.defined() ? audio.nbytes() : 0);
  }
};

/// Films with sound and labels, each seen as a number of clips. May be read from several threads.
class Films {
 public:
  virtual ~Films() = default;
  virtual int64_t count() const = 0;
  /// Clips a film is seen as, spread from its start to its end.
  virtual int64_t clips() const = 0;
  /// @param clip  0 .. clips() - 1
  virtual std::shared_ptr<const FilmClip> read(int64_t film, int64_t clip) = 0;
  /// Its classes, rising.
  virtual std::vector<int64_t> classes(int64_t film) const = 0;
};

/// Films in files. Clips are decoded when they are asked for and kept while they fit a number of
/// bytes.
class FilmFiles : public Films {
 public:
  struct Options {
    tasks::ClipShape shape;
    double frames_per_second = 25;
    int64_t clips = 1;
    int64_t cache_bytes = 0;
  };
  /// @param names  nothing: labels are not looked at and films have no classes
  /// @throws Error(kFormat) for a label that is no class, naming the film
  FilmFiles(std::vector<LabelledFile> files, const std::optional<ClassNames>& names,
            const Options& options);

  int64_t count() const override { return static_cast<int64_t>(files_.size()); }
  int64_t clips() const override { return options_.clips; }
  /// @throws what io's readers throw, naming the film
  std::shared_ptr<const FilmClip> read(int64_t film, int64_t clip) override;
  std::vector<int64_t> classes(int64_t film) const override {
    return classes_[static_cast<size_t>(film)];
  }

 private:
  double start_of(int64_t film, int64_t clip);
  double seconds_of(int64_t film);

  std::vector<LabelledFile> files_;
  std::vector<std::vector<int64_t>> classes_;
  Options options_;
  std::mutex mutex_;
  std::map<int64_t, double> seconds_;  // of films probed so far
  ByteCache<FilmClip> cache_;
};

/// Films made by rule: in front of a dark plane every class shows as a shape of its own that moves
/// and bounces, and sounds as a tone of its own pitch.
struct GeneratedFilmsSpec {
  int64_t train_examples = 4096;
  int64_t test_examples = 256;
  double presence = 0.3;  ///< LabelKind::kMulti: chance of each class
  double noise = 0.02;    ///< of pixels (1 = white) and samples (1 = full scale), evenly +-
};

class GeneratedFilms : public Films {
 public:
  struct Options {
    tasks::ClipShape shape;
    int64_t num_classes = 1;
    LabelKind kind = LabelKind::kSingle;
    uint64_t seed = 0;
    int64_t first = 0;  ///< film 0 here is this one of all
    int64_t count = 1;
  };
  GeneratedFilms(const GeneratedFilmsSpec& spec, const Options& options)
      : spec_(spec), options_(options) {}

  int64_t count() const override { return options_.count; }
  int64_t clips() const override { return 1; }
  std::shared_ptr<const FilmClip> read(int64_t film, int64_t clip) override;
  std::vector<int64_t> classes(int64_t film) const override;

  /// Hz: from 1/160 to 1/40 of the sample rate in equal ratios.
  static double pitch(int64_t k, int64_t num_classes, int sample_rate);

 private:
  GeneratedFilmsSpec spec_;
  Options options_;
};

}  // namespace perceiver::train
