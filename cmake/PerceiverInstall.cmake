# `cmake --install`: the program, the room libraries, the headers, the shipped models and recipes, and
# a package for find_package(Perceiver), whose targets are Perceiver::<room>.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(PERCEIVER_PACKAGE_DIR "${CMAKE_INSTALL_LIBDIR}/cmake/Perceiver")
get_property(_perceiver_rooms GLOBAL PROPERTY PERCEIVER_ROOMS)
list(TRANSFORM _perceiver_rooms PREPEND perceiver_ OUTPUT_VARIABLE _perceiver_targets)

install(TARGETS ${_perceiver_targets} EXPORT PerceiverTargets
  ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}")
if(TARGET perceiver)
  install(TARGETS perceiver RUNTIME DESTINATION "${CMAKE_INSTALL_BINDIR}")
endif()
install(EXPORT PerceiverTargets NAMESPACE Perceiver:: DESTINATION "${PERCEIVER_PACKAGE_DIR}")
foreach(_room IN LISTS _perceiver_rooms)
  install(DIRECTORY "${PROJECT_SOURCE_DIR}/include/perceiver/${_room}"
    DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}/perceiver" FILES_MATCHING PATTERN "*.h")
endforeach()
install(FILES "${PROJECT_SOURCE_DIR}/include/perceiver/perceiver.h"
  DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}/perceiver")
install(DIRECTORY models recipes DESTINATION "${CMAKE_INSTALL_DATADIR}/perceiver")

configure_package_config_file(cmake/PerceiverConfig.cmake.in
  "${CMAKE_CURRENT_BINARY_DIR}/PerceiverConfig.cmake"
  INSTALL_DESTINATION "${PERCEIVER_PACKAGE_DIR}")
write_basic_package_version_file("${CMAKE_CURRENT_BINARY_DIR}/PerceiverConfigVersion.cmake"
  COMPATIBILITY SameMinorVersion)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/PerceiverConfig.cmake"
  "${CMAKE_CURRENT_BINARY_DIR}/PerceiverConfigVersion.cmake"
  cmake/PerceiverTorch.cmake cmake/PerceiverOpenMP.cmake cmake/PerceiverDnnl.cmake
  DESTINATION "${PERCEIVER_PACKAGE_DIR}")
