#pragma once

// Everything a program needs that asks a Perceiver something:
//
//   auto model = perceiver::tasks::open_model("folder");              // spec, weights, engine
//   auto inputs = perceiver::io::read_safetensors("in.safetensors");  // names: tasks/forward.h
//   auto answers = perceiver::tasks::forward(*model.engine, inputs);
//
// No LibTorch header is included here. Link Perceiver::tasks.

#include "perceiver/base/array.h"
#include "perceiver/base/error.h"
#include "perceiver/io/safetensors.h"
#include "perceiver/spec/model_spec.h"
#include "perceiver/spec/presets.h"
#include "perceiver/tasks/bundle.h"
#include "perceiver/tasks/forward.h"
#include "perceiver/tasks/image.h"
#include "perceiver/tasks/sound.h"
#include "perceiver/tasks/text.h"
#include "perceiver/tokens/engine.h"
