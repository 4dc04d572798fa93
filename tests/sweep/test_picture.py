"""The picture shows what there is, in one colour each, and cuts nothing off."""

import pytest

from remi_fast import sweep
from remi_fast.config import Config

from .conftest import recall, train

pytest.importorskip("matplotlib")
LONG = {"loss.sampler": "popularity", "loss.sampler_alpha": "0.75", "train.sampling": "uniform"}


@pytest.fixture
def drawn(tmp_path):
    """drawn(settings, seeds): the rows, and their picture."""
    from remi_fast.sweep.picture import picture

    def draw(settings, seeds):
        folder = sweep.SweepFolder(tmp_path / "sweep", Config(), "data")
        done = {trial: train(folder, trial, None) for trial in folder.trials(settings, seeds)}
        rows = sweep.rows(done)
        return rows, picture(rows, "demo")

    return draw


def betas(number):
    return [{"loss.beta": f"{1 + i / 7:.4g}", **LONG} for i in range(number)]


def test_means_seeds_and_curves(drawn):
    rows, figure = drawn([{"loss.beta": "1"}, {"loss.beta": "10"}], [1, 2, 3])
    left, right = figure.axes
    dots = [line for line in left.lines if line.get_marker() == "o"]
    means = [line for line in left.lines if line.get_marker() == "|"]
    for place, row in enumerate(rows):
        dot, mean, curve = dots[place], means[place], right.lines[place]
        assert list(mean.get_ydata()) == [place] and set(dot.get_ydata().round()) == {place}
        values = [0.9 - recall(trial) for trial in row.trials]
        assert list(dot.get_xdata()) == pytest.approx(values)
        assert list(mean.get_xdata()) == pytest.approx([sum(values) / 3])
        assert list(curve.get_xdata()) == [0, 10, 20, 30], "as far as all seeds came"
        expected = sum(recall(trial) for trial in row.trials) / 3 * 3 / 4
        assert curve.get_ydata()[-1] == pytest.approx(expected)
        assert dot.get_color() == mean.get_color() == curve.get_color()
    assert dots[0].get_color() != dots[1].get_color()
    labels = left.get_yticklabels()
    assert [label.get_text() for label in labels] == ["beta=1", "beta=10"]
    assert [label.get_fontweight() for label in labels] == ["bold", "normal"]


@pytest.mark.parametrize("number", [1, 4, 30])
def test_no_name_is_cut_off_and_none_covers_another(drawn, number):
    rows, figure = drawn(betas(number), [1])
    figure.draw_without_rendering()
    labels = figure.axes[0].get_yticklabels()
    boxes = [label.get_window_extent() for label in labels]
    assert [" ".join(label.get_text().split()) for label in labels] == [row.name for row in rows]
    assert all(box.x0 >= 0 and box.y0 >= 0 for box in boxes)
    assert all(upper.y0 > lower.y1 for upper, lower in zip(boxes, boxes[1:], strict=False))
    assert figure.axes[0].get_position().width > 0.25, "names leave room for results"


def test_of_too_many_the_best_are_shown(drawn):
    rows, figure = drawn(betas(60), [1])
    left, right = figure.axes
    assert len(left.get_yticks()) == len(right.lines) == 40
    assert "40 best of 60 settings" in figure.get_suptitle()
    names = [" ".join(label.get_text().split()) for label in left.get_yticklabels()]
    assert names == [row.name for row in rows[:40]], "nearest to beta 1"


def test_what_was_not_trained_is_a_level_line(drawn):
    rows, _ = drawn([{"model.name": "pop"}, {"model.name": "mind"}], [1])
    (rows[0].trials[0].folder / "metrics.jsonl").unlink()
    _, figure = drawn([{"model.name": "pop"}, {"model.name": "mind"}], [1])
    level, curve = figure.axes[1].lines
    assert set(level.get_ydata()) == {rows[0].metrics()["valid recall@50"][0]}
    assert level.get_linestyle() == "--" and curve.get_linestyle() == "-"
