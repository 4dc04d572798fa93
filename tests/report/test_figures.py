"""The figures show what the logs and the models say."""

import numpy as np
import pytest
import torch

from remi_fast.report.probe import MAP_ITEMS, principal_components, sample_users
from remi_fast.report.runs import labels
from remi_fast.retrieval.histories import last_items
from remi_fast.training.trainer import load_model

from .conftest import HOSTILE, log

pytest.importorskip("matplotlib")
BOTH = (HOSTILE, "_remi")


@pytest.fixture
def drawn(look):
    """drawn(names...): runs, probes, and figures by name."""
    from remi_fast.report.figures import draw

    def make(*names):
        runs, probes = look(*names)
        return runs, probes, {picture.name: picture.figure for picture in draw(runs, probes)}

    return make


def test_curves_are_the_logs(drawn, trained):
    *_, figures = drawn(*BOTH)
    shown = {
        "loss": ("train", "loss"),
        "recall": ("valid", "recall@50"),
        "effective-negatives": ("diagnostics", "effective_negatives"),
        "hardness": ("diagnostics", "hardness"),
        "interests-used": ("diagnostics", "interests_used"),
        "largest-routing-weight": ("diagnostics", "largest_routing_weight"),
    }
    for name, (split, key) in shown.items():
        (axes,) = figures[name].axes
        lines = [line for line in axes.lines if line.get_linestyle() != "None"]
        for run, line in zip(BOTH, lines, strict=True):
            records = log(trained / run, split)
            assert list(line.get_xdata()) == [record["step"] for record in records]
            assert list(line.get_ydata()) == [record[key] for record in records]
        assert (
            axes.get_title(loc="left")
            and axes.get_xlabel() == "training step"
            and axes.get_ylabel()
        )
        entries = [text.get_text().strip("\u200b") for text in figures[name].legends[0].texts]
        assert entries[1] == "_remi" and entries[0][:9] == HOSTILE[:9]


def test_a_run_that_is_alone_is_not_named_below_each_figure(drawn):
    *_, figures = drawn("_remi")
    named = {
        name: [text.get_text() for legend in figure.legends for text in legend.texts]
        for name, figure in figures.items()
    }
    assert len(named) > 6 and not any("_remi" in text for each in named.values() for text in each)
    assert named["loss"] == named["interest-usage"] == []
    assert "collapsed" in named["largest-routing-weights"][0] and named["item-map-1"]


def test_the_best_validation_is_marked(drawn, trained):
    runs, _, figures = drawn(*BOTH)
    dots = [line for line in figures["recall"].axes[0].lines if line.get_marker() == "o"]
    for run, dot in zip(runs, dots, strict=True):
        assert list(dot.get_xdata()) == [run.result["best_step"]]
        assert list(dot.get_ydata()) == [run.result["valid"]["recall@50"]]


def test_throughput_is_between_two_lines_of_the_log(drawn, trained):
    *_, figures = drawn("_remi")
    (line,) = figures["throughput"].axes[0].lines
    seconds = np.array([0, *(record["seconds"] for record in log(trained / "_remi", "train"))])
    moved = np.diff(seconds) > 0
    expected = 100 * 32 / np.diff(seconds)[moved]
    np.testing.assert_allclose(line.get_ydata(), expected)


def test_the_best_weights_are_looked_into_as_at_their_validation(drawn, trained):
    runs, probes, figures = drawn(*BOTH)
    for run, probe in zip(runs, probes, strict=True):
        records = log(run.folder.path, "diagnostics")
        (then,) = [record for record in records if record["step"] == run.best[0]]
        assert probe.interests_used == pytest.approx(then["interests_used"], rel=1e-5)
        assert probe.largest.mean() == pytest.approx(then["largest_routing_weight"], rel=1e-5)
        assert probe.collapsed == np.mean(probe.largest > 0.5)
    bars = figures["interest-usage"].axes[0].containers
    for probe, container in zip(probes, bars, strict=True):
        heights = [bar.get_height() for bar in container]
        assert heights == pytest.approx(100 * probe.usage) and sum(heights) == pytest.approx(100)
    for probe, stairs in zip(probes, figures["largest-routing-weights"].axes[0].patches):  # noqa: B905
        values, edges, _ = stairs.get_data()
        assert sum(values) == pytest.approx(100) and list(edges[[0, -1]]) == [0, 1]
        assert values[-1] == pytest.approx(100 * np.mean(probe.largest >= edges[-2]))


def test_routing_of_the_same_users(drawn):
    runs, probes, figures = drawn(*BOTH, "mind")
    assert list(probes[0].routing) == list(probes[1].routing) == list(probes[2].routing)
    assert len(probes[0].routing) == 6
    for number, (run, probe) in enumerate(zip(runs, probes, strict=True), 1):
        *axes, bar = figures[f"routing-{number}"].axes
        assert bar.get_ylabel().startswith("routing weight")
        assert axes[-1].get_xlabel() == "item of the history (0: the latest)"
        meshes = [each.collections[0] for each in axes]
        for mesh, matrix in zip(meshes, probe.routing.values(), strict=True):
            np.testing.assert_array_equal(mesh.get_array(), matrix)
            np.testing.assert_allclose(matrix.sum(1), 1, rtol=1e-5)
            assert matrix.shape[0] == run.config.model.num_interests
        assert {mesh.norm.vmax for mesh in meshes} == {
            max(m.max() for each in probes for m in each.routing.values())
        }


def test_routing_is_that_of_the_model(look):
    (run,), (probe,) = look(HOSTILE)
    dataset = run.folder.dataset()
    model = load_model(run.folder, run.config, dataset.num_items)
    users = dataset.eval_split("valid")
    (row,) = np.flatnonzero(users.users == users.users[sample_users(dataset, 20)[2]])
    start, cut, _ = users.spans[row]
    history, length = last_items(dataset.items, np.array([start]), np.array([cut]), 20)
    with torch.no_grad():
        rows = model.table(torch.from_numpy(history))
        routing = model.extractor(rows, torch.from_numpy(length))[1]
    name = dataset.user_table["user_id"][int(users.users[row])]
    np.testing.assert_allclose(probe.routing[name], routing[0, :, : length[0]], rtol=1e-5)


def test_sample_users_have_long_histories(look):
    (run,), _ = look("_remi")
    dataset = run.folder.dataset()
    start, cut, _ = dataset.eval_split("valid").spans.T
    lengths = np.minimum(cut - start, 5)
    assert set(lengths[sample_users(dataset, 5)]) == {lengths.max()}
    longest = sample_users(dataset, 10**6)
    assert sorted((cut - start)[longest]) == sorted(cut - start)[-6:]


def test_the_map_is_coloured_by_the_interest_that_retrieves(look, drawn):
    (run,), (probe,), figures = drawn("_remi")
    dataset = run.folder.dataset()
    model = load_model(run.folder, run.config, dataset.num_items)
    spans = dataset.eval_split("valid").spans
    history, length = last_items(dataset.items, spans[:, 0], spans[:, 1], model.max_history)
    interests = model.interests(torch.from_numpy(history), torch.from_numpy(length))
    scores, nearest = torch.einsum("nkd,id->nki", interests, model.rows(1, dataset.num_items)).max(
        1
    )
    counts = np.zeros((dataset.num_items, 3))
    for user, top in enumerate(scores.topk(50, dim=1).indices.numpy()):
        counts[top + 1, nearest[user, top]] += 1
    target = model.read(torch.from_numpy(dataset.items[spans[:, 1]].astype(np.int64)))
    won = torch.einsum("nkd,nd->nk", interests, target).argmax(1)
    np.testing.assert_allclose(probe.usage, [float((won == k).float().mean()) for k in range(3)])
    expected = np.where(counts.sum(1) > 0, counts.argmax(1), -1)[1:]
    got = probe.item_map.interest
    assert sorted(got) == sorted(expected), "a small catalogue: every item is in the map"
    assert list(got) == [*expected[expected >= 0], *expected[expected < 0]]
    (axes,) = figures["item-map-1"].axes
    dots = np.concatenate([line.get_xydata() for line in axes.lines])
    assert len(dots) == len(got) < MAP_ITEMS
    assert {tuple(dot) for dot in dots} == {tuple(point) for point in probe.item_map.points}
    assert f"{100 * probe.item_map.explained[0]:.1f} %" in axes.get_xlabel()


def test_principal_components():
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(200, 6)) * [1, 5, 1, 3, 1, 1] + 7
    points, explained = principal_components(vectors)
    values, axes = np.linalg.eigh(np.cov(vectors.T))
    np.testing.assert_allclose(points.var(0, ddof=1), values[:-3:-1])
    np.testing.assert_allclose(explained, values[:-3:-1] / values.sum())
    np.testing.assert_allclose(
        np.abs(points), np.abs((vectors - vectors.mean(0)) @ axes)[:, :-3:-1]
    )
    assert np.corrcoef(points[:, 0], vectors[:, 1])[0, 1] > 0.9, "it points where it is positive"
    flat, none = principal_components(np.ones((3, 1)))
    assert flat.shape == (3, 2) and not flat.any() and not none.any()


def test_long_logs_are_thinned():
    from remi_fast.report.figures import thinned

    values = np.arange(1001.0)
    short = thinned(values)
    assert len(short) == 334 and short[0] == 1 and short[-1] == 999.5
    assert list(thinned(values[:400])) == list(values[:400])


def test_labels_tell_runs_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert labels([tmp_path / "a", tmp_path / "b/."]) == ["a", "b"]
    assert labels([tmp_path / "x/a", tmp_path / "y/a"]) == ["x/a", "y/a"]
    assert labels([tmp_path, tmp_path / "n\nl\udcff"]) == [tmp_path.name, "n\ufffdl\ufffd"]


def test_long_names_are_cut_in_figures_alone():
    from remi_fast.report.figures import NAME, short

    assert short("a" * NAME) == "a" * NAME
    assert len(short("a" * 500)) <= NAME and short("ab" * 50).endswith("b")
    assert short("") == ""


@pytest.mark.parametrize("dark", [False, True])
def test_colours_can_be_told_apart_by_the_colour_blind(dark):
    """On their background, 3 to 1; among each other, also without red, green or blue cones
    (Machado et al., 2009), at least 7 in CIE 1976 L*a*b*."""
    from remi_fast.report.style import SERIES

    colors = [linear(color) for color in (SERIES.values() if dark else SERIES)]
    for color in colors:
        luminances = sorted([XYZ[1] @ color, XYZ[1] @ linear("#14171b" if dark else "#ffffff")])
        assert (luminances[1] + 0.05) / (luminances[0] + 0.05) >= 3
    for seen in SEEN:
        places = [lab(np.clip(seen @ color, 0, 1)) for color in colors]
        for i, one in enumerate(places):
            assert all(np.linalg.norm(one - other) > 7 for other in places[:i])


SEEN = np.array(
    [
        np.eye(3),
        [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]],
        [[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]],
        [[1.2555, -0.0767, -0.1788], [-0.0784, 0.9308, 0.1476], [0.0047, 0.6914, 0.3039]],
    ]
)
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear(color):
    c = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def lab(color):
    x, y, z = XYZ @ color / [0.9505, 1, 1.089]
    x, y, z = (np.cbrt(v) if v > 0.008856 else 7.787 * v + 16 / 116 for v in (x, y, z))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])
