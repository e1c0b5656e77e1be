# The sources of a folder but for some file names.
function(perceiver_sources result folder without)
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS "${folder}/*.cpp")
  list(TRANSFORM without PREPEND "${folder}/")
  list(REMOVE_ITEM sources ${without})
  set(${result} "${sources}" PARENT_SCOPE)
endfunction()

# Where the build is there to be run soon (PERCEIVER_UNITY) these rooms are compiled several files at
# once: what the files all include is then parsed, instantiated and optimised once. Not the kernels,
# whose files have flags of their own, and not the rooms that need LibTorch.
set(PERCEIVER_UNITY_ROOMS base spec io tokens runtime tasks cli)
set(PERCEIVER_UNITY_FILES 10)  # at once; more is less work in all, but less for each processor
function(perceiver_unity target room)
  if(PERCEIVER_UNITY AND room IN_LIST PERCEIVER_UNITY_ROOMS)
    set_target_properties(${target} PROPERTIES UNITY_BUILD ON
      UNITY_BUILD_BATCH_SIZE ${PERCEIVER_UNITY_FILES})
    # GCC takes the files for headers, where classes must not hold what is in an unnamed namespace.
    target_compile_options(${target} PRIVATE -Wno-subobject-linkage)
  endif()
endfunction()

# What these do takes milliseconds of a run, but at -O2 a third longer to compile.
set(PERCEIVER_COLD_ROOMS spec cli)
function(perceiver_cold target room)
  if(PROJECT_IS_TOP_LEVEL AND room IN_LIST PERCEIVER_COLD_ROOMS)
    target_compile_options(${target} PRIVATE $<$<CONFIG:Release>:-O1>)
  endif()
endfunction()

# A room is one static library: src/<room>/**.cpp, private headers beside them, public headers in
# include/perceiver/<room>/. A room without sources yet is an INTERFACE library of its headers.
#
#   perceiver_room(<room> NEEDS <targets...> [PRIVATE_NEEDS <targets...>] [WITHOUT <files...>])
function(perceiver_room room)
  cmake_parse_arguments(ARG "" "" "NEEDS;PRIVATE_NEEDS;WITHOUT" ${ARGN})
  set(target perceiver_${room})
  perceiver_sources(sources "${PROJECT_SOURCE_DIR}/src/${room}" "${ARG_WITHOUT}")
  if(sources)
    set(scope PUBLIC)
    add_library(${target} STATIC ${sources})
    set_target_properties(${target} PROPERTIES LINKER_LANGUAGE CXX)
    target_include_directories(${target} PRIVATE "${PROJECT_SOURCE_DIR}/src")
    target_link_libraries(${target} PRIVATE ${ARG_PRIVATE_NEEDS}
      "$<BUILD_INTERFACE:perceiver_warnings>")
    perceiver_unity(${target} ${room})
    perceiver_cold(${target} ${room})
  else()
    set(scope INTERFACE)
    add_library(${target} INTERFACE)
  endif()
  add_library(Perceiver::${room} ALIAS ${target})
  set_target_properties(${target} PROPERTIES EXPORT_NAME ${room})
  target_compile_features(${target} ${scope} cxx_std_20)
  target_include_directories(${target} ${scope}
    "$<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>" "$<INSTALL_INTERFACE:include>")
  target_link_libraries(${target} ${scope} ${ARG_NEEDS})
  set_property(GLOBAL APPEND PROPERTY PERCEIVER_ROOMS ${room})
endfunction()

# The one program, from src/<ROOM>/**.cpp but WITHOUT some files; left out while the room is empty.
function(perceiver_program name)
  cmake_parse_arguments(ARG "" "ROOM" "NEEDS;WITHOUT" ${ARGN})
  perceiver_sources(sources "${PROJECT_SOURCE_DIR}/src/${ARG_ROOM}" "${ARG_WITHOUT}")
  if(NOT sources)
    return()
  endif()
  add_executable(${name} ${sources})
  target_include_directories(${name} PRIVATE "${PROJECT_SOURCE_DIR}/src")
  target_link_libraries(${name} PRIVATE ${ARG_NEEDS} perceiver_warnings)
  perceiver_unity(${name} ${ARG_ROOM})
  perceiver_cold(${name} ${ARG_ROOM})
  # CMake drops run paths below the build folder on install, where `make setup` puts LibTorch.
  if(PERCEIVER_TORCH_LIBRARY_DIR)
    set_target_properties(${name} PROPERTIES INSTALL_RPATH "${PERCEIVER_TORCH_LIBRARY_DIR}")
  endif()
endfunction()
