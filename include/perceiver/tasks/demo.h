#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "perceiver/base/progress.h"
#include "perceiver/tasks/bundle.h"
#include "perceiver/tasks/image.h"
#include "perceiver/tasks/text.h"

// The shipped models on samples they were not trained on, and a page that shows it.

namespace perceiver::tasks {

/// One picture and what the model made of it.
struct DemoPicture {
  io::Image picture;
  std::string truth;    ///< what was drawn; empty where only the answer counts
  std::string caption;  ///< "turned by 40 degrees"
  ImageAnswer answer;
  bool right() const { return !answer.classes.empty() && answer.classes[0].label == truth; }
};

/// One sentence with some of its bytes hidden and filled in again.
struct DemoLine {
  std::string original;
  std::vector<size_t> hidden;  ///< offsets of the masked bytes, in order
  FilledText filled;           ///< one entry of `masks` per hidden byte
  /// Whether the i-th hidden byte came back as it was.
  bool right(size_t i) const;
};

/// A model's facts, as the page states them.
struct DemoModel {
  std::string name;
  std::string summary;  ///< "784 pixels -> 64 latents x 128 -> 10 classes"
  int64_t parameters = 0;
};

struct DemoReport {
  DemoModel image_model;
  std::vector<DemoPicture> pictures;
  std::vector<DemoPicture> turned;  ///< one picture, turned further and further
  std::vector<DemoPicture> noisy;   ///< one picture under more and more noise
  DemoModel text_model;
  std::vector<DemoLine> lines;
  double seconds = 0;  ///< spent in the models
};

/// "a {b}c" hides the b. @throws Error(kFormat) for braces that do not pair or hide nothing
DemoLine parse_demo_line(const std::string& marked);

/// Runs `folder`/mnist-perceiver and `folder`/byte-mlm-perceiver on what `folder`/demo/demo.json
/// lists.
/// @throws Error(kIo), Error(kFormat)
DemoReport run_demo(const std::filesystem::path& folder, const EngineChoice& choice = {},
                    const ProgressFn& progress = {});

/// One HTML page that needs nothing else: pictures and style inside, light and dark.
std::string demo_page(const DemoReport& report);

/// `picture` turned counter-clockwise about its centre, black where nothing was; bilinear.
io::Image turn_picture(const io::Image& picture, double degrees);
/// `picture` with uniform noise: each sample becomes (1 - amount) x + amount * random. The same
/// every time for a seed.
io::Image add_noise(const io::Image& picture, double amount, uint64_t seed);

}  // namespace perceiver::tasks
