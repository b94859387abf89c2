#!/bin/bash
# Measure Speechmill on a GPU; no network is needed:
#
#   bash tests/gpu/measure.sh                                   every step, by priority, within 560 s
#   BUDGET=200 STEPS=compile,train bash tests/gpu/measure.sh    some steps
#   CPU=1 PYTHON=.venv/bin/python bash tests/gpu/measure.sh     a dry run with tiny networks
#
# The folder KIT (.gpu unless set) may hold ray312.tar.xz and wheels/, the libraries that the machine
# lacks. They are unpacked once, beside the libraries that it has. Without KIT nothing is unpacked.
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
cd "$root" || exit
kit=${KIT:-$root/.gpu}
scratch=$(dirname "$(mktemp -u)")
site=${SITE:-$scratch/site}
export OUT=${OUT:-$scratch/measured} START=${START:-$(date +%s)} PYTHON=${PYTHON:-python3}
mkdir -p "$OUT"

unpack() {
  mkdir -p "$site"
  $PYTHON -c "import sys, tarfile; tarfile.open(sys.argv[1]).extractall(sys.argv[2], filter='fully_trusted')" \
    "$kit/ray312.tar.xz" "$site" &
  local unpacking=$!
  $PYTHON -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --upgrade \
    --target "$site.w" "$kit"/wheels/*.whl || echo "WHEELS FAILED"
  wait $unpacking || echo "RAY FAILED"
  cp -rn "$site.w/." "$site/"
  # PyAV (35 MB) is left out, because FLAC does not need it: an empty module takes its place.
  mkdir -p "$site/av" && echo "class FFmpegError(Exception): pass" > "$site/av/__init__.py"
  local package
  for package in av-19.0.2 speechmill-0.1.0; do
    mkdir -p "$site/$package.dist-info"
    printf 'Metadata-Version: 2.1\nName: %s\nVersion: %s\n' "${package%-*}" "${package##*-}" \
      > "$site/$package.dist-info/METADATA"
  done
  touch "$site/.done"
}

path=$root:$root/codecs:$root/pipeline:$root/jobs
if [ -d "$kit" ]; then
  [ -e "$site/.done" ] || unpack
  path=$path:$site
fi
export PYTHONPATH=$path PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false
export RAY_USAGE_STATS_ENABLED=0 RAY_AUTH_MODE=disabled
exec $PYTHON -m tests.gpu.measure ${CPU:+--cpu} --budget "${BUDGET:-560}" ${STEPS:+--steps "$STEPS"}
