#include "io/ffmpeg_lazy.h"

#include <array>
#include <dlfcn.h>
#include <mutex>
#include <string>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"

namespace perceiver::io {
namespace {

/// The version whose headers we were compiled with: its structures are the ones we read.
std::string file_name(FfmpegLibrary library) {
  switch (library) {
    case FfmpegLibrary::kAvutil:
      return cat("libavutil.so.", LIBAVUTIL_VERSION_MAJOR);
    case FfmpegLibrary::kAvcodec:
      return cat("libavcodec.so.", LIBAVCODEC_VERSION_MAJOR);
    case FfmpegLibrary::kAvformat:
      return cat("libavformat.so.", LIBAVFORMAT_VERSION_MAJOR);
    case FfmpegLibrary::kSwscale:
      return cat("libswscale.so.", LIBSWSCALE_VERSION_MAJOR);
    case FfmpegLibrary::kSwresample:
      return cat("libswresample.so.", LIBSWRESAMPLE_VERSION_MAJOR);
  }
  return "";
}

}  // namespace

void* ffmpeg_function(FfmpegLibrary library, const char* name) {
  static std::mutex mutex;
  static std::array<void*, 5> handles{};  // never closed: FFmpeg keeps threads and caches
  const std::lock_guard<std::mutex> lock(mutex);
  void*& handle = handles[static_cast<size_t>(library)];
  if (handle == nullptr) {
    handle = ::dlopen(file_name(library).c_str(), RTLD_LAZY | RTLD_LOCAL);
  }
  void* function = handle == nullptr ? nullptr : ::dlsym(handle, name);
  if (function == nullptr) {
    const char* problem = ::dlerror();
    throw Error(ErrorCode::kUnsupported,
                cat("pictures, sound and video need FFmpeg's ", file_name(library), ": ",
                    problem == nullptr ? name : problem));
  }
  return function;
}

}  // namespace perceiver::io
