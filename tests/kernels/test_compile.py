"""What the compiler makes of the Triton kernels for GPUs that need not be there; and whether
bench/compile_report.py would notice."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bench import compile_report
from bench.compile_report import Compilation, launched, over_budget, problems
from bench.compile_variants import TENSOR_CORES, Variant, benchmarked
from remi_fast.kernels import ihn_loss_launch

ROOT = Path(__file__).parent.parent.parent
BENCHMARKED = str(benchmarked()[0])
GOOD = Compilation("partials", BENCHMARKED, 90, 100, 1000, spills=0, stack=0, mma="HGMMA")
STORED = {
    "triton": compile_report.triton.__version__,
    "budgets": {GOOD.name: {"sm_90": [100, 1000, "HGMMA"]}},
}
needs_tools = pytest.mark.skipif(
    not all((compile_report.TOOLS / name).exists() for name in ("cuobjdump", "nvdisasm", "ptxas")),
    reason="this triton came without NVIDIA's ptxas, cuobjdump and nvdisasm",
)


@needs_tools
@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100"])
def test_benchmarked_variants(target):
    command = "bench.compile_report", "--quick", "--json", "--jobs", "1", "--target", target
    done = subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    kernels = {made["kernel"] for made in json.loads(done.stdout)["compilations"]}
    loss = {"partials", "combine", "negative_gradients", "row_gradients"}
    adam = {"catch_up", "read", "carry", "update"}
    capsules = {"routing", "last_iteration_gradients", "last_update_gradients", "spread"}
    attention = {"attention", "gradients", "sum"}
    others = {"dense_adam", "draw_batch", "look"}
    assert kernels == loss | adam | capsules | attention | others


@needs_tools
def test_a_real_spill_is_found():
    script = """
from bench.compile_report import compile_for, problems
from bench.compile_variants import Variant
from remi_fast.kernels import ihn_loss_launch as launches
launches.forward_tiles = lambda *_: launches.Tiles(64, 64, 4, registers=72)
print(*problems(compile_for(90, [Variant("bf16")])), sep="\\n")
"""
    environment = {name: text for name, text in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True, text=True, check=True, cwd=ROOT, env=environment,
    )  # fmt: skip
    assert "partials: bf16 table B1024 d64 K4 beta=1 mask, sm_90: spills" in done.stdout


def test_what_fits_is_no_problem():
    assert problems([GOOD]) == over_budget([GOOD], STORED) == []


@pytest.mark.parametrize(
    "change, message",
    [
        ({"spills": 2}, "spills and bytes of stack: got (2, 0), expected (0, 0)"),
        ({"stack": 8}, "spills and bytes of stack: got (0, 8), expected (0, 0)"),
        ({"shared": 232_449}, "bytes of shared memory: got 232449, expected at most 232448"),
        ({"shared": 166_913, "target": 80, "mma": "HMMA"}, "expected at most 166912"),
        ({"mma": ""}, "matrix instructions: got none, expected HGMMA"),
        ({"mma": "HMMA"}, "matrix instructions: got HMMA, expected HGMMA"),
        ({"mma": "UTCHMMA", "target": 80}, "matrix instructions: got UTCHMMA, expected HMMA"),
        ({"mma": "", "variant": "bf16 of old"}, "matrix instructions: got none, expected some"),
    ],
)
def test_problems(change, message):
    (problem,) = problems([replace(GOOD, **change)])
    assert problem.startswith("partials: ") and f"sm_{change.get('target', 90)}: " in problem
    assert message in problem


@pytest.mark.parametrize(
    "change, message",
    [
        ({"registers": 101}, "registers: got 101, expected at most 100"),
        ({"shared": 1001}, "bytes of shared memory: got 1001, expected at most 1000"),
        ({"mma": "HGMMA+HMMA"}, "matrix instructions: got HGMMA+HMMA, expected HGMMA"),
        ({"target": 80}, "sm_80: budget: got none, expected one (--write-budgets)"),
        ({"variant": "another"}, "partials: another, sm_90: budget: got none"),
    ],
)
def test_over_budget(change, message):
    (problem,) = over_budget([replace(GOOD, **change)], STORED)
    assert message in problem


def test_budgets_of_another_triton_do_not_bind(capsys):
    worse = replace(GOOD, registers=101)
    assert over_budget([worse], STORED | {"triton": "0"}) == []
    assert "budgets of triton 0" in capsys.readouterr().err


def test_budgets_are_of_the_pinned_triton():
    stored = json.loads(compile_report.BUDGETS.read_text())
    assert f"triton=={stored['triton']}" in (ROOT / "constraints.txt").read_text().split()


@pytest.mark.parametrize("warpgroups", [True, False])
@pytest.mark.parametrize("arithmetic", TENSOR_CORES)
@pytest.mark.parametrize("batch, programs", [(128, 64), (1024, 264)])
def test_the_forward_grid_fills_the_gpu(monkeypatch, batch, programs, arithmetic, warpgroups):
    monkeypatch.setattr(ihn_loss_launch, "has_warpgroups", lambda: warpgroups)
    variant = Variant(arithmetic, batch, source="rows", options=("routing",))
    assert variant in benchmarked()
    (_, _, first), *_ = launched(variant)
    assert math.prod(first["grid"]) >= programs
