"""What a sweep tries: grids, ranges, samples."""

import json

import pytest

from remi_fast import sweep
from remi_fast.config import Config
from remi_fast.errors import ConfigError


def grid(*lines, sample=None):
    return sweep.grid(sweep.space(lines), sample)


def test_a_grid_is_all_combinations():
    found = grid("loss.beta=0,1", "--model.dim=8,16,32")
    assert len(found) == 6 and found[1] == {"loss.beta": "0", "model.dim": "16"}
    assert grid() == [{}]


def test_a_sample_is_of_different_combinations_and_repeats():
    lines = ["loss.beta=0,1,2,3", "model.dim=8,16,32"]
    drawn = grid(*lines, sample=5)
    assert len({json.dumps(each) for each in drawn}) == 5
    assert drawn == grid(*lines, sample=5) and grid(*lines, sample=50) == grid(*lines)
    everything = grid(*lines)
    assert all(each in everything for each in drawn)


@pytest.mark.parametrize("lines", [["loss.beta=0.01..10", "optim.lr=0..1"], ["loss.beta=0,1,2,3"]])
def test_a_larger_sample_holds_the_smaller_one(lines):
    assert all(each in grid(*lines, sample=40) for each in grid(*lines, sample=3))


@pytest.mark.parametrize("line", ["loss.beta", "loss.beta=", "=1", "loss.beta=0,,1"])
def test_lines_that_are_no_grid(line):
    with pytest.raises(ConfigError, match="--grid: got .*expected key=value,value"):
        grid(line)
    with pytest.raises(ConfigError, match="every key once"):
        grid("a=1", "a=2")


def test_keys_and_values_are_checked_first():
    sweep.check(Config(), [{"loss.beta": "0.5"}])
    with pytest.raises(ConfigError, match="did you mean --loss.beta"):
        sweep.check(Config(), [{"loss.beta": "1"}, {"loss.betta": "1"}])
    with pytest.raises(ConfigError, match="loss.beta"):
        sweep.check(Config(), [{"loss.beta": "-1"}])


def test_every_value_is_seen_and_of_a_range_its_ends():
    space = sweep.space(["model.name=mind,pop", "loss.beta=1e-2..10", "model.dim=8..64"])
    values = [("model.name", "mind"), ("model.name", "pop"), ("loss.beta", "0.01")]
    values += [("loss.beta", "10"), ("model.dim", "8"), ("model.dim", "64")]
    assert sweep.each_value(space) == [{key: value} for key, value in values]


@pytest.mark.parametrize(
    "line, middle",
    [
        ("loss.beta=0.01..10", "0.3162"),
        ("loss.beta=1..10", "3.162"),
        ("loss.beta=2..10", "6"),  # too near one another for a log scale
        ("loss.beta=0..10", "5"),
        ("model.dim=8..64", "36"),
        ("model.dim=1..10000", "100"),
    ],
)
def test_a_range_is_on_a_log_scale_where_its_ends_are_far_apart(line, middle):
    (values,) = sweep.space([line]).values()
    points = values.points()
    ends = line.partition("=")[2].split("..")
    assert len(points) == 1001 and [points[0], points[500], points[1000]] == [
        ends[0],
        middle,
        ends[1],
    ]
    assert all(values.low <= float(point) <= values.high for point in points)


def test_values_have_four_digits_and_stay_in_the_range():
    (values,) = sweep.space(["loss.beta=1.234567..1.234569"]).values()
    assert set(values.points()) == {"1.234569"}, "not 1.235"
    assert all(len(each["optim.lr"]) <= 9 for each in grid("optim.lr=1e-5..1e-1", sample=99))


def test_a_range_of_a_whole_number_has_whole_numbers_only():
    drawn = [each["model.num_interests"] for each in grid("model.num_interests=1..4", sample=60)]
    assert sorted(drawn) == ["1", "2", "3", "4"], "what is drawn again is one setting"


def test_a_sample_of_a_range_fills_it():
    drawn = [float(each["loss.beta"]) for each in grid("loss.beta=0.01..10", sample=300)]
    for low in (0.01, 0.1, 1):
        assert 70 < sum(low <= each < 10 * low for each in drawn) < 130
