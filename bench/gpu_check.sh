#!/usr/bin/env bash
# Everything that needs a GPU, in one go and in under ten minutes: build for the card at hand, run
# the GPU tests, compute-sanitizer on small shapes, then the benchmarks. Last come the largest
# searches, 14! states on a card with 24 GB to spare, which may take five minutes more.
#
#     PYTHON=python3 OUT=bench/results bench/gpu_check.sh
#
# PYTHON must have torch with CUDA, pybind11, scikit-build-core, cmake and pytest; rankone is
# installed into it. Each phase has its own time limit; a failed one does not stop the next, and the
# exit status is non-zero if any failed. Logs, tables and summary.txt go to OUT.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python3}
out=${OUT:-bench/results}
build=build/gpu
jobs=$(nproc)
mkdir -p "$out"
export PYTHONUNBUFFERED=1

summary=()
failed=0
# The status of a phase, its seconds and its name, for the closing table.
note() {
  local status=$1 seconds=$2 name=$3 result=ok
  if [ "$status" -eq 124 ] || [ "$status" -eq 137 ]; then
    result="time limit"
  elif [ "$status" -ne 0 ]; then
    result="FAILED ($status)"
  fi
  [ "$status" -eq 0 ] || failed=1
  summary+=("$(printf '%-28s %6d s  %s' "$name" "$seconds" "$result")")
}

# phase NAME LIMIT_SECONDS LOG COMMAND...
phase() {
  local name=$1 limit=$2 log=$3 start status
  shift 3
  echo "== $name"
  start=$SECONDS
  timeout --kill-after=5 "$limit" "$@" >>"$out/$log" 2>&1
  status=$?
  tail -n 5 "$out/$log"
  note "$status" $((SECONDS - start)) "$name"
  return "$status"
}

# native NAME LIMIT_SECONDS RESULT PROGRAM...
native() {
  local name=$1 limit=$2 result=$out/$3.json
  shift 3
  phase "$name" "$limit" benchmark.log "$@" \
    --benchmark_out="$result" --benchmark_out_format=json
  # Names of the machine and of its folders stay out of the results.
  [ ! -s "$result" ] || sed -i -E '/"(host_name|executable)":/d' "$result"
}

finish() {
  {
    echo
    printf '%s\n' "${summary[@]}"
  } | tee "$out/summary.txt"
  exit "$failed"
}

rm -f "$out"/{build,tests,sanitize,benchmark}.log "$out"/sanitize_*.log

architecture=$("$python" -c '
import sys, torch
if not torch.cuda.is_available():
    sys.exit("gpu_check: torch sees no CUDA device")
print("%d%d" % torch.cuda.get_device_capability())') || exit 1
"$python" -c '
import torch
print(torch.cuda.get_device_name(), "with torch", torch.__version__, "and CUDA", torch.version.cuda)'

phase "build for sm_$architecture" 170 build.log \
  env CMAKE_BUILD_PARALLEL_LEVEL="$jobs" "$python" -m pip install --disable-pip-version-check \
  --no-build-isolation --no-deps --force-reinstall -C build-dir="$build" \
  -C cmake.define.RANKONE_CUDA=ON -C cmake.define.RANKONE_CUDA_ARCHITECTURES="$architecture" \
  -C cmake.define.RANKONE_BENCHMARKS=ON . || finish

phase "GPU tests" 130 tests.log "$python" -m pytest -m cuda -q -p no:cacheprovider

# The sanitizers run beside each other; none of them times anything.
sanitizers=(memcheck racecheck synccheck initcheck)
sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null)
start=$SECONDS
if [ -z "$sanitizer" ]; then
  echo "== compute-sanitizer is not installed"
  note 1 0 "compute-sanitizer"
else
  echo "== compute-sanitizer: ${sanitizers[*]}"
  pids=()
  for tool in "${sanitizers[@]}"; do
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 timeout --kill-after=5 90 "$sanitizer" --tool "$tool" \
      --error-exitcode 9 "$python" bench/sanitize_cuda.py >"$out/sanitize_$tool.log" 2>&1 &
    pids+=($!)
  done
  for index in "${!sanitizers[@]}"; do
    wait "${pids[$index]}"
    note $? $((SECONDS - start)) "${sanitizers[$index]}"
  done
  for tool in "${sanitizers[@]}"; do
    { echo "== $tool"; cat "$out/sanitize_$tool.log"; } >>"$out/sanitize.log"
    rm "$out/sanitize_$tool.log"
  done
  grep -E 'SUMMARY|calls' "$out/sanitize.log"
fi

for op in linear_attention delta_rule selective_scan_2d; do
  phase "comparisons: $op" 60 benchmark.log \
    "$python" -m bench.peers --op "$op" --device cuda --quick --out "$out"
done
grep -hE '^## |^\|' "$out/benchmark.log"

# Built into the same tree, which already holds the kernels.
phase "native benchmarks: build" 20 build.log cmake --build "$build" --parallel "$jobs"
for program in "$build"/bench/native/bench_*_cuda; do
  [ -x "$program" ] || { echo "google-benchmark was not found: no native benchmarks"; break; }
  name=$(basename "$program" | sed 's/^bench_//')
  native "native benchmarks: $name" 25 "native_$name" "$program" --benchmark_min_time=0.1
done

program=$build/bench/native/bench_permutation_bfs_cuda
if [ -x "$program" ]; then
  for search in lrx-13:30 lrx-14:300 lx-14:300; do
    native "largest searches: ${search%:*}" "${search#*:}" "native_search_${search%:*}" "$program" \
      --large --benchmark_filter="/${search%:*}/"
  done
fi

finish
