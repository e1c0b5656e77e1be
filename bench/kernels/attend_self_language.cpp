#include "kernels/attend_bench.h"

// How fast do 256 latents of 8 heads attend to each other, qk 32 and v 160?
static const bool kRegistered = [] {
  perceiver::kernels::register_attend("attend_self_language", "q=256 k=256 heads=8 qk=32 v=160");
  return true;
}();
