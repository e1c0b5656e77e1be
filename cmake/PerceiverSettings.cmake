# Compiler settings shared by every room. Nothing here reaches a project that embeds Perceiver:
# it keeps its own build type, output folders and warnings.
if(PROJECT_IS_TOP_LEVEL AND NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Release, Debug or RelWithDebInfo" FORCE)
endif()
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_INSTALL_RPATH_USE_LINK_PATH ON)  # the installed program finds LibTorch where we did
if(PROJECT_IS_TOP_LEVEL)
  set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
  # No -DNDEBUG: assertions are cheap beside matrix products and catch what a test cannot.
  set(CMAKE_CXX_FLAGS_RELEASE "-O2")
  set(CMAKE_RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/bin")
endif()

# ccache hits across clones and build folders: paths inside the source tree are hashed as relative.
find_program(PERCEIVER_CCACHE ccache)
if(PROJECT_IS_TOP_LEVEL AND PERCEIVER_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER env "CCACHE_BASEDIR=${PROJECT_SOURCE_DIR}" CCACHE_NOHASHDIR=1
    "${PERCEIVER_CCACHE}")
endif()

add_library(perceiver_warnings INTERFACE)
target_compile_options(perceiver_warnings INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wold-style-cast -Wdouble-promotion
  $<$<BOOL:${PERCEIVER_WERROR}>:-Werror>)

if(PERCEIVER_SANITIZE)
  list(JOIN PERCEIVER_SANITIZE "," _perceiver_sanitizers)
  add_compile_options(-fsanitize=${_perceiver_sanitizers} -fno-sanitize-recover=all
    -fno-omit-frame-pointer -g)
  add_link_options(-fsanitize=${_perceiver_sanitizers})
endif()
if(PERCEIVER_FUZZ)  # the fuzzers' link options bring the runtime; with clang the rooms count their branches
  add_compile_options($<$<CXX_COMPILER_ID:Clang>:-fsanitize=fuzzer-no-link> -fsanitize=address,undefined
    -fno-sanitize-recover=all -fno-omit-frame-pointer -g)
endif()
