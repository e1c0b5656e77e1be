# A room is one static library: src/<room>/**.cpp, private headers beside them, public headers in
# include/perceiver/<room>/.
function(perceiver_room room)
  cmake_parse_arguments(ARG "" "" "NEEDS;PRIVATE_NEEDS" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/src/${room}/*.cpp")
  set(target perceiver_${room})
  add_library(${target} STATIC ${sources})
  add_library(Perceiver::${room} ALIAS ${target})
  set_target_properties(${target} PROPERTIES EXPORT_NAME ${room} LINKER_LANGUAGE CXX)
  target_include_directories(${target}
    PUBLIC "$<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>" "$<INSTALL_INTERFACE:include>"
    PRIVATE "${PROJECT_SOURCE_DIR}/src")
  target_link_libraries(${target} PUBLIC ${ARG_NEEDS} PRIVATE ${ARG_PRIVATE_NEEDS}
    "$<BUILD_INTERFACE:perceiver_warnings>")
  set_property(GLOBAL APPEND PROPERTY PERCEIVER_ROOMS ${target})
endfunction()

function(perceiver_program name)
  cmake_parse_arguments(ARG "" "ROOM" "NEEDS" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/src/${ARG_ROOM}/*.cpp")
  add_executable(${name} ${sources})
  target_include_directories(${name} PRIVATE "${PROJECT_SOURCE_DIR}/src")
  target_link_libraries(${name} PRIVATE ${ARG_NEEDS} "$<BUILD_INTERFACE:perceiver_warnings>")
endfunction()
