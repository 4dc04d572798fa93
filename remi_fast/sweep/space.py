"""What a sweep tries: lists and ranges of values, all combinations of them or a sample."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import product
from typing import Any, cast

from remi_fast.config import Config, with_options
from remi_fast.errors import ConfigError
from remi_fast.sweep.runs import Settings, as_options

_POINTS = 1001  # of a range, when a sample is drawn
_MOST = 2**62  # combinations a sample can be drawn from


@dataclass(frozen=True)
class Range:
    """Numbers from low to high, on a log scale where both are above 0 and 10 times apart or more.

    whole: whole numbers only. Others are rounded to four digits: they name folders.
    """

    low: float
    high: float
    whole: bool

    @property
    def log(self) -> bool:
        """Whether ratios count, not differences."""
        return self.low > 0 and self.high >= 10 * self.low

    def text(self, value: float) -> str:
        """A number of the range, as on the command line."""
        if self.whole:
            return str(round(value))
        return as_text(min(max(float(f"{value:.4g}"), self.low), self.high))

    def points(self) -> list[str]:
        """Evenly spaced on the scale, with both ends; whole numbers may come several times."""
        shares = [i / (_POINTS - 1) for i in range(_POINTS)]
        if self.log:
            return [self.text(self.low * (self.high / self.low) ** share) for share in shares]
        return [self.text(self.low + (self.high - self.low) * share) for share in shares]


Space = dict[str, list[str] | Range]  # configuration key -> the values to try


def space(lines: Sequence[str]) -> Space:
    """The values that lines of `key=value,value...` or `key=low..high` ask for.

    Raises ConfigError for a line of another form, or a key that comes twice.
    """
    found: Space = {}
    for line in lines:
        key, equals, values = line.removeprefix("--").partition("=")
        if not (key and equals and all(values.split(","))) or key in found:
            raise ConfigError(
                f"--grid: got {line!r}, expected key=value,value... such as loss.beta=0,1, "
                "or key=low..high, every key once"
            )
        if key == "train.seed":
            raise ConfigError(f"--grid: got {line!r}, expected seeds in --seeds")
        found[key] = _range(line, key, values) if ".." in values else values.split(",")
    return found


def _range(line: str, key: str, values: str) -> Range:
    kinds = {
        f"{section.name}.{each.name}": each.type
        for section in fields(Config)
        for each in fields(cast(Any, section.type))
    }
    low, _, high = values.partition("..")
    try:
        found = Range(float(low), float(high), whole=kinds.get(key) is int)
    except ValueError:
        found = Range(0, 0, whole=False)
    if not found.low < found.high:
        raise ConfigError(
            f"--grid: got {line!r}, expected key=low..high with two numbers, the lower first, "
            "such as loss.beta=0.01..10"
        )
    return found


def as_text(value: float) -> str:
    """All digits of a number, and no more."""
    return repr(value).removesuffix(".0")


def each_value(space: Space) -> list[Settings]:
    """Every value by itself, of a range its ends: what `check` has to see."""
    return [
        {key: value}
        for key, values in space.items()
        for value in (_ends(values) if isinstance(values, Range) else values)
    ]


def _ends(values: Range) -> list[str]:
    return [as_text(values.low), as_text(values.high)]


def most(space: Space, key: str, default: float) -> float:
    """The largest value of a key of numbers; `default` where it is not varied."""
    if (values := space.get(key)) is None:
        return default
    return values.high if isinstance(values, Range) else max(map(float, values))


def check(config: Config, settings: Sequence[Settings], seeds: Sequence[int] = ()) -> None:
    """Raise ConfigError, before anything is made, for a key or value that is none."""
    for each in settings:
        options = as_options(each.items())
        try:
            with_options(config, options)
        except ConfigError as error:
            raise ConfigError(f"{' '.join(options)}: {error}") from None
    for seed in seeds:
        with_options(config, [f"--train.seed={seed}"])


def grid(space: Space, sample: int | None = None) -> list[Settings]:
    """All combinations of the values; or `sample` of them, drawn without repeats.

    A larger sample holds the smaller one. Of a range 1,001 points are drawn from; samples that
    whole numbers make equal are one. Raises ConfigError for a range without `sample`, or for more
    than 2^62 combinations to draw from.
    """
    ranges = [key for key, values in space.items() if isinstance(values, Range)]
    if sample is None and ranges:
        raise ConfigError(
            f"--grid: got a range for {ranges[0]}, expected --sample N or --optuna N with it"
        )
    values = [v.points() if isinstance(v, Range) else v for v in space.values()]
    total = math.prod(map(len, values))
    if sample is None or sample >= total:
        return [dict(zip(space, each, strict=True)) for each in product(*values)]
    if total > _MOST:
        raise ConfigError(f"--grid: got {total:,} combinations, expected at most 2^62 to sample")
    from remi_fast.kernels.permutation import permute

    chosen = sorted(permute(range(sample), total, seed=0, step=0))
    drawn = [_combination(values, int(i)) for i in chosen]
    return [dict(zip(space, each, strict=True)) for each in dict.fromkeys(drawn)]


def _combination(values: Sequence[list[str]], number: int) -> tuple[str, ...]:
    """The one that `product` makes as `number`."""
    found: list[str] = []
    for each in reversed(values):
        number, place = divmod(number, len(each))
        found.append(each[place])
    return tuple(reversed(found))
