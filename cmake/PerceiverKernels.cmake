# Flags of the kernels, one file per instruction set: src/kernels/<what>_<set>.cpp. Only these files
# may contain such instructions; src/kernels/dispatch.cpp decides whether they run.
# Always -O2: at -O3 GCC 12 spills the accumulators of the micro-kernel, below it nothing is inlined.
include_guard(GLOBAL)

set(PERCEIVER_AVX2_FLAGS -mavx2 -mfma)
set(PERCEIVER_AVX512_FLAGS -mavx512f -mavx512bw -mavx512vl -mavx512dq -mfma)
set(PERCEIVER_AVX512BF16_FLAGS ${PERCEIVER_AVX512_FLAGS} -mavx512bf16)
set(PERCEIVER_AMX_FLAGS ${PERCEIVER_AVX512BF16_FLAGS} -mamx-tile -mamx-bf16)
file(GLOB _perceiver_avx2 CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/src/kernels/*_avx2.cpp")
file(GLOB _perceiver_avx512 CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/src/kernels/*_avx512.cpp")
file(GLOB _perceiver_avx512bf16 CONFIGURE_DEPENDS
  "${PROJECT_SOURCE_DIR}/src/kernels/*_avx512bf16.cpp")
file(GLOB _perceiver_amx CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/src/kernels/*_amx.cpp")
file(GLOB _perceiver_portable CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/src/kernels/*_portable.cpp")
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64)$")
  set_source_files_properties(${_perceiver_avx2} PROPERTIES
    COMPILE_OPTIONS "-O2;-ffp-contract=fast;${PERCEIVER_AVX2_FLAGS}")
  set_source_files_properties(${_perceiver_avx512} PROPERTIES
    COMPILE_OPTIONS "-O2;-ffp-contract=fast;${PERCEIVER_AVX512_FLAGS}")
  set_source_files_properties(${_perceiver_avx512bf16} PROPERTIES
    COMPILE_OPTIONS "-O2;-ffp-contract=fast;${PERCEIVER_AVX512BF16_FLAGS}")
  set_source_files_properties(${_perceiver_amx} PROPERTIES
    COMPILE_OPTIONS "-O2;-ffp-contract=fast;${PERCEIVER_AMX_FLAGS}")
endif()
set_source_files_properties(${_perceiver_portable} PROPERTIES
  COMPILE_OPTIONS "-O2;-ffp-contract=fast")
