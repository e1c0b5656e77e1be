#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "train/random.h"

namespace perceiver::train {

struct TextFile {
  std::filesystem::path path;
  std::string
      begin_after;         ///< the text begins after the line that holds this; empty = at the start
  std::string end_before;  ///< and ends before the line that holds this
  double weight = 0;       ///< share of the windows drawn; 0 in every file = by length
};

/// Plain text. A byte order mark is dropped and CR LF becomes LF. The last `held_out` of every file
/// is never trained on.
struct TextDataSpec {
  std::vector<TextFile> files;
  double held_out = 0.05;
  double short_fraction = 0;   ///< of the windows get a random length...
  int64_t short_minimum = 16;  ///< ...of at least so many bytes
};

/// Text cut into a part to train on and a part held out, file by file.
class TextCorpus {
 public:
  /// @throws Error(kIo), Error(kFormat) for a missing marker, Error(kArgument) when a file's
  ///         training part is shorter than `min_bytes`
  TextCorpus(const TextDataSpec& spec, int64_t min_bytes);

  int64_t training_bytes() const { return training_bytes_; }
  /// A stretch of exactly `length` training bytes of one file, files by weight or length; it begins
  /// at the start of a word where one is near. `length` is at most the constructor's min_bytes.
  std::string_view draw(int64_t length, Random& random) const;
  /// The held-out parts cut into stretches of `length` bytes, in order; a shorter rest is dropped.
  std::vector<std::string_view> held_out(int64_t length) const;

 private:
  struct File {
    std::string text;
    int64_t training = 0;  // bytes [0, training) may be trained on
    double weight = 0;
  };
  const File& draw_file(double drawn) const;

  std::vector<File> files_;
  int64_t training_bytes_ = 0;
  double weights_ = 0;  // their sum; 0 = files are drawn by length
};

/// The text of a file as TextFile says, without byte order mark and carriage returns before line
/// feeds. @throws Error(kIo), Error(kFormat)
std::string read_text(const TextFile& file);

}  // namespace perceiver::train
