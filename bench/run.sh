#!/usr/bin/env bash
# Runs the native benchmarks of a build tree, then the comparisons with peers.
#
#     bench/run.sh PYTHON BUILD_DIR [arguments of python -m bench.peers]
#
# Tables go to ${OUT:-bench/results}: native_<program>.json and <op>_<device>.{json,md}.
set -euo pipefail

if [ $# -lt 2 ]; then
  echo "usage: bench/run.sh PYTHON BUILD_DIR [arguments of python -m bench.peers]" >&2
  exit 2
fi
python=$(command -v "$1")
build=$(realpath "$2")
shift 2
python=$(realpath --no-symlinks "$python")
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=${OUT:-bench/results}
mkdir -p "$out"

found=no
for program in "$build"/bench/native/bench_*; do
  [ -f "$program" ] && [ -x "$program" ] || continue
  found=yes
  result="$out/native_$(basename "$program" | sed 's/^bench_//').json"
  rm -f "$result.part"
  echo "== $(basename "$program")"
  "$program" --benchmark_out="$result.part" --benchmark_out_format=json
  # Names of the machine and of its folders stay out of the results.
  if [ -s "$result.part" ]; then
    sed -E '/"(host_name|executable)":/d' "$result.part" >"$result"
  fi
  rm -f "$result.part"
done
if [ "$found" = no ]; then
  echo "no native benchmarks in $build: google-benchmark was not found when it was configured"
fi

echo "== comparisons with peers"
"$python" -m bench.peers --out "$out" "$@"
