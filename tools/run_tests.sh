#!/bin/sh
# Runs ctest, then lists every skipped test with its reason, and repeats ctest's verdict last.
#
#   tools/run_tests.sh BUILD_FOLDER [ctest options...]
set -u
build="$1"
shift
output="$build/Testing/output.txt"
mkdir -p "$build/Testing"
{
  status=0
  ctest --test-dir "$build" --output-on-failure --no-tests=error "$@" </dev/null 2>&1 || status=$?
  echo "$status" >"$output.status"
} | tee "$output"
status="$(cat "$output.status")"

log="$build/Testing/Temporary/LastTest.log"
[ -e "$log" ] || exit "$status"
# GoogleTest prints `file:line: Skipped`, the reason on the next line, then `[  SKIPPED ] name`;
# our scripts print `SKIPPED: reason`, Python's unittest `name ... skipped 'reason'`.
skips="$(awk '
  /: Skipped$/ { getline reason; next }
  /^\[  SKIPPED \] .*\(/ { sub(/^\[  SKIPPED \] /, ""); sub(/ \(.*/, ""); print "  " $0 ": " reason }
  /^SKIPPED: / { sub(/^SKIPPED: /, ""); print "  " $0 }
  / \.\.\. skipped / { sub(/ \.\.\. skipped /, ": "); print "  " $0 }
' "$log")"
if [ -n "$skips" ]; then
  printf '\nSkipped tests:\n%s\n' "$skips"
  printf '\n'
  grep 'tests passed,' "$output" || true
fi
exit "$status"
