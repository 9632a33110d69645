#!/usr/bin/env bash
# Runs, on a machine with an NVIDIA card, all that needs one: the tests marked `gpu`, then the benchmarks. It needs no network:
#
#   tools/gpu-check.sh [--wheels FOLDER] [--out FOLDER] [--seconds 520] [--rounds 3] [--only tests,serving,training,pictures,env]
#
# FOLDER of wheels: what this machine's Python lacks (pip download --no-deps …); data/*.tar.* in it is unpacked as cached
# datasets, bundles/ is what is served there (else it is made, with onnx and onnxscript). What is most worth knowing comes first;
# results are files in --out (gpu-results), written as they are found; all ends within --seconds.
set -uo pipefail
cd "$(dirname "$0")/.."
wheels= out=gpu-results seconds=520 rounds=3 only=tests,serving,training,pictures,env
while [ $# -gt 0 ]; do
  case $1 in
    --wheels) wheels=$2 ;;
    --out) out=$2 ;;
    --seconds) seconds=$2 ;;
    --rounds) rounds=$2 ;;
    --only) only=$2 ;;
    *) sed -n '2,9p' "$0"; exit 2 ;;
  esac
  shift 2
done
mkdir -p "$out"
export PYTHONUNBUFFERED=1 PYTHONPATH="$PWD/src:$PWD${PYTHONPATH:+:$PYTHONPATH}"
if [ -n "$wheels" ]; then
  site=$(mktemp -d)
  python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$site" "$wheels"/*.whl || exit
  export PYTHONPATH="$PYTHONPATH:$site" XDG_CACHE_HOME="$site/cache"
  mkdir -p "$site/cache/rushlight/data"
  for data in "$wheels"/data/*.tar.*; do [ -f "$data" ] && tar -xf "$data" -C "$site/cache/rushlight/data"; done
fi

left() { echo $((seconds - SECONDS)); }
step() {  # NAME LIMIT COMMAND…: run a command with a limit, its output in a file, its result in summary.txt
  local name=$1 limit=$2
  shift 2
  [[ ",$only," == *",$name,"* ]] || return
  [ "$(left)" -lt 15 ] && { echo "$name: no time left" | tee -a "$out/summary.txt"; return; }
  [ "$limit" -gt "$(left)" ] && limit=$(left)
  local began=$SECONDS
  timeout --signal=INT --kill-after=5 "$limit" "$@" >"$out/$name.log" 2>&1
  echo "$name: exit $? after $((SECONDS - began)) s" | tee -a "$out/summary.txt"
}

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | tee "$out/summary.txt"
step tests 170 python3 -m pytest -p no:cacheprovider -p no:benchmark -m gpu -n 8 --durations=5 -q tests/gpu
step serving 90 python3 -m benchmarks.serving --device cpu,cuda --clients binary --models mlp,resnet --rounds 1 --seconds 1.5 \
  --bundles "${wheels:-$out}/bundles" --out "$out"
step training "$((seconds / 2))" python3 -m benchmarks.training --device cuda --together --rounds "$rounds" --epochs 2 --seconds 0.8 \
  --compiled-seconds 1.2 --samples 12800 --workloads mlp,small,cnn,transformer \
  --contenders plain,by-hand,floor,fast,bfloat16,lightning,keras --out "$out"
step pictures 120 python3 -m benchmarks.pictures --out "$out"
step env 60 python3 -m rushlight env
tail -n 20 "$out"/*.log
