#include "kernels/attend_bench.h"

// How fast do 2,048 latents of 16 heads of 32 attend to each other, as in the flow model?
static const bool kRegistered = [] {
  perceiver::kernels::register_attend("attend_self_flow", "q=2048 k=2048 heads=16 qk=32 v=32");
  return true;
}();
