#!/bin/sh
# On a machine with a GPU: the tests that need one, what a step costs there, and LeNet-5 at 97% in seconds.
#   sh benchmarks/gpu.sh
set -eu
cd "$(dirname "$0")/.."
python=.venv/bin/python

nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader
$python -m pytest -q -rs -k "gpu or cuda"
$python benchmarks/step_cost.py --device cuda --steps 25
$python benchmarks/step_cost.py --device cuda --steps 25 --growth

folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
begun=$(date +%s)
$python -m ntt_cli prune sample_models/lenet5_caffe.py --sparsity 0.97 --device cuda --output "$folder/sparse.safetensors"
echo "LeNet-5 at 97%, start-up included: $(($(date +%s) - begun)) s"
