"""Builds csrc with a sanitizer, as it is or with a bug planted, and knows how Python runs it."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
BUILT = ROOT / "build" / "sanitizers"

FLAGS = {"address": "address,undefined", "thread": "thread"}
# What Python has to load before anything else; without libstdc++ no exception is intercepted.
LIBRARIES = {"address": ("libasan.so", "libstdc++.so.6"), "thread": ("libtsan.so",)}
OPTIONS = {
    "address": {
        # Python keeps what it has till the end; a signal is what guard pages are tested by.
        "ASAN_OPTIONS": "detect_leaks=0:handle_segv=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONMALLOC": "malloc",  # or small objects would share one block
    },
    "thread": {"TSAN_OPTIONS": "halt_on_error=1"},
}


class Planted(NamedTuple):
    """A bug: `new` in the place of `old`, which is found once in `file`."""

    file: str
    old: str
    new: str


def build(sanitizer: str) -> Path:
    """The folder of the extension with this sanitizer, made where csrc has changed."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        _copy_sources(tree)
        contents = [path.read_bytes() for path in sorted(tree.rglob("*.*")) if path.is_file()]
        digest = hashlib.sha256(b"\0".join(contents)).hexdigest()[:16]
        built = BUILT / sanitizer / f"{sys.implementation.cache_tag}-{digest}"
        if not built.exists():
            shutil.rmtree(built.parent, ignore_errors=True)
            shutil.copytree(_build(sanitizer, tree), built)
    return built


def build_planted(
    sanitizer: str, bugs: Iterable[Planted], topics: Sequence[str], tree: Path
) -> Path:
    """The same from a copy of csrc in `tree` with bugs in it, and only these topics to compile."""
    _copy_sources(tree)
    module = tree / "csrc" / "module.cpp"
    lines = module.read_text().splitlines(keepends=True)
    registers = [line for line in lines if line.strip().startswith("register_")]
    wanted = [f"register_{topic}(m);" for topic in topics]
    assert {line.strip() for line in registers} >= set(wanted)
    kept = [line for line in lines if line not in registers or line.strip() in wanted]
    module.write_text("".join(kept))
    for file in (tree / "csrc").glob("*.cpp"):
        if not file.name.startswith(("module", *topics)):
            file.unlink()
    for bug in bugs:
        file = tree / bug.file
        source = file.read_text()
        assert source.count(bug.old) == 1, f"{bug.file}: {bug.old!r} is not there, or not once"
        file.write_text(source.replace(bug.old, bug.new))
    return _build(sanitizer, tree)


def _copy_sources(tree: Path) -> None:
    shutil.copytree(ROOT / "csrc", tree / "csrc")
    for name in ("setup.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tree)


def _build(sanitizer: str, tree: Path) -> Path:
    library = tree / "lib"
    command = [sys.executable, "setup.py", "--quiet", "build_ext"]
    command += ["--build-lib", str(library), "--build-temp", str(tree / "objects")]
    environment = {"PYTHONPATH": str(build_requirements()), "REMI_FAST_SANITIZE": FLAGS[sanitizer]}
    _run(command, cwd=tree, env=os.environ | environment)
    return library


def build_requirements() -> Path:
    """What setup.py imports, as pyproject.toml asks for it, installed beside what it builds."""
    folder = BUILT / "requirements"
    if not folder.exists():
        wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target"]
        partial = folder.with_name(f"requirements-{os.getpid()}")
        _run([*pip, str(partial), *wanted], cwd=ROOT, env=dict(os.environ))
        partial.rename(folder)
    return folder


def _run(command: list[str], cwd: Path, env: dict[str, str]) -> None:
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")


def environment(sanitizer: str, extension: Path, *preload: Path) -> dict[str, str]:
    """The environment in which Python, and all it starts, runs this extension."""
    libraries = [_library(name) for name in LIBRARIES[sanitizer]]
    return (
        os.environ
        | OPTIONS[sanitizer]
        | {
            "LD_PRELOAD": " ".join([*map(str, preload), *libraries]),
            "PYTHONPATH": str(Path(__file__).parent / "site"),
            "REMI_FAST_EXTENSION": str(extension),
        }
    )


def python(sanitizer: str) -> list[str]:
    """The command; ThreadSanitizer wants its shadow memory where randomization may put others."""
    return [*(["setarch", "-R"] if sanitizer == "thread" else []), sys.executable]


def _library(name: str) -> str:
    command = ["g++", f"-print-file-name={name}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
