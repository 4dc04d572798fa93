"""What waits for a GPU, as pieces of a few minutes: `bench.run_pieces` runs them.

Each piece is one command with a time limit and a small form, which takes seconds on any machine: a
rehearsal that everything imports, runs and saves.
"""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
DATA = "{data}"  # in a command: the prepared folder that REMI_FAST_DATA names
FEW_ROUNDS = ("--rounds", "1", "--seconds", "0.01")


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
            name = "tests-" + path.stem.removeprefix("test_").replace("_", "-")
            words = ("pytest", "-q", "-p", "no:cacheprovider", file)
            found.append(Piece(name, f"{file}, natively", 240, words, ("--collect-only",)))
    return found


def sanitized(tool: str) -> list[Piece]:
    """A part of the kernels' tests under one of compute-sanitizer's tools."""
    parts = {
        "loss": ("ihn_loss", "odd_shapes or (triton and (same_bits or half_precision))"),
        "update": ("deferred_adam_triton", "same_bits or sums_over or outside_the_table"),
        "attention": ("self_attentive_triton", "same_bits or padding or half_precision"),
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
    module, *options = words.split()
    save = ("--save", f"gpu_{name}")
    return Piece(
        name, what, limit, (f"bench.{module}", *options, *save), tuple(small.split()), gib=gib
    )


def benchmarks() -> list[Piece]:
    """Each saves its results itself, as far as it came."""
    rounds = " ".join(FEW_ROUNDS)
    tiny_loss = f"--sizes 4x8 --precisions float32 {rounds}"
    tiny_update = f"--items 5e3 --batches 8 {rounds}"
    tiny_steps = f"--batch-size 8 --num-items 300 --users 50 --peers eager {rounds}"
    pieces = (
        [
            _benchmark(
                f"loss-{size.split('x')[0]}",
                f"the loss beside its peers, {size}",
                240,
                f"loss_in_turns --sizes {size}",
                tiny_loss,
            )
            for size in ("128x1280", "1024x10240", "8192x81920")
        ]
        + [
            _benchmark(
                "catalogue",
                "the loss against whole catalogues",
                300,
                "loss_in_turns --catalogue",
                tiny_loss,
            )
        ]
        + [
            _benchmark(
                f"update-{batch}",
                f"the table update beside its peers, batch {batch}, up to 10 M items",
                240,
                f"update_in_turns --batches {batch} --items 1e5 3.68e5 1e6 1e7",
                f"{tiny_update} --peers-at 5e3",
                gib=40,
            )
            for batch in (128, 1024, 8192)
        ]
        + [
            _benchmark(
                f"update-{batch}-1e8",
                f"the table update, batch {batch}, 1 M beside 100 M items",
                240,
                f"update_in_turns --batches {batch} --items 1e6 1e8 --ids uniform --peers-at",
                tiny_update,
                gib=90,
            )
            for batch in (128, 1024, 8192)
        ]
        + [
            _benchmark(
                "table-1e8",
                "memory and time of a table of 100 M rows in a loop of its own",
                120,
                "large_catalogue --device cuda --items 100000000",
                "--help",
                gib=80,
            ),
            _benchmark(
                "batches",
                "training batches drawn on the GPU, samples a second",
                180,
                "batches_in_turns",
                f"--batches 16 --users 2000 --draws 3 {rounds}",
            ),
        ]
        + [
            _benchmark(
                f"steps-{batch}",
                f"whole steps and their peers, batch {batch}, 100 k to 1 M items",
                300,
                f"whole_steps --batch-size {batch} --num-items 100000 368000 1000000"
                " --rounds 5 --seconds 0.5",
                tiny_steps,
                gib=30,
            )
            for batch in (128, 1024, 8192)
        ]
        + [
            _benchmark(
                "steps-1e7",
                "whole steps at 10 M items, by remi-fast alone",
                240,
                "whole_steps --batch-size 128 1024 8192 --num-items 10000000 --peers none"
                " --rounds 5 --seconds 0.5",
                tiny_steps,
                gib=50,
            ),
            _benchmark(
                "evaluation",
                "exact evaluation of 60,000 users beside torch matmul and topk",
                240,
                "evaluation_in_turns",
                "--users 50 --items 2000 --rounds 1",
                gib=30,
            ),
            _benchmark(
                "training",
                "one training with its curve, on the data of REMI_FAST_DATA",
                420,
                f"training_curve {DATA} --steps 1000000",
                "--steps 4 --eval-every 2 --batch-size 8",
            ),
        ]
    )
    return pieces


def pieces() -> list[Piece]:
    """All, in the order in which they run: what is quick and decides most comes first."""
    tests = native_tests()
    return tests + benchmarks() + sanitized("memcheck") + sanitized("racecheck")


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
