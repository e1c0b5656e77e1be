#include "kernels/attend_bench.h"

// How fast does the language encoder read 2,048 bytes, 8 heads, qk 32 and v 160?
static const bool kRegistered = [] {
  perceiver::kernels::register_attend("attend_encode_language", "q=256 k=2048 heads=8 qk=32 v=160");
  return true;
}();
