"""Compiles the Triton kernels for GPUs that are not there, and checks what the compiler made of it.

python -m bench.compile_report --quick      # the benchmarked variants, about a minute
python -m bench.compile_report              # all shipped variants

Every variant is compiled with the tiles and argument types of a real call, for sm_80, sm_90 and
sm_100: no register may be spilled, shared memory must fit, tensor cores must be used, and registers
and shared memory must stay within bench/compile_budgets.json. It says nothing about speed.
"""

import argparse
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any
from unittest import mock

import triton
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase

from bench import compile_variants as variants
from bench.compile_variants import AnyVariant
from remi_fast.kernels import (
    capsule_routing_launch,
    deferred_adam_launch,
    dense_adam_launch,
    device_batches_launch,
    ihn_loss_launch,
    self_attentive_launch,
    step_guard_launch,
)

BUDGETS = Path(__file__).parent / "compile_budgets.json"
TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"
SHARED_LIMITS = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}  # bytes, of a thread block
TENSOR_CORES = {80: "HMMA", 90: "HGMMA", 100: "UTCHMMA"}  # that the benchmarked variants must use
_LAUNCHING = (
    capsule_routing_launch,
    deferred_adam_launch,
    dense_adam_launch,
    device_batches_launch,
    ihn_loss_launch,
    self_attentive_launch,
    step_guard_launch,
)
_WITH_DOTS = ("partials", "negative_gradients")  # kernels that multiply matrices


@dataclass(frozen=True)
class Compilation:
    """What the compiler made of a kernel."""

    kernel: str
    variant: str  # the first one that needs it
    target: int  # 90 for sm_90
    registers: int  # of a thread
    shared: int  # bytes, of a thread block
    spills: int  # loads and stores of registers that did not fit
    stack: int  # bytes, of a thread
    mma: str  # kinds of matrix instructions, joined by +

    @property
    def name(self) -> str:
        """What it is called in the budgets."""
        return f"{self.kernel}: {self.variant}"


class AbsentGPU(DriverBase):
    """A driver of GPUs that are not there; device 90 is an sm_90.

    Triton keeps what it compiled by device, so that one process can serve several targets.
    """

    def __init__(self, capability: int) -> None:
        self.capability = capability

    @classmethod
    def is_active(cls) -> bool:
        return True

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return self.capability

    def get_current_stream(self, _device: int) -> int:
        return 0

    def map_python_to_cpp_type(self, ty: str) -> str:
        raise NotImplementedError

    def get_active_torch_device(self) -> Any:
        raise NotImplementedError

    def get_benchmarker(self) -> Any:
        raise NotImplementedError


def compile_for(target: int, chosen: list[AnyVariant]) -> list[Compilation]:
    """What these variants launch on an sm_<target>; what several launch, once."""
    triton.runtime.driver.set_active(AbsentGPU(target))
    made: dict[str, Compilation] = {}
    for variant in chosen:
        for kernel, arguments, options in launched(variant):
            compiled = kernel.warmup(*arguments, **options)
            if compiled.hash not in made:
                made[compiled.hash] = Compilation(
                    kernel=kernel.fn.__name__.removesuffix("_kernel"),
                    variant=str(variant),
                    target=target,
                    shared=compiled.metadata.shared,  # asked for at the launch: not in the binary
                    **resources(compiled.asm["cubin"]),
                )
    return list(made.values())


def launched(variant: AnyVariant) -> list[tuple[Any, tuple[Any, ...], dict[str, Any]]]:
    """Kernel, arguments and options (the grid, too) of each launch of a variant."""
    launches_made = []

    def note(kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
        launches_made.append((kernel, arguments, {"grid": grid} | options))

    with ExitStack() as patches:
        for module in _LAUNCHING:
            patches.enter_context(mock.patch.object(module, "launch", note))
        variants.run(variant)
    return launches_made


def resources(cubin: bytes) -> dict[str, Any]:
    """Registers, spills, stack and kinds of matrix instructions of a compiled kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = _tool("cuobjdump", "-res-usage", file.name)
        listing = _tool("nvdisasm", "-c", file.name)
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    opcodes = re.findall(r"^\s*/\*[0-9a-f]+\*/\s+(?:@!?\w+\s+)?([A-Z][A-Z0-9]*)", listing, re.M)
    if not found or not opcodes:
        raise ValueError(f"cuobjdump and nvdisasm: got {usage[:500]!r}, {listing[:500]!r}")
    return {
        "registers": int(found[1]),
        "stack": int(found[2]),
        "spills": opcodes.count("LDL") + opcodes.count("STL"),
        "mma": "+".join(sorted({opcode for opcode in opcodes if opcode.endswith("MMA")})),
    }


def _tool(name: str, *arguments: str) -> str:
    done = subprocess.run([TOOLS / name, *arguments], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def compile_all(
    targets: list[int], chosen: list[AnyVariant], jobs: int
) -> Iterator[list[Compilation]]:
    """`compile_for` each target in new processes, which Triton's interpreter does not rule."""
    os.environ.pop("TRITON_INTERPRET", None)
    families: dict[str, list[AnyVariant]] = {}
    for variant in chosen:
        families.setdefault(variant.arithmetic, []).append(variant)
    tasks = [(target, family) for family in families.values() for target in targets]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        for number, part in enumerate(pool.map(compile_for, *zip(*tasks, strict=True)), 1):
            print(f"{number} of {len(tasks)} parts compiled", file=sys.stderr, flush=True)
            yield part


def problems(made: list[Compilation]) -> list[str]:
    """What no budget may allow: spills, too much shared memory, no tensor cores."""
    benchmarked = {str(variant) for variant in variants.benchmarked()}
    found = []
    for c in made:
        if c.spills or c.stack:
            found.append(_problem(c, "spills and bytes of stack", (c.spills, c.stack), (0, 0)))
        limit = SHARED_LIMITS[c.target]
        if c.shared > limit:
            found.append(_problem(c, "bytes of shared memory", c.shared, f"at most {limit}"))
        if c.kernel in _WITH_DOTS and not c.variant.startswith("float64"):
            due = TENSOR_CORES[c.target] if c.variant in benchmarked else "some"
            if not c.mma or due not in ("some", *c.mma.split("+")):
                found.append(_problem(c, "matrix instructions", c.mma or "none", due))
    return found


def over_budget(made: list[Compilation], stored: dict[str, Any]) -> list[str]:
    """Where a compilation takes more than its budget, or other matrix instructions.

    stored: the version of triton, and {compilation: {target: [registers, shared bytes, mma]}}.
    Another triton has another compiler: its registers are not judged.
    """
    if stored["triton"] != triton.__version__:
        print(f"budgets of triton {stored['triton']}, not {triton.__version__}", file=sys.stderr)
        return []
    found = []
    for c in made:
        budget = stored["budgets"].get(c.name, {}).get(f"sm_{c.target}")
        if budget is None:
            found.append(_problem(c, "budget", "none", "one (--write-budgets)"))
            continue
        registers, shared, mma = budget
        if c.registers > registers:
            found.append(_problem(c, "registers", c.registers, f"at most {registers}"))
        if c.shared > shared:
            found.append(_problem(c, "bytes of shared memory", c.shared, f"at most {shared}"))
        if c.mma != mma:
            found.append(_problem(c, "matrix instructions", c.mma or "none", mma or "none"))
    return found


def _problem(c: Compilation, what: str, got: object, expected: object) -> str:
    return f"{c.name}, sm_{c.target}: {what}: got {got}, expected {expected}"


def write_budgets(made: list[Compilation], path: Path = BUDGETS) -> None:
    """Renew the budgets of these compilations, one line each; those of others stay."""
    budgets: dict[str, dict[str, Any]] = {}
    if path.exists():
        budgets = json.loads(path.read_text(encoding="utf-8"))["budgets"]
    for c in made:
        budgets.setdefault(c.name, {})[f"sm_{c.target}"] = [c.registers, c.shared, c.mma]
    lines = [f"{json.dumps(name)}: {json.dumps(budgets[name])}" for name in sorted(budgets)]
    text = ",\n".join(lines)
    head = f'{{"triton": {json.dumps(triton.__version__)}, "budgets": {{'
    path.write_text(f"{head}\n{text}\n}}}}\n", encoding="utf-8")


def show(made: list[Compilation], targets: list[int]) -> None:
    """One line a compilation, then one a target."""
    names = [name for name, _ in _by_name(made)]
    width = max(map(len, names))
    print(" " * width, *(f"{f'sm_{target}':^25}" for target in targets))
    for name, group in _by_name(made):
        cells = [f"{c.registers:3} regs {c.shared / 1024:5.1f} KB {c.mma:7}" for c in group]
        print(f"{name:{width}}", *cells)
    for target in targets:
        mine = [c for c in made if c.target == target]
        print(
            f"sm_{target}: {len(mine)} compilations, at most {max(c.registers for c in mine)} "
            f"registers and {max(c.shared for c in mine) / 1024:.1f} KB of shared memory, "
            f"{sum(c.spills for c in mine)} spills, "
            f"matrix instructions {', '.join(sorted({c.mma for c in mine if c.mma}))}"
        )


def _by_name(made: list[Compilation]) -> list[tuple[str, list[Compilation]]]:
    ordered = sorted(made, key=lambda c: (c.name, c.target))
    return [(name, list(group)) for name, group in groupby(ordered, lambda c: c.name)]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    names = [f"sm_{target}" for target in SHARED_LIMITS]
    add("--quick", action="store_true", help="only the variants that are benchmarked")
    add("--target", choices=names, action="append", help="may be repeated; default: all three")
    add("--jobs", type=int, default=os.cpu_count(), help="processes (default: %(default)s)")
    add("--json", action="store_true", help="print JSON in the place of the table")
    add("--write-budgets", action="store_true", help=f"renew them in bench/{BUDGETS.name}")
    arguments = parser.parse_args()
    arguments.target = [int(name.removeprefix("sm_")) for name in arguments.target or names]
    return arguments


def main() -> None:
    """Compile, show, check; exit status 1 where something is wrong."""
    arguments = _arguments()
    chosen = variants.benchmarked() if arguments.quick else variants.shipped()
    made: list[Compilation] = []
    for part in compile_all(arguments.target, chosen, arguments.jobs):
        made += part
        if arguments.write_budgets:  # after each part: a run cut short leaves what it had
            write_budgets([c for c in part if not problems([c])])
    found = problems(made)
    if not arguments.write_budgets:
        found += over_budget(made, json.loads(BUDGETS.read_text(encoding="utf-8")))
    if arguments.json:
        compilations = [asdict(c) for _, group in _by_name(made) for c in group]
        print(json.dumps({"compilations": compilations, "problems": found}, indent=1))
    else:
        show(made, arguments.target)
    for problem in found:
        print(problem, file=sys.stderr)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
