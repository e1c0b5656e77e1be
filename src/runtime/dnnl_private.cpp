#if defined(PERCEIVER_DNNL_PRIVATE)

// oneDNN beside LibTorch. LibTorch contains another version of oneDNN and exports some of its
// template instances (std::call_once of the GEMM's set-up among them). Linked as usual, the dynamic
// linker would give our oneDNN those instead of its own: its GEMM would set up LibTorch's tables
// and find its own empty. So the library is loaded here with its own symbols first, and the C
// functions that dnnl.hpp calls are defined below as calls into it. A function that is missing
// below does not link.

#include <cstddef>
#include <dlfcn.h>
#include <dnnl.hpp>
#include <tuple>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"

namespace {

#define PERCEIVER_TEXT_OF(value) #value
#define PERCEIVER_TEXT(value) PERCEIVER_TEXT_OF(value)
constexpr const char* kLibrary = "libdnnl.so." PERCEIVER_TEXT(DNNL_VERSION_MAJOR);

void* open(const char* library) {
  // It shares the OpenMP pool that is loaded already. It is never unloaded: its threads' local data
  // may be used until the end.
  return ::dlopen(library, RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND | RTLD_NODELETE);
}

void* load() {
  void* library = open(kLibrary);
  if (library == nullptr) {
    library = open(PERCEIVER_DNNL_PRIVATE);  // where it was when this was built
  }
  if (library == nullptr) {
    const char* reason = ::dlerror();
    throw perceiver::Error(
        perceiver::ErrorCode::kUnsupported,
        perceiver::cat("oneDNN can't be loaded: ", reason == nullptr ? kLibrary : reason));
  }
  return library;
}

void* find(const char* name) {
  static void* const library = load();
  void* function = ::dlsym(library, name);
  if (function == nullptr) {
    throw perceiver::Error(perceiver::ErrorCode::kUnsupported,
                           perceiver::cat(kLibrary, " has no function ", name));
  }
  return function;
}

template <typename Function>
struct Signature;
template <typename Returned, typename... Arguments>
struct Signature<Returned(Arguments...)> {
  using Result = Returned;
  template <size_t kIndex>
  using Argument = std::tuple_element_t<kIndex, std::tuple<Arguments...>>;
};

}  // namespace

#define PERCEIVER_ARGUMENT(name, i) Signature<decltype(::name)>::Argument<i>
#define PERCEIVER_FORWARD(name, parameters, arguments)                             \
  extern "C" Signature<decltype(::name)>::Result name parameters {                 \
    static const auto function = reinterpret_cast<decltype(&::name)>(find(#name)); \
    return function arguments;                                                     \
  }
#define PERCEIVER_FORWARD_1(name) PERCEIVER_FORWARD(name, (PERCEIVER_ARGUMENT(name, 0) a), (a))
#define PERCEIVER_FORWARD_2(name) \
  PERCEIVER_FORWARD(name, (PERCEIVER_ARGUMENT(name, 0) a, PERCEIVER_ARGUMENT(name, 1) b), (a, b))
#define PERCEIVER_FORWARD_3(name)                                                  \
  PERCEIVER_FORWARD(name,                                                          \
                    (PERCEIVER_ARGUMENT(name, 0) a, PERCEIVER_ARGUMENT(name, 1) b, \
                     PERCEIVER_ARGUMENT(name, 2) c),                               \
                    (a, b, c))
#define PERCEIVER_FORWARD_4(name)                                                   \
  PERCEIVER_FORWARD(name,                                                           \
                    (PERCEIVER_ARGUMENT(name, 0) a, PERCEIVER_ARGUMENT(name, 1) b,  \
                     PERCEIVER_ARGUMENT(name, 2) c, PERCEIVER_ARGUMENT(name, 3) d), \
                    (a, b, c, d))
#define PERCEIVER_FORWARD_5(name)                                                  \
  PERCEIVER_FORWARD(name,                                                          \
                    (PERCEIVER_ARGUMENT(name, 0) a, PERCEIVER_ARGUMENT(name, 1) b, \
                     PERCEIVER_ARGUMENT(name, 2) c, PERCEIVER_ARGUMENT(name, 3) d, \
                     PERCEIVER_ARGUMENT(name, 4) e),                               \
                    (a, b, c, d, e))
#define PERCEIVER_FORWARD_6(name)                                                   \
  PERCEIVER_FORWARD(name,                                                           \
                    (PERCEIVER_ARGUMENT(name, 0) a, PERCEIVER_ARGUMENT(name, 1) b,  \
                     PERCEIVER_ARGUMENT(name, 2) c, PERCEIVER_ARGUMENT(name, 3) d,  \
                     PERCEIVER_ARGUMENT(name, 4) e, PERCEIVER_ARGUMENT(name, 5) f), \
                    (a, b, c, d, e, f))
#define PERCEIVER_FORWARD_10(name)                                                  \
  PERCEIVER_FORWARD(name,                                                           \
                    (PERCEIVER_ARGUMENT(name, 0) a, PERCEIVER_ARGUMENT(name, 1) b,  \
                     PERCEIVER_ARGUMENT(name, 2) c, PERCEIVER_ARGUMENT(name, 3) d,  \
                     PERCEIVER_ARGUMENT(name, 4) e, PERCEIVER_ARGUMENT(name, 5) f,  \
                     PERCEIVER_ARGUMENT(name, 6) g, PERCEIVER_ARGUMENT(name, 7) h,  \
                     PERCEIVER_ARGUMENT(name, 8) i, PERCEIVER_ARGUMENT(name, 9) j), \
                    (a, b, c, d, e, f, g, h, i, j))

PERCEIVER_FORWARD_10(dnnl_convolution_forward_desc_init)
PERCEIVER_FORWARD_10(dnnl_deconvolution_forward_desc_init)
PERCEIVER_FORWARD_3(dnnl_engine_create)
PERCEIVER_FORWARD_1(dnnl_engine_destroy)
PERCEIVER_FORWARD_5(dnnl_matmul_desc_init)
PERCEIVER_FORWARD_4(dnnl_memory_create)
PERCEIVER_FORWARD_1(dnnl_memory_desc_get_size)
PERCEIVER_FORWARD_5(dnnl_memory_desc_init_by_strides)
PERCEIVER_FORWARD_5(dnnl_memory_desc_init_by_tag)
PERCEIVER_FORWARD_1(dnnl_memory_destroy)
PERCEIVER_FORWARD_2(dnnl_memory_get_engine)
PERCEIVER_FORWARD_2(dnnl_memory_get_memory_desc)
PERCEIVER_FORWARD_3(dnnl_memory_set_data_handle_v2)
PERCEIVER_FORWARD_5(dnnl_post_ops_append_eltwise)
PERCEIVER_FORWARD_2(dnnl_post_ops_append_sum)
PERCEIVER_FORWARD_1(dnnl_post_ops_create)
PERCEIVER_FORWARD_1(dnnl_post_ops_destroy)
PERCEIVER_FORWARD_1(dnnl_primitive_attr_create)
PERCEIVER_FORWARD_1(dnnl_primitive_attr_destroy)
PERCEIVER_FORWARD_2(dnnl_primitive_attr_set_post_ops)
PERCEIVER_FORWARD_2(dnnl_primitive_attr_set_scratchpad_mode)
PERCEIVER_FORWARD_2(dnnl_primitive_create)
PERCEIVER_FORWARD_1(dnnl_primitive_desc_destroy)
PERCEIVER_FORWARD_5(dnnl_primitive_desc_iterator_create)
PERCEIVER_FORWARD_1(dnnl_primitive_desc_iterator_destroy)
PERCEIVER_FORWARD_1(dnnl_primitive_desc_iterator_fetch)
PERCEIVER_FORWARD_4(dnnl_primitive_desc_query)
PERCEIVER_FORWARD_3(dnnl_primitive_desc_query_md)
PERCEIVER_FORWARD_1(dnnl_primitive_destroy)
PERCEIVER_FORWARD_4(dnnl_primitive_execute)
PERCEIVER_FORWARD_6(dnnl_reorder_primitive_desc_create)
PERCEIVER_FORWARD_3(dnnl_stream_create)
PERCEIVER_FORWARD_1(dnnl_stream_destroy)
PERCEIVER_FORWARD_1(dnnl_stream_wait)

extern "C" dnnl_status_t dnnl_sgemm(char transposed_a, char transposed_b, dnnl_dim_t m,
                                    dnnl_dim_t n, dnnl_dim_t k, float alpha, const float* a,
                                    dnnl_dim_t lda, const float* b, dnnl_dim_t ldb, float beta,
                                    float* c, dnnl_dim_t ldc) {
  static const auto function = reinterpret_cast<decltype(&::dnnl_sgemm)>(find("dnnl_sgemm"));
  return function(transposed_a, transposed_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

#endif  // PERCEIVER_DNNL_PRIVATE
