# Helpers of tests/CMakeLists.txt.

# What every test sees: scripts in the environment, C++ programs as macros.
set(PERCEIVER_TEST_ENVIRONMENT
  "PERCEIVER_SOURCE_DIR=${PROJECT_SOURCE_DIR}" "PERCEIVER_BINARY_DIR=${CMAKE_BINARY_DIR}"
  "PERCEIVER_PYTHON=${PERCEIVER_PYTHON}" "PYTHONDONTWRITEBYTECODE=1"
  # Test programs share the processors: a thread that waits by spinning at the end of each of many
  # small parallel loops would keep another program from its work for a whole time slice.
  "OMP_WAIT_POLICY=passive")
set(PERCEIVER_TEST_PROGRAM
  "PERCEIVER_PROGRAM=${CMAKE_BINARY_DIR}/bin/perceiver" "PERCEIVER_WITH_TORCH=${PERCEIVER_TORCH}")
set(PERCEIVER_TEST_TIMEOUT 600)
if(PERCEIVER_SANITIZE)
  list(APPEND PERCEIVER_TEST_ENVIRONMENT
    "ASAN_OPTIONS=detect_leaks=1:allocator_may_return_null=1" "UBSAN_OPTIONS=print_stacktrace=1")
endif()

# <folder>/*.{h,cpp} as a library for test programs to share.
function(perceiver_test_support target folder)
  file(GLOB sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/${folder}/*.cpp")
  if(sources)
    set(scope PUBLIC)
    add_library(${target} STATIC ${sources})
  else()
    set(scope INTERFACE)
    add_library(${target} INTERFACE)
  endif()
  target_include_directories(${target} ${scope}
    "${PROJECT_SOURCE_DIR}/src" "${CMAKE_CURRENT_SOURCE_DIR}")
  target_link_libraries(${target} ${scope} ${ARGN} perceiver_warnings GTest::gtest GTest::gmock)
  target_compile_definitions(${target} ${scope}
    PERCEIVER_SOURCE_DIR="${PROJECT_SOURCE_DIR}" PERCEIVER_BINARY_DIR="${CMAKE_BINARY_DIR}")
endfunction()

# tests/<folder>/*.cpp as the program <folder>_tests, its suites as ctest entries <folder>.<suite>.
#   perceiver_test(<folder> [NEEDS targets...] [LABELS labels...] [FIXTURES fixtures...])
function(perceiver_test folder)
  cmake_parse_arguments(ARG "" "" "NEEDS;LABELS;FIXTURES" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/${folder}/*.cpp")
  if(NOT sources)
    return()
  endif()
  if(NOT ARG_LABELS)
    set(ARG_LABELS unit)
  endif()
  set(target ${folder}_tests)
  add_executable(${target} ${sources})
  target_link_libraries(${target} PRIVATE ${ARG_NEEDS} perceiver_test_support GTest::gtest_main)

  set(entries "${CMAKE_CURRENT_BINARY_DIR}/${target}_suites.cmake")
  add_custom_command(TARGET ${target} POST_BUILD
    COMMAND "${CMAKE_COMMAND}" "-DPROGRAM=$<TARGET_FILE:${target}>" "-DPREFIX=${folder}"
      "-DENTRIES=${entries}" "-DLABELS=${ARG_LABELS}" "-DTIMEOUT=${PERCEIVER_TEST_TIMEOUT}"
      "-DENVIRONMENT=${PERCEIVER_TEST_ENVIRONMENT};${PERCEIVER_TEST_PROGRAM}" "-DFIXTURES=${ARG_FIXTURES}"
      -P "${PROJECT_SOURCE_DIR}/cmake/PerceiverTestSuites.cmake"
    BYPRODUCTS "${entries}" VERBATIM)
  # Until it is built, a program is one entry that says so instead of silently missing.
  file(WRITE "${CMAKE_CURRENT_BINARY_DIR}/${target}_include.cmake"
    "if(EXISTS \"${entries}\")\n  include(\"${entries}\")\nelse()\n"
    "  add_test(${folder}.NOT_BUILT ${target}.not_built)\nendif()\n")
  set_property(DIRECTORY APPEND PROPERTY TEST_INCLUDE_FILES
    "${CMAKE_CURRENT_BINARY_DIR}/${target}_include.cmake")
endfunction()

# tests/<folder>/*_test.py, each one ctest entry <folder>.<name>; exit code 77 means skipped.
#   perceiver_scripts(<folder> LABELS labels...)
function(perceiver_scripts folder)
  cmake_parse_arguments(ARG "" "" "LABELS" ${ARGN})
  file(GLOB scripts CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/${folder}/*_test.py")
  foreach(script IN LISTS scripts)
    get_filename_component(name "${script}" NAME_WE)
    string(REGEX REPLACE "_test$" "" name "${name}")
    perceiver_script(${folder}.${name} "${script}" LABELS ${ARG_LABELS}
      ENVIRONMENT ${PERCEIVER_TEST_PROGRAM})
  endforeach()
endfunction()

# One script. ENVIRONMENT says which program it is about.
function(perceiver_script test script)
  cmake_parse_arguments(ARG "" "" "LABELS;FIXTURES;ENVIRONMENT" ${ARGN})
  add_test(NAME ${test} COMMAND "${PERCEIVER_PYTHON}" "${script}")
  if(test MATCHES "_slow$")
    list(APPEND ARG_LABELS slow)
  endif()
  set_tests_properties(${test} PROPERTIES LABELS "${ARG_LABELS}" SKIP_RETURN_CODE 77
    FIXTURES_REQUIRED "${ARG_FIXTURES}" TIMEOUT ${PERCEIVER_TEST_TIMEOUT}
    ENVIRONMENT "${PERCEIVER_TEST_ENVIRONMENT};${ARG_ENVIRONMENT}")
endfunction()

# The program that `make demo` builds, without LibTorch: built here by one entry, then asked what the
# whole program is asked, by entries inference.<script>.
function(perceiver_inference_program)
  set(folder "${CMAKE_BINARY_DIR}/inference")
  add_test(NAME inference.build COMMAND sh -c
    "'${CMAKE_COMMAND}' -S '${PROJECT_SOURCE_DIR}' -B '${folder}' -G Ninja -DPERCEIVER_TORCH=OFF \
      -DPERCEIVER_TESTS=OFF -DPERCEIVER_UNITY=ON '-DCMAKE_BUILD_TYPE=${CMAKE_BUILD_TYPE}' \
      '-DCMAKE_CXX_COMPILER=${CMAKE_CXX_COMPILER}' && \
     '${CMAKE_COMMAND}' --build '${folder}' --target perceiver --parallel 2")
  set_tests_properties(inference.build PROPERTIES LABELS system FIXTURES_SETUP inference
    PROCESSORS 2 TIMEOUT 1500)
  file(GLOB scripts CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/system/*_test.py"
    "${CMAKE_CURRENT_SOURCE_DIR}/install/*_test.py")
  list(FILTER scripts EXCLUDE REGEX "_slow_test\\.py$")  # of training, which this program cannot do
  foreach(script IN LISTS scripts)
    get_filename_component(name "${script}" NAME_WE)
    string(REGEX REPLACE "_test$" "" name "${name}")
    perceiver_script(inference.${name} "${script}" LABELS system FIXTURES inference
      ENVIRONMENT "PERCEIVER_PROGRAM=${folder}/bin/perceiver" "PERCEIVER_BINARY_DIR=${folder}"
        PERCEIVER_WITH_TORCH=OFF)
  endforeach()
endfunction()

# tools/oracle/<name>.py writes what another implementation answers into build/oracle/<name>/;
# tests that compare with it name the fixture oracle.<name>.
function(perceiver_oracle name)
  set(script "${PROJECT_SOURCE_DIR}/tools/oracle/${name}.py")
  file(GLOB present CONFIGURE_DEPENDS "${script}")
  if(NOT present)
    return()
  endif()
  add_test(NAME oracle.${name} COMMAND "${PERCEIVER_PYTHON}" "${script}")
  set_tests_properties(oracle.${name} PROPERTIES LABELS parity FIXTURES_SETUP oracle.${name}
    TIMEOUT ${PERCEIVER_TEST_TIMEOUT} SKIP_RETURN_CODE 77
    ENVIRONMENT "${PERCEIVER_TEST_ENVIRONMENT};${PERCEIVER_TEST_PROGRAM}")
endfunction()
