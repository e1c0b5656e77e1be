# Sets PERCEIVER_NCCL and PERCEIVER_NCCL_INCLUDES: the headers of NCCL and of the CUDA libraries that
# LibTorch's NCCL backend names in its own header. Beside a LibTorch from pip lie those of the packages
# it needs; otherwise they are looked for where CUDA is installed. Nothing of them is linked.
set(PERCEIVER_NCCL OFF)
if(NOT PERCEIVER_TORCH_CUDA)
  return()
endif()
file(GLOB _perceiver_nvidia "${PERCEIVER_TORCH_LIBRARY_DIR}/../../nvidia/*/include")
set(PERCEIVER_NCCL_INCLUDES "")
foreach(_header nccl cuda_runtime_api crt/host_config cublas_v2 cusparse cusolverDn)
  string(MAKE_C_IDENTIFIER "PERCEIVER_${_header}_INCLUDE" _variable)
  string(TOUPPER "${_variable}" _variable)
  find_path(${_variable} ${_header}.h HINTS ${_perceiver_nvidia} PATHS /usr/local/cuda/include
    DOC "Folder of ${_header}.h, for training on several GPUs by NCCL")
  if(NOT ${_variable})
    message(STATUS "${_header}.h was not found: several GPUs add gradients through the host, by Gloo")
    return()
  endif()
  list(APPEND PERCEIVER_NCCL_INCLUDES "${${_variable}}")
endforeach()
list(REMOVE_DUPLICATES PERCEIVER_NCCL_INCLUDES)
set(PERCEIVER_NCCL ON)
message(STATUS "NCCL: ${PERCEIVER_NCCL_INCLUDE}")
