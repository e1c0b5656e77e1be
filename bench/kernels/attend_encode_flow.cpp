#include "kernels/attend_bench.h"

// How fast does the flow encoder read 368 x 496 tokens whose positions are factored out?
static const bool kRegistered = [] {
  perceiver::kernels::register_attend("attend_encode_flow",
                                      "q=2048 k=182528 qk=65 v=65 grid=keys:368x496");
  return true;
}();
