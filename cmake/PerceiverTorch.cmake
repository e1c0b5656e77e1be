# LibTorch as one imported target, Perceiver::torch. Also installed: PerceiverConfig.cmake uses it.
#
# Found through Torch_DIR, CMAKE_PREFIX_PATH (both as -D or from the environment), PERCEIVER_TORCH_HINT,
# or the virtual environment that `make setup` fills; a CPU or a CUDA LibTorch of 2.11 to 2.13.
#
# TorchConfig.cmake itself is not used: on a CUDA LibTorch it demands a CUDA toolkit, which code that
# contains no CUDA does not need, and it puts warning flags and macros of its own on every user.
include_guard(GLOBAL)

file(GLOB _perceiver_venv_torch
  "${CMAKE_BINARY_DIR}/venv/lib/python3*/site-packages/torch/share/cmake/Torch")
find_path(PERCEIVER_TORCH_CONFIG TorchConfig.cmake
  HINTS "${Torch_DIR}" "$ENV{Torch_DIR}"
  PATHS ${_perceiver_venv_torch} "${PERCEIVER_TORCH_HINT}"
  PATH_SUFFIXES share/cmake/Torch Torch
  DOC "The folder of LibTorch's TorchConfig.cmake")
if(NOT PERCEIVER_TORCH_CONFIG)
  message(FATAL_ERROR "LibTorch was not found. Run `make setup`, or give -DTorch_DIR=<folder of "
    "TorchConfig.cmake>, or build without it: -DPERCEIVER_TORCH=OFF")
endif()
get_filename_component(_perceiver_torch_root "${PERCEIVER_TORCH_CONFIG}/../../.." ABSOLUTE)

set(PACKAGE_VERSION unknown)
include("${PERCEIVER_TORCH_CONFIG}/TorchConfigVersion.cmake" OPTIONAL)
set(PERCEIVER_TORCH_VERSION "${PACKAGE_VERSION}")
unset(PACKAGE_VERSION)
if(PERCEIVER_TORCH_VERSION VERSION_LESS 2.11 OR PERCEIVER_TORCH_VERSION VERSION_GREATER_EQUAL 2.14)
  message(WARNING "LibTorch ${PERCEIVER_TORCH_VERSION} in ${_perceiver_torch_root}; 2.11 to 2.13 are "
    "the versions Perceiver is tested with")
endif()
foreach(_library c10 torch_cpu)
  if(NOT EXISTS "${_perceiver_torch_root}/lib/lib${_library}.so")
    message(FATAL_ERROR "LibTorch in ${_perceiver_torch_root} has no lib/lib${_library}.so")
  endif()
endforeach()

# A wheel brings its own libgomp; the compiler's beside it would hide one of the two.
if(EXISTS "${_perceiver_torch_root}/lib/libgomp.so.1")
  set(PERCEIVER_OPENMP_LIBRARY "${_perceiver_torch_root}/lib/libgomp.so.1")
endif()
include("${CMAKE_CURRENT_LIST_DIR}/PerceiverOpenMP.cmake")
add_library(Perceiver::torch INTERFACE IMPORTED)
set_target_properties(Perceiver::torch PROPERTIES
  # headers that LibTorch offers both whole and per operator then take the small form
  INTERFACE_COMPILE_DEFINITIONS AT_PER_OPERATOR_HEADERS
  INTERFACE_INCLUDE_DIRECTORIES "${_perceiver_torch_root}/include"
  INTERFACE_SYSTEM_INCLUDE_DIRECTORIES "${_perceiver_torch_root}/include")
# CUDA kernels register themselves when their library is loaded, and nothing refers to it by name.
# Its own needs (the CUDA runtime) are found by LibTorch's run path, not by our linker.
if(EXISTS "${_perceiver_torch_root}/lib/libtorch_cuda.so")
  set(PERCEIVER_TORCH_CUDA ON)
  target_link_libraries(Perceiver::torch INTERFACE
    "-Wl,--no-as-needed,${_perceiver_torch_root}/lib/libtorch_cuda.so,--as-needed"
    -Wl,--allow-shlib-undefined)
else()
  set(PERCEIVER_TORCH_CUDA OFF)
endif()
target_link_libraries(Perceiver::torch INTERFACE
  "${_perceiver_torch_root}/lib/libtorch_cpu.so" "${_perceiver_torch_root}/lib/libc10.so"
  Perceiver::openmp)
set(PERCEIVER_TORCH_LIBRARY_DIR "${_perceiver_torch_root}/lib")
message(STATUS "LibTorch ${PERCEIVER_TORCH_VERSION}, CUDA ${PERCEIVER_TORCH_CUDA}: "
  "${_perceiver_torch_root}")
