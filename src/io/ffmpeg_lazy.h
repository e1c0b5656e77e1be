#pragma once

extern "C" {
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/crc.h>
#include <libavutil/display.h>
#include <libavutil/frame.h>
#include <libavutil/imgutils.h>
#include <libavutil/opt.h>
#include <libavutil/pixdesc.h>
#include <libswresample/swresample.h>
#include <libswscale/swscale.h>
}

#include <atomic>

// FFmpeg's functions, each found when it is first called. Debian's FFmpeg brings more than a
// hundred libraries; a program that links them spends forty milliseconds on loading them even if it
// never sees a picture. Inside perceiver::io the objects below hide FFmpeg's functions of the same
// names, so callers write calls as usual. A function that is not listed does not link.

namespace perceiver::io {

enum class FfmpegLibrary { kAvutil, kAvcodec, kAvformat, kSwscale, kSwresample };

/// @throws Error(kUnsupported) naming the library when it, or the function in it, is missing
void* ffmpeg_function(FfmpegLibrary library, const char* name);

template <typename Function>
class LazyFunction;

template <typename Result, typename... Arguments>
class LazyFunction<Result(Arguments...)> {
 public:
  constexpr LazyFunction(FfmpegLibrary library, const char* name)
      : library_(library), name_(name) {}

  Result operator()(Arguments... arguments) const {
    auto* function = found_.load(std::memory_order_acquire);
    if (function == nullptr) {
      function = reinterpret_cast<Pointer>(ffmpeg_function(library_, name_));
      found_.store(function, std::memory_order_release);
    }
    return function(arguments...);
  }

 private:
  using Pointer = Result (*)(Arguments...);
  FfmpegLibrary library_;
  const char* name_;
  mutable std::atomic<Pointer> found_{nullptr};
};

// The headers' hints to the optimiser (alloc_size and the like) are no part of a function's type.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wignored-attributes"
#define PERCEIVER_FFMPEG(library, name) \
  inline constinit const LazyFunction<decltype(::name)> name(FfmpegLibrary::library, #name);

PERCEIVER_FFMPEG(kAvutil, av_channel_layout_copy)
PERCEIVER_FFMPEG(kAvutil, av_channel_layout_default)
PERCEIVER_FFMPEG(kAvutil, av_crc)
PERCEIVER_FFMPEG(kAvutil, av_crc_get_table)
PERCEIVER_FFMPEG(kAvutil, av_d2q)
PERCEIVER_FFMPEG(kAvutil, av_dict_free)
PERCEIVER_FFMPEG(kAvutil, av_dict_set)
PERCEIVER_FFMPEG(kAvutil, av_dict_set_int)
PERCEIVER_FFMPEG(kAvutil, av_frame_alloc)
PERCEIVER_FFMPEG(kAvutil, av_frame_free)
PERCEIVER_FFMPEG(kAvutil, av_frame_get_buffer)
PERCEIVER_FFMPEG(kAvutil, av_frame_make_writable)
PERCEIVER_FFMPEG(kAvutil, av_free)
PERCEIVER_FFMPEG(kAvutil, av_freep)
PERCEIVER_FFMPEG(kAvutil, av_log_set_callback)
PERCEIVER_FFMPEG(kAvutil, av_malloc)
PERCEIVER_FFMPEG(kAvutil, av_opt_set)
PERCEIVER_FFMPEG(kAvutil, av_pix_fmt_desc_get)
PERCEIVER_FFMPEG(kAvutil, av_rescale_q)
PERCEIVER_FFMPEG(kAvutil, av_strerror)
PERCEIVER_FFMPEG(kAvcodec, av_new_packet)
PERCEIVER_FFMPEG(kAvcodec, av_packet_alloc)
PERCEIVER_FFMPEG(kAvcodec, av_packet_free)
PERCEIVER_FFMPEG(kAvcodec, av_packet_rescale_ts)
PERCEIVER_FFMPEG(kAvcodec, av_packet_unref)
PERCEIVER_FFMPEG(kAvcodec, avcodec_alloc_context3)
PERCEIVER_FFMPEG(kAvcodec, avcodec_default_get_buffer2)
PERCEIVER_FFMPEG(kAvcodec, avcodec_find_decoder)
PERCEIVER_FFMPEG(kAvcodec, avcodec_find_encoder)
PERCEIVER_FFMPEG(kAvcodec, avcodec_find_encoder_by_name)
PERCEIVER_FFMPEG(kAvcodec, avcodec_free_context)
PERCEIVER_FFMPEG(kAvcodec, avcodec_get_name)
PERCEIVER_FFMPEG(kAvcodec, avcodec_open2)
PERCEIVER_FFMPEG(kAvcodec, avcodec_parameters_from_context)
PERCEIVER_FFMPEG(kAvcodec, avcodec_parameters_to_context)
PERCEIVER_FFMPEG(kAvcodec, avcodec_receive_frame)
PERCEIVER_FFMPEG(kAvcodec, avcodec_receive_packet)
PERCEIVER_FFMPEG(kAvcodec, avcodec_send_frame)
PERCEIVER_FFMPEG(kAvcodec, avcodec_send_packet)
PERCEIVER_FFMPEG(kAvformat, av_find_best_stream)
PERCEIVER_FFMPEG(kAvformat, av_find_input_format)
PERCEIVER_FFMPEG(kAvformat, av_interleaved_write_frame)
PERCEIVER_FFMPEG(kAvformat, av_read_frame)
PERCEIVER_FFMPEG(kAvformat, av_stream_get_side_data)
PERCEIVER_FFMPEG(kAvformat, av_write_trailer)
PERCEIVER_FFMPEG(kAvformat, avformat_alloc_context)
PERCEIVER_FFMPEG(kAvformat, avformat_alloc_output_context2)
PERCEIVER_FFMPEG(kAvformat, avformat_close_input)
PERCEIVER_FFMPEG(kAvformat, avformat_find_stream_info)
PERCEIVER_FFMPEG(kAvformat, avformat_free_context)
PERCEIVER_FFMPEG(kAvformat, avformat_new_stream)
PERCEIVER_FFMPEG(kAvformat, avformat_open_input)
PERCEIVER_FFMPEG(kAvformat, avformat_seek_file)
PERCEIVER_FFMPEG(kAvformat, avformat_write_header)
PERCEIVER_FFMPEG(kAvformat, avio_alloc_context)
PERCEIVER_FFMPEG(kAvformat, avio_close_dyn_buf)
PERCEIVER_FFMPEG(kAvformat, avio_context_free)
PERCEIVER_FFMPEG(kAvformat, avio_open_dyn_buf)
PERCEIVER_FFMPEG(kSwscale, sws_freeContext)
PERCEIVER_FFMPEG(kSwscale, sws_getCoefficients)
PERCEIVER_FFMPEG(kSwscale, sws_getContext)
PERCEIVER_FFMPEG(kSwscale, sws_scale)
PERCEIVER_FFMPEG(kSwscale, sws_setColorspaceDetails)
PERCEIVER_FFMPEG(kSwresample, swr_alloc_set_opts2)
PERCEIVER_FFMPEG(kSwresample, swr_convert)
PERCEIVER_FFMPEG(kSwresample, swr_free)
PERCEIVER_FFMPEG(kSwresample, swr_get_out_samples)
PERCEIVER_FFMPEG(kSwresample, swr_init)

#undef PERCEIVER_FFMPEG
#pragma GCC diagnostic pop

}  // namespace perceiver::io
