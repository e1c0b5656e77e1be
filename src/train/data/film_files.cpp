#include <algorithm>

#include "perceiver/base/str.h"
#include "perceiver/io/video.h"
#include "perceiver/tokens/video_processor.h"
#include "train/data/films.h"

namespace perceiver::train {

FilmFiles::FilmFiles(std::vector<LabelledFile> files, const std::optional<ClassNames>& names,
                     const Options& options)
    : files_(std::move(files)), options_(options), cache_(options.cache_bytes) {
  for (const LabelledFile& file : files_) {
    classes_.push_back(names ? names->parse(file.label, printable(file.path.string()))
                             : std::vector<int64_t>());
  }
}

double FilmFiles::seconds_of(int64_t film) {
  {
    const std::lock_guard lock(mutex_);
    const auto known = seconds_.find(film);
    if (known != seconds_.end()) {
      return known->second;
    }
  }
  const double seconds = io::probe_video(files_[static_cast<size_t>(film)].path).seconds;
  const std::lock_guard lock(mutex_);
  seconds_[film] = seconds;
  return seconds;
}

// The last frame of a film begins before its end: a clip starts that much earlier.
double FilmFiles::start_of(int64_t film, int64_t clip) {
  const tasks::ClipShape& shape = options_.shape;
  const double length =
      std::max(static_cast<double>(shape.frames) / options_.frames_per_second,
               static_cast<double>(shape.samples) / static_cast<double>(shape.sample_rate));
  const double room = std::max(0.0, seconds_of(film) - length - 1 / options_.frames_per_second);
  return options_.clips == 1
             ? room / 2
             : room * static_cast<double>(clip) / static_cast<double>(options_.clips - 1);
}

std::shared_ptr<const FilmClip> FilmFiles::read(int64_t film, int64_t clip) {
  const auto decode = [&] {
    tasks::ReadClipOptions reading;
    reading.start_seconds = start_of(film, clip);
    reading.frames_per_second = options_.frames_per_second;
    const tasks::Clip read =
        tasks::read_clip(options_.shape, files_[static_cast<size_t>(film)].path, reading);
    FilmClip made;
    if (read.frames.defined()) {
      made.frames = tokens::frames_to_bytes(read.frames);  // exact: they were levels / 255
    }
    made.audio = read.audio;
    return made;
  };
  return cache_.get(film * options_.clips + clip, decode,
                    [](const FilmClip& made) { return made.nbytes(); });
}

}  // namespace perceiver::train
