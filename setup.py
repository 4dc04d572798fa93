"""Build of the C++ extension; everything else is declared in pyproject.toml."""

import os
from glob import glob

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension, build_ext
from setuptools import setup

ParallelCompile("REMI_FAST_BUILD_JOBS", default=2).install()

# "address,undefined" or "thread": an extension for tests/sanitizers, never one to install.
# -fno-wrapv: Python's own flags define signed overflow, which would then not be reported.
SANITIZE = os.environ.get("REMI_FAST_SANITIZE")
CHECKS = [f"-fsanitize={SANITIZE}", "-fno-sanitize-recover=all", "-fno-wrapv"] if SANITIZE else []

setup(
    ext_modules=[
        Pybind11Extension(
            "_remi_fast_C",  # top level: found from a checkout and from site-packages alike
            sorted(glob("csrc/*.cpp")),
            depends=sorted(glob("csrc/*.hpp")),
            cxx_std=17,
            # No contraction, so that the result does not depend on the instruction set.
            extra_compile_args=[
                *(["-Og", "-g1"] if SANITIZE else ["-O3"]),
                "-ffp-contract=off",
                "-fno-math-errno",
                "-pthread",
                "-Wno-psabi",  # notes on vectors in calls, which are all inlined
                *CHECKS,
            ],
            extra_link_args=["-pthread", *CHECKS],
        )
    ],
    cmdclass={"build_ext": build_ext},
)
