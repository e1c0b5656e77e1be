# Writes one add_test() per suite of a GoogleTest program; run after the program is built.
# Given: PROGRAM, PREFIX, ENTRIES (the file to write), LABELS, TIMEOUT, ENVIRONMENT, FIXTURES.
execute_process(COMMAND "${PROGRAM}" --gtest_list_tests
  OUTPUT_VARIABLE listing ERROR_VARIABLE problem RESULT_VARIABLE status)
if(NOT status EQUAL 0)
  message(FATAL_ERROR "${PROGRAM} cannot list its tests (${status}): ${problem}")
endif()

# A suite is a line such as `Array.` or `Sizes/Attention.  # GetParam() = ...`; its tests are indented.
string(REGEX MATCHALL "(^|\n)[^ \n]+\\." suites "${listing}")
list(TRANSFORM suites REPLACE "\n" "")
set(text "")
foreach(suite IN LISTS suites)
  string(REGEX REPLACE "\\.$" "" name "${suite}")
  if(name MATCHES "(^|/)DISABLED_")
    continue()
  endif()
  set(labels "${LABELS}")
  if(name MATCHES "Slow$")
    list(APPEND labels slow)
  elseif(name MATCHES "Shared$")
    list(APPEND labels shared)
  endif()
  string(APPEND text
    "add_test([==[${PREFIX}.${name}]==] [==[${PROGRAM}]==] [==[--gtest_filter=${name}.*]==])\n"
    "set_tests_properties([==[${PREFIX}.${name}]==] PROPERTIES TIMEOUT ${TIMEOUT}"
    " LABELS [==[${labels}]==] ENVIRONMENT [==[${ENVIRONMENT}]==]"
    " FIXTURES_REQUIRED [==[${FIXTURES}]==])\n")
endforeach()
if(text STREQUAL "")
  message(FATAL_ERROR "${PROGRAM} has no tests")
endif()
file(WRITE "${ENTRIES}" "${text}")
