#!/usr/bin/env bash
# Resolve the libraries of the images again, after pyproject.toml changed or to take newer ones: infra/docker/lock.sh
# Needs uv. Everything is resolved for the Python of the images, with the digest of each file.
set -euo pipefail
cd "$(dirname "$0")"

lock() {
  uv pip compile --quiet --no-header --upgrade --generate-hashes --no-annotate \
    --python-version 3.12 --python-platform x86_64-manylinux_2_39 "$@"
}

# The extras of the commands that run on a cluster.
lock ../../pyproject.toml --extra baselines --extra enhance --extra vad -o gpu.lock
# Decoding needs no torch, and neither do the libraries that are only used beside it.
lock ../../pyproject.toml --extra vad --constraint gpu.lock --override without-torch.txt -o cpu.lock
lock build.in -o build.lock
