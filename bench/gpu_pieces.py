"""What waits for a GPU, as pieces of a few minutes: `bench.run_pieces` runs them.

Each piece is one command with a time limit and a small form, which takes seconds on any machine: a
rehearsal that everything imports, runs and saves.
"""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
DATA = "{data}"  # in a command: the prepared folder that REMI_FAST_DATA names
FEW_ROUNDS = "--rounds 1 --seconds 0.01"


@dataclass(frozen=True)
class Piece:
    """A command with its limit in seconds, and what it needs.

    command: the words after `python3 -m`. small: the same in its small form, added to the words.
    under: a program that it runs under, if it is there. gib: GPU memory it needs.
    """

    name: str
    what: str
    limit: int
    command: tuple[str, ...]
    small: tuple[str, ...]
    under: tuple[str, ...] = ()
    gib: int = 0

    @property
    def is_test(self) -> bool:
        """Whether pytest has the results, which are then kept from its report."""
        return self.command[0] == "pytest"


def native_tests() -> list[Piece]:
    """One piece for each test file that runs on the GPU where there is one."""
    found = []
    for path in sorted(ROOT.glob("tests/**/test_*.py")):
        if re.search(r"^from tests\.device import", path.read_text(encoding="utf-8"), re.M):
            file = str(path.relative_to(ROOT))
            name = re.sub(r"[/_]+", "-", file.removesuffix(".py").replace("test_", ""))
            words = ("pytest", "-q", "-p", "no:cacheprovider", file)
            found.append(Piece(name, f"{file}, natively", 240, words, ("--collect-only",)))
    return found


def sanitized(tool: str) -> list[Piece]:
    """A part of the kernels' tests under one of compute-sanitizer's tools."""
    parts = {
        "loss": ("ihn_loss", "odd_shapes or (triton and (same_bits or half_precision))"),
        "update": ("deferred_adam_triton", "same_bits or sums_over or outside_the_table"),
        "attention": ("self_attentive_triton", "same_bits or padding or half_precision"),
        "query": ("self_attentive_query", "same_bits or padding or ties"),
        "capsules": ("capsule_routing", "triton and (same_bits or padding)"),
        "batches": ("device_batches", "same_bits"),
    }
    return [
        Piece(
            f"{tool}-{part}",
            f"{tool} on tests/kernels/test_{file}.py: {chosen}",
            300,
            ("pytest", "-q", "-p", "no:cacheprovider", f"tests/kernels/test_{file}.py")
            + ("-k", chosen),
            ("--collect-only",),
            under=("compute-sanitizer", "--tool", tool, "--error-exitcode", "9"),
        )
        for part, (file, chosen) in parts.items()
    ]


def _benchmark(name: str, what: str, limit: int, words: str, small: str, gib: int = 0) -> Piece:
    """A program of bench/, which saves its results itself, as far as it comes."""
    command = (*f"bench.{words}".split(), "--save", f"gpu_{name}")
    return Piece(name, what, limit, command, tuple(small.split()), gib=gib)


def losses() -> list[Piece]:
    """The loss beside its peers: sampled, and against whole catalogues."""
    small = f"--sizes 4x8 --precisions float32 {FEW_ROUNDS}"
    sampled = ("128x1280", "1024x10240", "8192x81920")
    whole = ("128x100000", "1024x100000", "1024x1000000")
    return [
        _benchmark(f"loss-{size}", f"the loss beside its peers, {size}", 240,
                   f"loss_in_turns --sizes {size}", small)
        for size in sampled
    ] + [
        _benchmark(f"catalogue-{size}", f"the loss against a whole catalogue, {size}", 240,
                   f"loss_in_turns --catalogue --sizes {size}", small)
        for size in whole
    ]  # fmt: skip


def updates() -> list[Piece]:
    """The table update: beside its peers and up to 10 M items, and at 100 M."""
    small = f"--items 5e3 --batches 8 {FEW_ROUNDS}"
    found = []
    for batch in (128, 1024, 8192):
        found += [
            _benchmark(f"update-{batch}", f"the table update, batch {batch}: peers, to 10 M items",
                       240, f"update_in_turns --batches {batch} --items 1e5 3.68e5 1e6 1e7",
                       f"{small} --peers-at 5e3", gib=40),
            _benchmark(f"update-{batch}-1e8", f"the same, batch {batch}: 1 M beside 100 M items",
                       240, f"update_in_turns --batches {batch} --items 1e6 1e8 --ids uniform"
                       " --peers-at", small, gib=90),
        ]  # fmt: skip
    what, words = (
        "memory and time of 100 M rows in a loop of its own",
        "large_catalogue --device cuda",
    )
    table = _benchmark("table-1e8", what, 120, f"{words} --items 100000000", "--help", gib=80)
    return [*found, table]


def steps() -> list[Piece]:
    """Whole steps as `remi-fast bench` has them, a catalogue and a batch size each."""
    small = f"--batch-size 8 --num-items 300 --users 50 --peers eager {FEW_ROUNDS}"
    found = []
    for batch in (128, 1024, 8192):
        for items in (100_000, 368_000, 1_000_000, 10_000_000):
            large = items > 1_000_000
            words = f"whole_steps --batch-size {batch} --num-items {items} --rounds 5 --seconds 0.5"
            words += " --peers eager" if large else ""
            what = f"whole steps and their peers, batch {batch}, {items:,} items"
            gib = 70 if large else 20
            found.append(_benchmark(f"steps-{batch}-{items}", what, 240, words, small, gib))
        words = f"whole_steps --batch-size {batch} --precision tf32 bf16 --rounds 5 --seconds 0.5"
        what = f"whole steps and their peers, batch {batch}, tf32 and bf16"
        halves = f"{small} --precision fp32"
        found.append(_benchmark(f"steps-{batch}-half", what, 400, words, halves, gib=20))
    return found


def others() -> list[Piece]:
    """Batches, exact evaluation, and one training."""
    return [
        _benchmark("batches", "training batches drawn on the GPU, samples a second", 180,
                   "batches_in_turns", f"--batches 16 --users 2000 --draws 3 {FEW_ROUNDS}"),
        _benchmark("evaluation", "exact evaluation of 60,000 users beside torch matmul and topk",
                   240, "evaluation_in_turns", "--users 50 --items 2000 --rounds 1", gib=30),
        _benchmark("training", "one training with its curve, on the data of REMI_FAST_DATA", 420,
                   f"training_curve {DATA} --steps 1000000 --seconds 380",
                   "--steps 4 --eval-every 2 --batch-size 8"),
    ]  # fmt: skip


def pieces() -> list[Piece]:
    """All, in the order in which they run."""
    measured = [*losses(), *updates(), *others(), *steps()]
    return [*native_tests(), *measured, *sanitized("memcheck"), *sanitized("racecheck")]


def chosen(words: list[str]) -> list[Piece]:
    """The pieces that the words name: a name, or what it begins with up to a "-"; all without.

    Raises ValueError for a word that names none.
    """
    known = pieces()
    found = []
    for word in words:
        named = [each for each in known if each.name == word] or [
            each for each in known if each.name.startswith(f"{word}-")
        ]
        if not named:
            raise ValueError(f"got {word!r}, expected of: {' '.join(p.name for p in known)}")
        found += [each for each in named if each not in found]
    return found if words else known
