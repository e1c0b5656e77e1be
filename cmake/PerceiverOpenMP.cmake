# OpenMP as one imported target, Perceiver::openmp: our kernels, oneDNN and LibTorch share its pool.
# PERCEIVER_OPENMP_LIBRARY, when set, is the libgomp to link (PerceiverTorch.cmake: a wheel's own).
include_guard(GLOBAL)

find_package(OpenMP REQUIRED COMPONENTS CXX)
add_library(Perceiver::openmp INTERFACE IMPORTED)
if(PERCEIVER_OPENMP_LIBRARY)
  # at::parallel_for is a template: without -fopenmp in our own files it would quietly run serially
  target_compile_options(Perceiver::openmp INTERFACE
    "$<$<COMPILE_LANGUAGE:CXX>:${OpenMP_CXX_FLAGS}>")
  target_link_libraries(Perceiver::openmp INTERFACE "${PERCEIVER_OPENMP_LIBRARY}")
else()
  target_link_libraries(Perceiver::openmp INTERFACE OpenMP::OpenMP_CXX)
endif()
