"""Build of the C++ extension; everything else is declared in pyproject.toml."""

from glob import glob

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension, build_ext
from setuptools import setup

ParallelCompile("REMI_FAST_BUILD_JOBS", default=2).install()

setup(
    ext_modules=[
        Pybind11Extension(
            "_remi_fast_C",  # top level: found from a checkout and from site-packages alike
            sorted(glob("csrc/*.cpp")),
            depends=sorted(glob("csrc/*.hpp")),
            cxx_std=17,
            # No contraction, so that the result does not depend on the instruction set.
            extra_compile_args=[
                "-O3",
                "-ffp-contract=off",
                "-fno-math-errno",
                "-pthread",
                "-Wno-psabi",  # notes on vectors in calls, which are all inlined
            ],
            extra_link_args=["-pthread"],
        )
    ],
    cmdclass={"build_ext": build_ext},
)
