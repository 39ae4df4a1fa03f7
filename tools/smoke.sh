#!/usr/bin/env bash
# Install a built wheel as a user would, into a fresh environment with runtime dependencies only and
# no compiler within reach, and run tools/smoke_test.py there in an empty folder.
#
# Usage: tools/smoke.sh [--python PYTHON] [--torch VERSION] WHEEL_OR_FOLDER
#   --python   the interpreter (default: python3)
#   --torch    this version of torch, with what it asks for, in place of constraints.txt
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)

fail() { echo "smoke.sh: $*" >&2; exit 2; }

python=python3
torch=
while [[ ${1-} == --* ]]; do
  [[ $# -ge 2 ]] || fail "$1 needs a value"
  case $1 in
    --python) python=$2 ;;
    --torch) torch=$2 ;;
    *) fail "no option $1" ;;
  esac
  shift 2
done
[[ $# -eq 1 ]] || fail "give one wheel, or a folder with one for this Python"
tag=$("$python" -c 'import sys; print("cp%d%d" % sys.version_info[:2])') || fail "cannot run $python"

wheel=$1
if [[ -d $wheel ]]; then
  shopt -s nullglob
  wheels=("$wheel"/rankone-*-"$tag"-*.whl)
  [[ ${#wheels[@]} -eq 1 ]] || fail "$wheel holds ${#wheels[@]} wheels for $tag, expected one"
  wheel=${wheels[0]}
fi
[[ -f $wheel ]] || fail "no file $wheel"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir "$scratch/empty" "$scratch/home"
constraints=$root/constraints.txt
if [[ -n $torch ]]; then
  constraints=$scratch/constraints.txt
  echo "torch==$torch" > "$constraints"
fi

echo "== install $(basename "$wheel") with $("$python" --version)${torch:+ and torch $torch}"
"$python" -m venv "$scratch/venv"
"$scratch/venv/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary :all: \
  -c "$constraints" "$wheel"
"$scratch/venv/bin/python" -m pip check

# Nothing of the caller's environment, and no folder on PATH but the environment's own.
cp "$root/tools/smoke_test.py" "$scratch/"
clean=(env -i HOME="$scratch/home" LANG=C.UTF-8 PATH="$scratch/venv/bin")
for tool in gcc g++ cc c++ clang cmake make ninja nvcc ld as; do
  if found=$("${clean[@]}" "$(type -P bash)" -c "command -v $tool"); then
    fail "$tool can be found at $found"
  fi
done
echo "== no compiler within reach; smoke test in an empty folder"
cd "$scratch/empty"
"${clean[@]}" "$scratch/venv/bin/python" -I "$scratch/smoke_test.py"
