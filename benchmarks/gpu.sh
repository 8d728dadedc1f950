#!/usr/bin/env bash
# Print the GPU table of docs/performance.md: `benchmarks/gpu.sh`, on a machine with a GPU.
# `benchmarks/gpu.sh --smoke` runs the same with tiny sizes on the CPU, to test the script itself.
#
# Each section runs in a process of its own with a limit of time, so that one that fails does not
# lose the others. The whole takes less than nine minutes. PYTHON names the interpreter, SECTIONS
# chooses among the sections.
set -u
cd "$(dirname "$0")/.." || exit 1
export PYTHONPATH="src${PYTHONPATH:+:$PYTHONPATH}"
python="${PYTHON:-python3}"
sections="${SECTIONS:-machine students images labels groups compiled side-by-side graphs}"
deadline=$((SECONDS + 520))
failed=0
for section in $sections; do
  left=$((deadline - SECONDS))
  limit=$((left < 130 ? left : 130))
  if [ "$limit" -lt 10 ]; then
    echo "| $section | not run: no time left |"
    continue
  fi
  if ! timeout --kill-after=5 "$limit" "$python" benchmarks/gpu.py "$section" "$@"; then
    echo "| $section | failed, or not done in $limit s |"
    failed=1
  fi
done
echo "total: $SECONDS s"
exit "$failed"
