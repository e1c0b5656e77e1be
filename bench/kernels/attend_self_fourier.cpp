#include "kernels/attend_bench.h"

// How fast do 512 latents of 8 heads of 128 attend to each other, as in the image models?
static const bool kRegistered = [] {
  perceiver::kernels::register_attend("attend_self_fourier", "q=512 k=512 heads=8 qk=128 v=128");
  return true;
}();
