# oneDNN as one imported target, Perceiver::dnnl. Also installed: PerceiverConfig.cmake uses it.
#
# Found through dnnl_DIR, DNNL_ROOT or CMAKE_PREFIX_PATH. The package file that oneDNN installs is not
# used: Debian's also demands OpenCL's headers, for GPUs, which nothing here needs.
include_guard(GLOBAL)

set(PERCEIVER_DNNL_OLDEST 2.6)
find_path(PERCEIVER_DNNL_INCLUDE oneapi/dnnl/dnnl.hpp
  HINTS "${dnnl_DIR}/../../.." "${dnnl_DIR}/../../../.." ENV dnnl_DIR PATH_SUFFIXES include)
find_library(PERCEIVER_DNNL_LIBRARY dnnl HINTS "${dnnl_DIR}/../.." ENV dnnl_DIR)
if(NOT PERCEIVER_DNNL_INCLUDE OR NOT PERCEIVER_DNNL_LIBRARY)
  message(FATAL_ERROR "oneDNN ${PERCEIVER_DNNL_OLDEST} or newer was not found. Run `make setup`, or "
    "install libdnnl-dev, or name its folder in CMAKE_PREFIX_PATH")
endif()
file(STRINGS "${PERCEIVER_DNNL_INCLUDE}/oneapi/dnnl/dnnl_version.h" _perceiver_dnnl_version
  REGEX "#define DNNL_VERSION_(MAJOR|MINOR|PATCH) ")
list(TRANSFORM _perceiver_dnnl_version REPLACE "[^0-9]+" "")
list(JOIN _perceiver_dnnl_version "." PERCEIVER_DNNL_VERSION)
if(PERCEIVER_DNNL_VERSION VERSION_LESS PERCEIVER_DNNL_OLDEST)
  message(FATAL_ERROR "oneDNN ${PERCEIVER_DNNL_VERSION} in ${PERCEIVER_DNNL_INCLUDE} is older than "
    "${PERCEIVER_DNNL_OLDEST}")
endif()
add_library(Perceiver::dnnl INTERFACE IMPORTED)
set_target_properties(Perceiver::dnnl PROPERTIES
  INTERFACE_INCLUDE_DIRECTORIES "${PERCEIVER_DNNL_INCLUDE}"
  INTERFACE_SYSTEM_INCLUDE_DIRECTORIES "${PERCEIVER_DNNL_INCLUDE}")
if(PERCEIVER_TORCH OR PERCEIVER_WITH_TORCH)
  # LibTorch exports parts of an oneDNN of its own: ours is loaded apart (src/runtime/dnnl_private.cpp)
  set_target_properties(Perceiver::dnnl PROPERTIES
    INTERFACE_COMPILE_DEFINITIONS "PERCEIVER_DNNL_PRIVATE=\"${PERCEIVER_DNNL_LIBRARY}\""
    INTERFACE_LINK_LIBRARIES "${CMAKE_DL_LIBS}")
else()
  set_target_properties(Perceiver::dnnl PROPERTIES
    INTERFACE_LINK_LIBRARIES "${PERCEIVER_DNNL_LIBRARY}")
endif()
message(STATUS "oneDNN ${PERCEIVER_DNNL_VERSION}: ${PERCEIVER_DNNL_LIBRARY}")
