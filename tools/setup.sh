#!/bin/sh
# Installs what a build needs and is not there yet: Debian packages, and a virtual environment in the
# build folder that holds LibTorch. Called by the Makefile; safe to run again.
#
#   tools/setup.sh packages|torch|oracles|peers BUILD_FOLDER
#
# Honoured: PERCEIVER_TORCH=OFF, Torch_DIR, CMAKE_PREFIX_PATH (then no LibTorch is fetched), and
# pip's own variables, e.g. PIP_INDEX_URL and PIP_EXTRA_INDEX_URL.
set -eu

TORCH="torch==2.13.0"
ORACLES="transformers==5.23.0 numpy safetensors pillow tensorboard"
PEERS="openvino==2026.4.1 matplotlib"
PROGRAM="g++ cmake ninja-build pkg-config nlohmann-json3-dev libcli11-dev libdnnl-dev
  libavformat-dev libavcodec-dev libavutil-dev libswscale-dev libswresample-dev"
PACKAGES="$PROGRAM ccache zlib1g-dev libgtest-dev libgmock-dev libbenchmark-dev libgloo-dev"

say() { printf 'setup: %s\n' "$*"; }
fail() {
  printf 'setup: %s\n' "$*" >&2
  exit 1
}

is_installed() {
  [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

# `venv` without `ensurepip` is how Debian ships Python when python3-venv is missing.
python_is_ready() {
  python3 -c 'import venv, ensurepip' >/dev/null 2>&1
}

# install_packages PACKAGE...; python3-venv is a word for a Python that can make environments.
install_packages() {
  if ! command -v apt-get >/dev/null 2>&1 || ! command -v dpkg-query >/dev/null 2>&1; then
    say "not a Debian system; make sure it has the equivalents of: $*"
    return
  fi
  missing=""
  for package in "$@"; do
    case "$package" in
      python3-venv) python_is_ready || missing="$missing $package" ;;
      *) is_installed "$package" || missing="$missing $package" ;;
    esac
  done
  if [ -z "$missing" ]; then
    say "all Debian packages are there"
    return
  fi
  if [ "$(id -u)" = 0 ]; then
    as_root="env"
  elif sudo -n true >/dev/null 2>&1; then
    as_root="sudo -n env"
  else
    fail "these Debian packages are missing, and installing them needs root. Run, then try again:
  sudo apt-get install$missing"
  fi
  say "installing Debian packages:$missing"
  $as_root DEBIAN_FRONTEND=noninteractive apt-get update -qq </dev/null ||
    say "the package lists could not be refreshed; trying with those at hand"
  # shellcheck disable=SC2086
  $as_root DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing \
    -o Dpkg::Use-Pty=0 </dev/null >"$build/.setup/apt.log" 2>&1 || {
    tail -n 20 "$build/.setup/apt.log" >&2
    fail "apt-get could not install them (whole log: $build/.setup/apt.log)"
  }
}

# Prints the Python of the virtual environment, made when absent.
venv_python() {
  if [ ! -x "$build/venv/bin/python" ]; then
    python3 -m venv "$build/venv" >&2 || fail "python3 could not make a virtual environment"
  fi
  printf '%s' "$build/venv/bin/python"
}

# Do all of these requirements hold already, without asking any index?
has_requirements() {
  "$1" - "$@" <<'PYTHON' 2>/dev/null
import sys
from importlib.metadata import version
for requirement in sys.argv[2:]:
    name, _, pinned = requirement.partition("==")
    found = version(name)
    if pinned and found.split("+")[0] != pinned:
        raise SystemExit(1)
PYTHON
}

pip_install() {
  python="$1"
  shift
  has_requirements "$python" "$@" && { say "already there: $*"; return 0; }
  say "pip install $* (into $build/venv)"
  "$python" -m pip install --disable-pip-version-check --no-input --quiet "$@" </dev/null
}

torch_is_given() {
  [ -n "${Torch_DIR:-}" ] && return 0
  IFS_BEFORE="$IFS"
  IFS=':;'
  for prefix in ${CMAKE_PREFIX_PATH:-}; do
    if [ -e "$prefix/share/cmake/Torch/TorchConfig.cmake" ] ||
      [ -e "$prefix/Torch/TorchConfig.cmake" ]; then
      IFS="$IFS_BEFORE"
      return 0
    fi
  done
  IFS="$IFS_BEFORE"
  return 1
}

install_torch() {
  case "${PERCEIVER_TORCH:-ON}" in
    OFF | off | 0 | NO | no | FALSE | false)
      say "building without LibTorch, as asked"
      return
      ;;
  esac
  if torch_is_given; then
    say "using the LibTorch of Torch_DIR or CMAKE_PREFIX_PATH"
    return
  fi
  python="$(venv_python)"
  pip_install "$python" "$TORCH" || fail "pip could not install $TORCH.
  Another LibTorch (2.11 to 2.13) works too: make Torch_DIR=<folder of TorchConfig.cmake>
  pip follows PIP_INDEX_URL and PIP_EXTRA_INDEX_URL, e.g. of an index with CPU-only wheels."
}

# The oracles only compare; without them their tests skip and say so.
install_oracles() {
  python="$(venv_python)"
  # shellcheck disable=SC2086
  pip_install "$python" $ORACLES ||
    fail "WARNING: without these, the tests that compare with transformers and TensorBoard will be skipped"
}

# What the benchmarks compare with and draw by; without it they leave those columns and plots out.
install_peers() {
  python="$(venv_python)"
  # shellcheck disable=SC2086
  pip_install "$python" $PEERS ||
    fail "WARNING: without these, the benchmarks compare with PyTorch alone and draw nothing"
}

[ $# -eq 2 ] || fail "usage: tools/setup.sh packages|torch|oracles|peers BUILD_FOLDER"
mkdir -p "$2/.setup"
build="$(cd "$2" && pwd)"
# shellcheck disable=SC2086
case "$1" in
  program) install_packages $PROGRAM ;;
  packages) install_packages $PACKAGES python3-venv ;;
  torch) install_torch ;;
  oracles) install_oracles ;;
  peers) install_peers ;;
  *) fail "unknown part '$1'" ;;
esac
