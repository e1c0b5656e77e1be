#include "train/tasks/audio_video_roles.h"

#include "perceiver/base/array.h"
#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "train/task.h"

namespace perceiver::train {
namespace {

template <typename... Parts>
[[noreturn]] void refuse(const Parts&... parts) {
  throw Error(ErrorCode::kArgument, cat("audio_video: ", parts...));
}

template <typename Part>
void take(std::optional<Part>& role, const Part& part, const char* what) {
  if (role) {
    refuse(printable(role->name), " and ", printable(part.name), " are both ", what);
  }
  role = part;
}

bool is_film(const std::vector<int64_t>& extents, int64_t channels) {
  return extents.size() == 3 && channels == 3 && extents[1] == extents[2];
}

void take_input(const InputSpec& input, AudioVideoRoles& roles) {
  const bool grid = input.kind == InputKind::kGrid;
  if (grid && is_film(input.index_dims, input.channels)) {
    take(roles.video_in, input, "film");
    roles.shape.frames = input.index_dims[0];
    roles.shape.size = input.index_dims[1];
  } else if (grid && input.index_dims.size() == 1 && input.channels == 1) {
    take(roles.audio_in, input, "sound");
    roles.shape.samples = input.index_dims[0];
  } else if (input.kind == InputKind::kLabel) {
    take(roles.label_in, input, "labels");
    roles.classes = input.channels;
  } else {
    refuse("input ", printable(input.name), " ", shape_string(input.index_dims), " of ",
           input.channels,
           " channel(s) is neither film [frames, side, side] of 3, nor sound [samples] of 1, nor "
           "a label");
  }
}

void take_video_output(const OutputSpec& output, AudioVideoRoles& roles) {
  std::vector<int64_t> extents = output.index_dims;
  if (output.head == HeadKind::kDepthToSpace) {
    for (size_t axis = 0; axis < extents.size() && axis < output.head_factors.size(); ++axis) {
      extents[axis] *= output.head_factors[axis];
    }
  }
  take(roles.video_out, output, "film");
  const bool known = roles.shape.frames > 0;
  if (known && (extents[0] != roles.shape.frames || extents[1] != roles.shape.size)) {
    refuse("output ", printable(output.name), " is a film of ", shape_string(extents),
           ", the input is one of ",
           shape_string({roles.shape.frames, roles.shape.size, roles.shape.size}));
  }
  roles.shape.frames = extents[0];
  roles.shape.size = extents[1];
}

void take_audio_output(const OutputSpec& output, int64_t width, AudioVideoRoles& roles) {
  take(roles.audio_out, output, "sound");
  const int64_t samples = output.index_dims[0] * width;
  if (roles.shape.samples > 0 && samples != roles.shape.samples) {
    refuse("output ", printable(output.name), " is ", output.index_dims[0], " rows of ", width,
           " samples, the input has ", roles.shape.samples);
  }
  roles.shape.samples = samples;
  roles.audio_row = width;
}

void take_output(const ModelSpec& model, const OutputSpec& output, AudioVideoRoles& roles) {
  const int64_t width = output_width(model, output);
  if (output.single_row || model.decoder.kind == DecoderKind::kProjection) {
    take(roles.label_out, output, "labels");
    if (roles.classes > 0 && roles.classes != width) {
      refuse("output ", printable(output.name), " tells ", width, " classes, the input ",
             roles.classes);
    }
    roles.classes = width;
  } else if (is_film(output.index_dims, width)) {
    take_video_output(output, roles);
  } else if (output.index_dims.size() == 1) {
    take_audio_output(output, width, roles);
  } else {
    refuse("output ", printable(output.name), " ", shape_string(output.index_dims), " of ", width,
           " channel(s) is neither film [frames, side, side] of 3, nor sound [rows], nor one row "
           "of classes");
  }
}

}  // namespace

AudioVideoRoles audio_video_roles(const ModelSpec& model) {
  AudioVideoRoles roles;
  roles.shape.frames = roles.shape.size = roles.shape.samples = 0;
  for (const InputSpec& input : model.inputs) {
    take_input(input, roles);
  }
  for (const OutputSpec& output : model.outputs) {
    take_output(model, output, roles);
  }
  if (!roles.video_in && !roles.audio_in) {
    refuse("the model reads neither film nor sound");
  }
  if (roles.shape.frames == 0) {
    refuse("no film among inputs and outputs; sound alone is the task audio_classification");
  }
  return roles;
}

}  // namespace perceiver::train
