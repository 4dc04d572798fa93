#!/bin/sh
# Everything that waits for a GPU, in pieces of a few minutes that can be resumed.
#
#   sh bench/run_gpu.sh --plan                   the pieces and their limits; runs nothing
#   sh bench/run_gpu.sh --within 540 tests       the pieces tests-*, as far as 540 s go
#   sh bench/run_gpu.sh                          all that has not passed yet
#   sh bench/run_gpu.sh --rehearse               small forms of all, on any machine
#
# Needs python3 with torch >= 2.11, triton >= 3.6, NumPy, safetensors, pytest, setuptools, pybind11,
# and a C++ compiler. Peers take part if installed: cut-cross-entropy, liger-kernel, fbgemm-gpu.
# In the environment: REMI_FAST_DATA, a prepared folder to train on; REMI_FAST_COMMIT, the commit,
# where there is no git; OUT, a folder for a copy of the results; PYTHON, another python3.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
export PYTHONUNBUFFERED=1 PATH="$PATH:/usr/local/cuda/bin"
build() {
    REMI_FAST_BUILD_JOBS=${REMI_FAST_BUILD_JOBS:-$(nproc)} \
        "$python" setup.py --quiet build_ext --inplace
}
case " $* " in
*" --plan "* | *" -h "* | *" --help "*) ;;
*" --rehearse "*) "$python" -c 'import _remi_fast_C' 2>/dev/null || build ;;
*) build ;;
esac
exec "$python" -m bench.run_pieces "$@"
