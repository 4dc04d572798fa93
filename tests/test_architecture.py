"""Who may import whom; see CONTRIBUTING.md."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OUTSIDE = {"torch", "triton", "numpy"}
# Of every room: the rooms of this project, and the packages, that it may import.
ALLOWED = {
    "kernels": {"kernels", "_remi_fast_C"} | OUTSIDE,
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
        "retrieval.faiss_index",
        "retrieval.search",
        "kernels",
        "functional",
        "losses",
        "optim",
        "config",
        "errors",
        "files",
        "",
        "cut_cross_entropy",
        "fbgemm_gpu",
        "liger_kernel",
        "matplotlib",
    }
    | OUTSIDE,
    "remi_fast/data": {
        "data",
        "errors",
        "files",
        "kernels.checks",
        "kernels.device_batches",
        "kernels.native",
        "kernels.philox",
        "polars",
        "rich",
    }
    | OUTSIDE,
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
        "polars",
        "safetensors",
        "faiss",
        "onnxruntime",
    }
    | OUTSIDE,
    "remi_fast/models": {
        "models",
        "config",
        "kernels.capsule_routing",
        "kernels.checks",
        "kernels.memory",
        "kernels.philox",
        "kernels.self_attentive",
        "kernels.self_attentive_query",
    }
    | OUTSIDE,
    "remi_fast/report": {
        "report",
        "config",
        "data.dataset",
        "errors",
        "files",
        "kernels.reference",
        "models",
        "retrieval",
        "training",
        "__version__",
        "",
        "matplotlib",
    }
    | OUTSIDE,
    "remi_fast/retrieval": {
        "retrieval",
        "models",
        "data.dataset",
        "data.scan",
        "errors",
        "extras",
        "files",
        "kernels.native",
        "kernels.permutation",
        "kernels.philox",
        "kernels.interest_search",
        "polars",
    }
    | OUTSIDE,
    "remi_fast/sweep": {
        "sweep",
        "api",
        "config",
        "errors",
        "files",
        "",
        "kernels.permutation",
        "retrieval.evaluate",
        "retrieval.metrics",
        "training.run_folder",
        "matplotlib",
        "optuna",
    },
    "remi_fast/training": {
        "training",
        "retrieval",
        "models",
        "data",
        "kernels",
        "losses",
        "optim",
        "config",
        "errors",
        "files",
        "",
        "yaml",
        "safetensors",
        "rich",
    }
    | OUTSIDE,
}
for module in ("functional", "losses", "optim"):
    rooms = {"kernels", "functional", "models.item_table", "errors"}
    ALLOWED[f"remi_fast/{module}.py"] = rooms | OUTSIDE


def imports(file):
    """Names imported by a file: "data.loader" for remi_fast.data.loader, "torch" for torch.nn."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            names = ["remi_fast.kernels"]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module]
            if node.module == "remi_fast":
                names = [f"remi_fast.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            top, _, rest = name.partition(".")
            yield rest if top == "remi_fast" else top


@pytest.mark.parametrize("room", ALLOWED)
def test_rooms(room):
    path = ROOT / room
    files = [path] if path.is_file() else sorted(path.rglob("*.py"))
    assert files
    for file in files:
        for name in imports(file):
            if name in sys.stdlib_module_names:
                continue
            allowed = any(name == a or (a and name.startswith(a + ".")) for a in ALLOWED[room])
            assert allowed, f"{file.relative_to(ROOT)} imports {name}"


def test_only_native_imports_the_extension():
    for file in [*ROOT.glob("kernels/*.py"), *ROOT.glob("remi_fast/**/*.py")]:
        if file.name != "native.py":
            assert "_remi_fast_C" not in set(imports(file)), file


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
