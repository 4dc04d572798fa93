"""What a person sees of a training."""

import logging
import re

import pytest

from remi_fast.config import TrainConfig
from remi_fast.training.progress import TrainingProgress, line

VALID, LOSS, SPEED = "valid recall@50 0.1234", "loss 5.700", "12,345 samples/s"


@pytest.mark.parametrize("width", [50, 60, 80, 100, 120, 200])
@pytest.mark.parametrize(
    "done, seconds, numbers",
    [
        ((3439, 20_000), 83.2, "3439/20000 0:01:24"),
        ((3439, 1_000_000), 13_464, "3439/1000000 3:44:24"),
        ((1_000_000, 1_000_000), 0, "1000000/1000000 0:00:00"),
        ((1, 1_000_000), None, "1/1000000 -:--:--"),
        ((7, 10**9), 900_000, "7/1000000000 10 days, 10:00:00"),
    ],
)
def test_step_and_time_left_are_never_cut(width, done, seconds, numbers):
    shown = re.sub(r"\[.*?\]", "", line(width, done, seconds, [VALID, LOSS, SPEED]))
    assert numbers in shown and len(shown) <= width
    parts = [part in shown for part in (VALID, LOSS, SPEED)]
    assert parts == sorted(parts, reverse=True), "the last goes first"
    assert all(parts) or width < 120


def test_the_bar_shrinks_before_anything_goes():
    done, more = (500, 1000), [VALID, LOSS]
    bars = {width: line(width, done, 60, more).count("━") for width in range(60, 100)}
    wide = max(bars.values())
    assert wide == 24 and line(99, done, 60, more).count(f"{'━' * 12}[/]") == 2
    whole = [width for width in bars if LOSS in line(width, done, 60, more)]
    assert bars[whole[0]] == 4 and whole == list(range(whole[0], 100))


class _Trained:
    step, mean_loss = 20, 5.7
    best = {"step": 10, "valid": {"recall@50": 0.25}}

    def speed(self):
        return {"samples_per_s": 12345.0}


def test_without_a_terminal_each_validation_is_a_line(caplog):
    caplog.set_level(logging.INFO)
    with TrainingProgress(TrainConfig(steps=40)) as shown:
        shown.update(_Trained())
        assert not caplog.messages
        shown.evaluated(_Trained(), {"recall@50": 0.2})
    assert caplog.messages == [
        "step 20 of 40: loss 5.700, 12,345 samples/s, valid recall@50 0.2000 (best 0.2500, step 10)"
    ]
