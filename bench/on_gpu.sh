#!/bin/sh
# Everything that waits for a GPU, as one script; the results land in bench/results/ (and in $OUT).
#
#   sh bench/on_gpu.sh tests    the kernels' tests, natively, and a part of them under memcheck
#   sh bench/on_gpu.sh bench    loss and table update beside their peers
#
# Needs python3 with torch >= 2.11 (CUDA), triton >= 3.6, NumPy, PyYAML, pytest, hypothesis,
# setuptools, pybind11 and a C++ compiler. Peers take part if installed: cut-cross-entropy,
# liger-kernel (pure Python wheels; --no-deps keeps the torch that is there).
set -eu
cd "$(dirname "$0")/.."
case "${1:-}" in
tests | bench) ;;
*)
    sed -n '2,9s/^# \{0,1\}//p' bench/on_gpu.sh >&2
    exit 2
    ;;
esac
export PYTHONUNBUFFERED=1
python3 setup.py --quiet build_ext --inplace
python3 -c 'import torch; print(torch.__version__, torch.cuda.get_device_name())'

if [ "$1" = tests ]; then
    python3 -m pytest -q -p no:cacheprovider tests/kernels tests/test_losses.py \
        tests/data/test_device_loader.py
    if command -v compute-sanitizer >/dev/null; then
        for tool in memcheck racecheck; do
            PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$tool" --error-exitcode 9 \
                python3 -m pytest -q -p no:cacheprovider tests/kernels/test_ihn_loss.py \
                -k "triton and (odd_shapes or same_bits or half_precision)"
        done
    fi
else
    python3 -m bench.loss_in_turns --save loss_in_turns_gpu
    python3 -m bench.loss_in_turns --catalogue --save loss_catalogue_gpu
    python3 -m bench.update_in_turns --items 1e6 1e7 --save update_in_turns_gpu
fi
if [ -n "${OUT:-}" ]; then cp bench/results/*_gpu.json "$OUT" 2>/dev/null || true; fi
