"""Builds a mutant's extension: objects of the mutated file anew, linked with all the others."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path

from tests.sanitizers.build import ROOT, build_requirements

BUILT = ROOT / "build" / "mutants"
NAME = f"_remi_fast_C{sysconfig.get_config_var('EXT_SUFFIX')}"

# The flags of setup.py, which is the one place for them.
FLAGS = """
import json
import setuptools
from distutils.core import run_setup
(extension,) = run_setup("setup.py", stop_after="init").ext_modules
includes = [f"-I{folder}" for folder in extension.include_dirs]
print(json.dumps([includes + extension.extra_compile_args, extension.extra_link_args]))
"""


@cache
def flags() -> tuple[list[str], list[str]]:
    """Flags to compile and to link with; -O1 takes half the time of -O3."""
    environment = os.environ | {"PYTHONPATH": str(build_requirements())}
    command = [sys.executable, "-c", FLAGS]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True
    )
    to_compile, to_link = json.loads(done.stdout)
    python = sysconfig.get_path("include")
    return [f"-I{python}", "-fPIC", *to_compile, "-O1"], ["-shared", *to_link]


@cache
def objects() -> Path:
    """The folder of the objects, and of what each depends on (.d), made where csrc has changed."""
    sources = sorted((ROOT / "csrc").iterdir())
    contents = [json.dumps(flags()).encode(), *(source.read_bytes() for source in sources)]
    built = BUILT / hashlib.sha256(b"\0".join(contents)).hexdigest()[:16]
    if not built.exists():
        shutil.rmtree(BUILT, ignore_errors=True)
        unfinished = built.with_name(f"{built.name}-{os.getpid()}")
        unfinished.mkdir(parents=True)
        _compile(ROOT, (source.stem for source in sources if source.suffix == ".cpp"), unfinished)
        unfinished.rename(built)
    return built


def build(tree: Path, mutated: str) -> None:
    """Build the extension into `tree`, in whose csrc one file is mutated."""
    dependencies = {path.stem: path.read_text().split() for path in objects().glob("*.d")}
    affected = [stem for stem, files in dependencies.items() if mutated in files]
    own = tree / "objects"
    own.mkdir()
    _compile(tree, affected, own)
    linked = [str((own if stem in affected else objects()) / f"{stem}.o") for stem in dependencies]
    _run(["g++", *linked, *flags()[1], "-o", NAME], tree)


def _compile(tree: Path, stems: Iterable[str], folder: Path) -> None:
    """One object, and one .d, of each source of that name."""
    commands = [
        ["g++", *flags()[0], "-MMD", "-c", f"csrc/{stem}.cpp", "-o", str(folder / f"{stem}.o")]
        for stem in stems
    ]
    with ThreadPoolExecutor(2) as pool:  # ends here: threads do not outlive a fork
        list(pool.map(partial(_run, cwd=tree), commands))


def _run(command: list[str], cwd: Path) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
