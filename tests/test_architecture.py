"""Who may import whom; see CONTRIBUTING.md."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Of every room: the rooms of this project, and the packages, that it may import; "" is remi_fast.
ALLOWED = {
    "kernels": {"kernels", "_remi_fast_C", "numpy", "torch", "triton"},
    "remi_fast/__init__.py": {"api", "config", "losses", "models.item_table", "optim"},
    "remi_fast/api.py": {"config", "data", "errors", "retrieval", "training"},
    "remi_fast/benchmark": {
        "benchmark",
        "training.step",
        "training.engines",
        "training.placement",
        "training.precision",
        "models.item_table",
        "models.recommender",
        "data.device_loader",
        "data.loader",
        "data.uploaded_batches",
        "retrieval.faiss_index",
        "retrieval.search",
        "kernels",
        "functional",
        "losses",
        "optim",
        "config",
        "errors",
        "files",
        "cut_cross_entropy",
        "fbgemm_gpu",
        "liger_kernel",
        "matplotlib",
        "numpy",
        "torch",
    },
    "remi_fast/cli": {
        "cli",
        "",
        "api",
        "benchmark",
        "config",
        "data",
        "errors",
        "export",
        "extras",
        "files",
        "kernels.native",  # where the extension is
        "models",
        "report",
        "retrieval",
        "sweep",
        "training",
        "jsonargparse",
        "polars",
        "rich",
        "torch",
    },
    "remi_fast/config.py": {"errors", "jsonargparse", "yaml"},
    "remi_fast/data": {
        "data",
        "errors",
        "files",
        "kernels.checks",
        "kernels.device_batches",
        "kernels.native",
        "kernels.philox",
        "numpy",
        "polars",
        "rich",
        "torch",
    },
    "remi_fast/errors.py": set(),
    "remi_fast/export": {
        "export",
        "training.run_folder",
        "training.trainer",
        "retrieval.faiss_index",
        "models.recommender",
        "data.dataset",
        "config",
        "extras",
        "errors",
        "files",
        "faiss",
        "numpy",
        "polars",
        "safetensors",
        "torch",
    },
    "remi_fast/extras.py": {"errors"},
    "remi_fast/files.py": {"errors", "numpy"},
    "remi_fast/functional.py": {"kernels", "torch"},
    "remi_fast/losses.py": {"functional", "kernels", "torch"},
    "remi_fast/models": {
        "models",
        "config",
        "kernels.capsule_routing",
        "kernels.checks",
        "kernels.memory",
        "kernels.philox",
        "kernels.self_attentive",
        "kernels.self_attentive_query",
        "numpy",
        "torch",
    },
    "remi_fast/optim.py": {"errors", "kernels", "models.item_table", "torch"},
    "remi_fast/presets": set(),
    "remi_fast/report": {
        "report",
        "",
        "config",
        "data.dataset",
        "errors",
        "files",
        "kernels.reference",
        "models",
        "retrieval",
        "training",
        "matplotlib",
        "numpy",
        "torch",
    },
    "remi_fast/retrieval": {
        "retrieval",
        "models",
        "data.dataset",
        "errors",
        "extras",
        "files",
        "kernels.interest_search",
        "kernels.permutation",
        "kernels.philox",
        "numpy",
        "polars",
        "torch",
    },
    "remi_fast/sweep": {
        "sweep",
        "api",
        "config",
        "errors",
        "files",
        "kernels.permutation",
        "retrieval.evaluate",
        "retrieval.metrics",
        "training.run_folder",
        "matplotlib",
        "optuna",
    },
    "remi_fast/training": {
        "training",
        "",
        "retrieval",
        "models",
        "data",
        "kernels",
        "losses",
        "optim",
        "config",
        "errors",
        "files",
        "numpy",
        "rich",
        "safetensors",
        "torch",
        "triton",
    },
}
# kernels/native.py gives the extension to these only.
NATIVE = {"kernels", "remi_fast/data", "remi_fast/cli"}


def imports(file):
    """Names imported by a file: "data.loader" for remi_fast.data.loader, "" for remi_fast or its
    version, "torch" for torch.nn."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = "remi_fast.kernels" if node.level else node.module
            if node.level and node.module:
                module += f".{node.module}"
            names = {submodule(module, alias.name) for alias in node.names}
        else:
            continue
        for name in names:
            top, _, rest = name.partition(".")
            yield rest if top == "remi_fast" else top


def submodule(module, name):
    """The module that `from module import name` needs."""
    path = ROOT.joinpath(*module.split("."), name)
    return f"{module}.{name}" if path.is_dir() or path.with_suffix(".py").is_file() else module


def files_of(room):
    path = ROOT / room
    return [path] if path.is_file() else sorted(path.rglob("*.py"))


def edges(room):
    """The names that a room imports, but for those of Python itself, and who imports them."""
    return [
        (name, file.relative_to(ROOT))
        for file in files_of(room)
        for name in imports(file)
        if name not in sys.stdlib_module_names
    ]


def is_under(name, room):
    return name == room or (room != "" and name.startswith(f"{room}."))


@pytest.mark.parametrize("room", ALLOWED)
def test_rooms(room):
    assert files_of(room)
    for name, file in edges(room):
        assert any(is_under(name, other) for other in ALLOWED[room]), f"{file} imports {name}"


@pytest.mark.parametrize("room", ALLOWED)
def test_what_may_be_imported_is(room):
    used = {name for name, _ in edges(room)}
    for other in ALLOWED[room]:
        assert any(is_under(name, other) for name in used), f"nothing in {room} imports {other}"


def test_every_file_is_in_a_room():
    inside = {file for room in ALLOWED for file in files_of(room)}
    files = set((ROOT / "remi_fast").rglob("*.py"))
    assert {file for file in files - inside if "kernels" not in file.parts} == set()  # a symlink


def test_only_native_imports_the_extension():
    for file in [*ROOT.glob("kernels/*.py"), *ROOT.glob("remi_fast/**/*.py")]:
        if file.name != "native.py":
            assert "_remi_fast_C" not in set(imports(file)), file


def test_who_has_the_extension():
    assert {room for room in ALLOWED if "kernels.native" in dict(edges(room))} == NATIVE


def test_csrc_includes_no_torch():
    for file in ROOT.glob("csrc/*"):
        assert "torch" not in file.read_text().replace("knows nothing of torch", ""), file


def test_nothing_imports_bench_or_tests():
    for file in [*ROOT.glob("kernels/*.py"), *ROOT.glob("remi_fast/**/*.py")]:
        assert not {name.split(".")[0] for name in imports(file)} & {"bench", "tests"}, file


@pytest.mark.parametrize(
    "code, heavy",
    [
        ("import remi_fast", {"torch", "polars", "numpy"}),
        ("from remi_fast.cli import main; main(['train', '--help'])", {"torch", "polars"}),
        ("from remi_fast.cli import main; main(['report', '--help'])", {"torch", "matplotlib"}),
        ("from remi_fast import api", {"polars", "faiss", "rich"}),
        ("from remi_fast import export", {"torch", "polars", "faiss", "onnx", "onnxruntime"}),
        ("from remi_fast.cli import main; main(['export', '--help'])", {"torch", "polars"}),
        ("from remi_fast.cli import main; main(['bench', 'loss', '--help'])", {"torch", "numpy"}),
    ],
)
def test_light_imports(code, heavy):
    script = (
        "import sys\ntry:\n    " + code + "\nexcept SystemExit:\n    pass\n"
        f"print('loaded:', sorted({heavy!r} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert "loaded: []" in done.stdout, done.stdout + done.stderr


def test_every_package_is_installed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = project["tool"]["setuptools"]["packages"]
    folders = [path.parent for path in (ROOT / "remi_fast").rglob("__init__.py")]
    found = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert set(listed) == found | {"remi_fast.kernels"}  # a symlink
