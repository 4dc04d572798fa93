"""No pickle, and nothing else that can run what a file says."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
BUILTINS = {"eval", "exec", "compile", "__import__"}
FUNCTIONS = {
    "torch": {"load", "save"},
    "torch.export": {"load"},  # unpickles where the file says so
    "torch.jit": {"load", "save"},
    "yaml": {"load", "load_all", "full_load", "full_load_all", "unsafe_load", "unsafe_load_all"},
}
NUMPY = {"np", "numpy"}


def dotted(node):
    """ "a.b.c" of an expression that is a name, or None."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (owner := dotted(node.value)):
        return f"{owner}.{node.attr}"
    return None


def is_banned(name):
    owner, _, function = name.rpartition(".")
    return name.split(".")[0] in MODULES or function in FUNCTIONS.get(owner, ())


def allows_pickle(call):
    """Whether it is np.load or np.save without allow_pickle=False."""
    owner, _, function = (dotted(call.func) or "").rpartition(".")
    if owner not in NUMPY or function not in ("load", "save", "savez"):
        return False
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    value = given.get("allow_pickle")
    return not (isinstance(value, ast.Constant) and value.value is False)


def uses(source):
    """What a source uses that it must not: (line, name)."""
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Attribute):
            names = [dotted(node) or ""]
        elif isinstance(node, ast.Call) and dotted(node.func) in BUILTINS:
            yield node.lineno, dotted(node.func)
        elif isinstance(node, ast.Call) and allows_pickle(node):
            yield node.lineno, f"{dotted(node.func)} without allow_pickle=False"
        yield from ((node.lineno, name) for name in names if is_banned(name))


@pytest.mark.parametrize("room", ["remi_fast", "kernels", "bench"])
def test_no_source_can_run_what_a_file_says(room):
    files = sorted((ROOT / room).rglob("*.py"))
    assert len(files) > 10
    found = [(file.name, *use) for file in files for use in uses(file.read_text())]
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import os, marshal as m",
        "from joblib import dump",
        "from torch import load",
        "def f():\n    import shelve",
        "x = torch.load(path, weights_only=True)",
        "torch.save(x, path)",
        "f = torch.jit.load",
        "torch.export.load(path)",
        "np.load(path)",
        "numpy.load(path, mmap_mode='r', allow_pickle=True)",
        "np.save(path, x)",
        "yaml.load(text, Loader=yaml.SafeLoader)",
        "yaml.unsafe_load(text)",
        "eval(text)",
        "x = [exec(t) for t in texts]",
        "__import__(name)",
    ],
)
def test_uses_are_found(source):
    assert len(list(uses(source))) == 1


def test_what_only_looks_like_it_is_not_found():
    source = "model.eval(); re.compile(x); np.load(p, allow_pickle=False); yaml.safe_load(t)"
    assert list(uses(source)) == []
