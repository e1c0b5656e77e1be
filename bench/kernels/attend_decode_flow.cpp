#include "kernels/attend_bench.h"

// How fast are 368 x 496 flow queries answered by 2,048 latents? (an eighth of the queries)
static const bool kRegistered = [] {
  perceiver::kernels::register_attend("attend_decode_flow",
                                      "q=22816 k=2048 qk=65 v=322 grid=queries:368x496");
  return true;
}();
