#!/bin/sh
# Makes .venv with the locked environment: `make install` runs this. What is slow says its start, its end and its time;
# on a terminal a clock runs meanwhile.
#
#   PYTHON      the interpreter to use; left out, `python3` or another admitted one on PATH, or one that uv fetches
#   UV_VERSION  the uv that installs
set -eu

admitted="3.11 3.12 3.13 3.14" # every dependency has wheels for these: tests/test_installation.py
fetched=3.12
venv=.venv
clock=

stop_clock() {
  if [ -n "$clock" ]; then
    kill "$clock" 2>/dev/null || true
    wait "$clock" 2>/dev/null || true
    clock=
    printf '\r\033[K' >&2
  fi
}
trap stop_clock EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

run_clock() {
  seconds=0
  while kill -0 $$ 2>/dev/null; do
    printf '\r\033[K  %d s' "$seconds" >&2
    sleep 1
    seconds=$((seconds + 1))
  done
}

step() { # LABEL COMMAND...: run it, between two lines
  label=$1
  shift
  began=$(date +%s)
  printf '%s ...\n' "$label" >&2
  if [ -t 2 ]; then
    run_clock &
    clock=$!
  fi
  code=0
  "$@" || code=$?
  stop_clock
  if [ "$code" -ne 0 ]; then
    printf '%s: failed after %d s\n' "$label" $(($(date +%s) - began)) >&2
    return "$code"
  fi
  printf '%s: done in %d s\n' "$label" $(($(date +%s) - began)) >&2
}

version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true; }

is_admitted() {
  for version in $admitted; do
    [ "$version" != "$(version_of "$1")" ] || return 0
  done
  return 1
}

choose_python() { # prints an admitted interpreter, or nothing
  for name in python3 python$fetched python3.13 python3.14 python3.11; do
    if command -v "$name" >/dev/null && is_admitted "$name"; then
      command -v "$name"
      return
    fi
  done
}

find_uv() { # sets $uv: the one on PATH, or one that any Python installs
  uv=$(command -v uv || true)
  [ -z "$uv" ] || return 0
  uv=.work/uv/bin/uv
  [ ! -x "$uv" ] || return 0
  python3 -m venv .work/uv || return 1
  .work/uv/bin/python -m pip install --quiet --disable-pip-version-check "uv==$UV_VERSION"
}

make_by_uv() {
  find_uv && "$uv" venv --quiet --clear --python "$1" "$venv" && "$uv" pip install --quiet --python "$venv/bin/python" "uv==$UV_VERSION"
}

make_by_python() {
  "$1" -m venv --clear "$venv" &&
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "uv==$UV_VERSION"
}

# An interpreter that was removed or left behind by an upgrade of the system is no environment.
if ! { [ -x $venv/bin/python ] && is_admitted $venv/bin/python && [ -x $venv/bin/uv ]; }; then
  if [ -n "${PYTHON:-}" ]; then
    if ! is_admitted "$PYTHON"; then
      found=$(version_of "$PYTHON")
      echo "PYTHON = $PYTHON is ${found:-no Python}: expected one of $admitted. Cure: leave PYTHON out, and uv fetches $fetched" >&2
      exit 2
    fi
    python=$PYTHON
  else
    python=$(choose_python)
  fi
  if [ -n "$python" ]; then
    step "Making $venv with $python ($(version_of "$python"))" make_by_python "$python" || {
      # Debian and Ubuntu ship venv as a package of its own; uv needs none.
      command -v uv >/dev/null || {
        echo "$python cannot make an environment. Cure: sudo apt-get install python3-venv, or install uv" >&2
        exit 2
      }
      step "Making $venv with uv" make_by_uv "$python"
    }
  else
    step "No Python of $admitted here: fetching $fetched with uv" make_by_uv "$fetched" || {
      echo "uv could not fetch Python $fetched. Cure: install Python $fetched, then: make PYTHON=/path/to/python$fetched install" >&2
      exit 2
    }
  fi
fi

packages=$(grep -c '==' requirements.lock)
step "Installing $packages packages into $venv (about 7 GB on disk)" \
  $venv/bin/uv pip install --quiet --python $venv/bin/python --require-hashes --compile-bytecode -r requirements.lock
step "Installing everest itself" \
  $venv/bin/uv pip install --quiet --python $venv/bin/python --no-deps --editable .
