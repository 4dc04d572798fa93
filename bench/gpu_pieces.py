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
    words = "in_turns loss --precision fp32 tf32 bf16 --batch-size"
    small = f"--precision fp32 --batch-size 4 --peers eager {FEW_ROUNDS}"
    return [
        _benchmark(f"loss-{batch}x{10 * batch}", f"the loss beside its peers, batch {batch}", 240,
                   f"{words} {batch}", f"{small} --num-negatives 8")
        for batch in (128, 1024, 8192)
    ] + [
        _benchmark(f"catalogue-{batch}x{items}",
                   f"the loss against a whole catalogue of {items:,}, batch {batch}", 240,
                   f"{words} {batch} --catalogue {items}", f"{small} --catalogue 8")
        for batch, items in ((128, 100_000), (1024, 100_000), (1024, 1_000_000))
    ]  # fmt: skip


def updates() -> list[Piece]:
    """The table update: beside its peers, up to 10 M items, and at 100 M."""
    words, small = "in_turns update --batch-size", f"--num-items 5000 --batch-size 8 {FEW_ROUNDS}"
    alone = "--peers none --num-items"
    found = []
    for batch in (128, 1024, 8192):
        what = f"the table update, batch {batch}"
        found += [
            _benchmark(f"update-{batch}", f"{what}: its peers", 120, f"{words} {batch}", small,
                       gib=10),
            _benchmark(f"update-{batch}-1e7", f"{what}: 100,000 to 10 M items", 180,
                       f"{words} {batch} {alone} 100000 368000 1000000 10000000"
                       " --ids uniform zipf", small, gib=40),
            _benchmark(f"update-{batch}-1e8", f"{what}: 1 M beside 100 M items", 240,
                       f"{words} {batch} {alone} 1000000 100000000", small, gib=90),
        ]  # fmt: skip
    what, table = "memory and time of 100 M rows in a loop of its own", "large_catalogue"
    words = f"{table} --device cuda --items 100000000"
    return [*found, _benchmark("table-1e8", what, 120, words, "--help", gib=74)]


def steps() -> list[Piece]:
    """Whole steps as `remi-fast bench` has them, a catalogue and a batch size each."""
    small = f"--batch-size 8 --num-items 300 --users 50 --peers eager {FEW_ROUNDS}"
    common = "--rounds 5 --seconds 0.5"
    words = "in_turns step --batch-size 128 --num-items 368000 --peers eager --rounds 3"
    found = [
        _benchmark("steps-first", "whole steps, batch 128, 368,000 items, without compiled peers",
                   120, words, small, gib=20)
    ]  # fmt: skip
    for batch in (128, 1024, 8192):
        for items in (100_000, 368_000, 1_000_000, 10_000_000):
            large = items > 1_000_000
            words = f"in_turns step --batch-size {batch} --num-items {items} {common}"
            words += " --peers eager" if large else ""
            what = f"whole steps and their peers, batch {batch}, {items:,} items"
            gib = 70 if large else 20
            found.append(_benchmark(f"steps-{batch}-{items}", what, 240, words, small, gib))
        words = f"in_turns step --batch-size {batch} --precision tf32 bf16 {common}"
        what = f"whole steps and their peers, batch {batch}, tf32 and bf16"
        halves = f"{small} --precision fp32"
        found.append(_benchmark(f"steps-{batch}-half", what, 400, words, halves, gib=20))
    return found


def others() -> list[Piece]:
    """Batches, exact evaluation, and one training."""
    return [
        _benchmark("batches", "training batches drawn on the GPU, samples a second", 180,
                   "in_turns loader --batch-size 128 1024 8192 --users 650000 --peers none",
                   f"--batch-size 16 --users 2000 {FEW_ROUNDS}"),
        _benchmark("evaluation", "exact evaluation of 60,000 users beside torch matmul and topk",
                   240, "in_turns eval --users 60000", "--users 50 --num-items 2000 --rounds 1",
                   gib=30),
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
