"""`remi-fast bench`: everyone is checked and timed, and what is printed is what was measured."""

import json
import statistics

import pytest
import torch

from remi_fast.benchmark import resources, steps
from remi_fast.benchmark.peers import EagerModel, RepairedModel
from remi_fast.benchmark.phases import phases
from remi_fast.benchmark.steps import Data, check, check_memory, compare, contestants
from remi_fast.benchmark.turns import PLAIN, REMI, compared, take_turns
from remi_fast.cli import main
from remi_fast.cli.bench import common, step
from remi_fast.config import Config, LossConfig, ModelConfig, TrainConfig
from remi_fast.errors import BenchmarkError, ConfigError
from tests.training.test_no_synchronisation import ALLOWED, OnlyAllowed

ITEMS, USERS, BATCH = 300, 40, 16
OURS = {REMI, "remi-fast, IHN only", "remi-fast, RR only", PLAIN}
EAGER = {
    "published, L x L matrices",
    "published, without them",
    "repaired: our loader, fused Adam",
}
CONFIG = steps.settings(BATCH)


@pytest.fixture(scope="module", autouse=True)
def small_copies():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(resources.COPIED, "cpu", 1 << 16)
        yield


@pytest.fixture(scope="module")
def case():
    return compare(Data(ITEMS, USERS), CONFIG, peers="eager", rounds=3, seconds=0.001)


def test_everyone_takes_part(case):
    assert case["contestants"].keys() == OURS | EAGER
    assert (case["batch_size"], case["items"], case["negatives"]) == (BATCH, ITEMS, 10 * BATCH)
    assert (case["device"], case["precision"]) == ("cpu", "fp32")
    for row in case["contestants"].values():
        assert len(row["rounds"]) == 3 and min(row["rounds"]) > 0
        assert row["ms"] == pytest.approx(statistics.median(row["rounds"]), abs=1e-3)
        assert row["samples_per_s"] == pytest.approx(1e3 * BATCH / row["ms"], abs=0.51)
    assert case["checked"]["loss"] == pytest.approx(case["checked"]["loss_of_peer"], rel=1e-4)


def test_the_cost_of_remi_is_by_round(case):
    remi, plain = (case["contestants"][name]["rounds"] for name in (REMI, PLAIN))
    ratios = sorted(a / b for a, b in zip(remi, plain, strict=True))
    cost = case["remi_by_plain"]
    found = [cost["lowest"], cost["ratio"], cost["highest"]]
    assert found == pytest.approx(ratios, abs=1e-3)


def test_turns_go_round_and_the_first_round_is_left_out():
    calls = []
    runs = {name: lambda name=name: calls.append(name) for name in "ab"}
    times = take_turns(runs, rounds=2, seconds=0)
    assert calls == ["a", "a", "b", "b"] * 3
    assert {name: len(values) for name, values in times.items()} == {"a": 2, "b": 2}
    table = compared({"a": [1.0, 2.0, 4.0], "b": [2.0, 8.0, 4.0]}, "a")
    assert table["b"]["ms"] == 4 and table["b"]["ratio"] == 2
    assert table["b"]["ratio_range"] == [1, 4]


@pytest.mark.parametrize("where", ["loss", "update"])
def test_contestants_that_differ_are_refused(monkeypatch, where):
    """The test of the check."""
    if where == "loss":
        whole = steps.EagerModel.forward
        monkeypatch.setattr(
            steps.EagerModel, "forward", lambda *arguments: 1.001 * whole(*arguments)
        )
    else:
        whole_step = torch.optim.Adam.step

        def late(self, *arguments):
            if self.param_groups[0]["fused"]:  # ours
                return whole_step(self, *arguments)
            return None

        monkeypatch.setattr(torch.optim.Adam, "step", late)
    with pytest.raises(RuntimeError, match="do not compute the same"):
        check(Data(ITEMS, USERS), CONFIG)


@pytest.mark.parametrize("count, is_let_through", [(1, True), (64, False)])
def test_a_few_elements_may_move_otherwise(monkeypatch, count, is_let_through):
    """Of some row of the peer's table so many do not move: all are too many."""
    whole_step = torch.optim.Adam.step

    def but_for_a_row(self, *arguments):
        if self.param_groups[0]["fused"]:  # ours
            return whole_step(self, *arguments)
        weight = self.param_groups[0]["params"][-1].detach()  # of the item table
        before = weight.clone()
        whole_step(self, *arguments)
        row = int((weight - before).abs().sum(dim=1).argmax())
        weight[row, :count] = before[row, :count]
        return None

    monkeypatch.setattr(torch.optim.Adam, "step", but_for_a_row)
    if is_let_through:
        assert 0 < check(Data(ITEMS, USERS), CONFIG)["difference_by_moves"] < steps.MOST_APART
    else:
        with pytest.raises(BenchmarkError, match="do not compute the same"):
            check(Data(ITEMS, USERS), CONFIG)


def test_the_repaired_model_is_the_published_one_with_one_lookup(monkeypatch):
    found, lookups = [], []
    look_up = torch.nn.Embedding.forward
    monkeypatch.setattr(
        torch.nn.Embedding, "forward", lambda self, ids: lookups.append(1) or look_up(self, ids)
    )
    for kind in (EagerModel, RepairedModel):
        torch.manual_seed(0)
        model = steps._model(kind, ITEMS, CONFIG)
        history, length, target = next(steps.tensors(Data(ITEMS, USERS).loader(CONFIG)))
        loss = model(history, length, target, torch.arange(1, 40), 1.0, 100.0)
        loss.backward()
        found.append([loss.detach(), *(x.grad for x in model.parameters())])
        lookups.append(0)
    assert lookups == [1, 1, 1, 0, 1, 0]
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


@pytest.fixture
def as_graph(monkeypatch):
    """A graph of three steps, without a GPU; what it holds."""
    held = []

    def captured(run, device):
        run()
        held.append(run)
        return run, True

    monkeypatch.setattr(steps, "captured", captured)
    monkeypatch.setattr(steps, "STEPS_A_GRAPH", 3)
    return held


def test_a_graph_of_whole_steps_makes_those_of_the_repaired_recipe(monkeypatch, as_graph):
    data, losses, one_step = Data(ITEMS, USERS), [], steps._eager_step

    def noted(*arguments):
        losses.append(one_step(*arguments).item())
        return torch.tensor(losses[-1])

    monkeypatch.setattr(steps, "_eager_step", noted)
    torch.manual_seed(0)
    made = steps.whole_graph(data, CONFIG)
    made.run()
    assert made.steps == 3
    by_graph, losses[:] = losses.copy(), []
    torch.manual_seed(0)
    eager = steps.eager(data, CONFIG, steps.tensors(data.loader(CONFIG)), repaired=True)
    for _ in range(6):
        eager.run()
    assert by_graph == losses and len(set(losses)) == 6


def test_a_graph_of_whole_steps_waits_for_nothing(as_graph):
    listed = ALLOWED | {f"aten.{name}" for name in OF_AUTOGRAD}
    steps.whole_graph(Data(ITEMS, USERS), CONFIG)
    with OnlyAllowed(listed):
        as_graph[0]()


# Kernels whose output sizes follow from the sizes of their inputs, and views.
OF_AUTOGRAD = [
    "_foreach_add_.Scalar", "_fused_adam_.default", "_softmax.default",
    "_softmax_backward_data.default", "argmax.default", "div.Scalar", "embedding.default",
    "eq.Scalar", "index_put.default", "logsumexp.default", "mean.default", "mean.dim",
    "mm.default", "mul.Scalar", "neg.default", "ones_like.default", "pow.Tensor_Scalar",
    "randint.low", "scalar_tensor.default", "softplus.default", "softplus_backward.default",
    "sum.dim_IntList", "t.default", "tanh.default", "tanh_backward.default", "where.self",
]  # fmt: skip


def test_a_graph_that_cannot_be_is_not_timed(monkeypatch):
    monkeypatch.setattr(steps, "captured", lambda run, device: (run, False))
    with pytest.raises(BenchmarkError, match="cannot be captured"):
        steps.whole_graph(Data(ITEMS, USERS), CONFIG)


def test_batches_are_the_same_by_way_of_the_upload():
    data = Data(ITEMS, USERS)
    mine = steps.uploaded(data.loader(CONFIG), torch.device("cpu"))
    for batch, its in zip(range(4), steps.tensors(data.loader(CONFIG)), strict=False):
        assert all(torch.equal(a, b) for a, b in zip(next(mine), its, strict=True)), batch


def test_times_outlive_a_profiler_that_fails(monkeypatch):
    def no_cupti(*_):
        raise RuntimeError("CUPTI_ERROR_INSUFFICIENT_PRIVILEGES")

    monkeypatch.setattr(resources, "launched", no_cupti)
    found = steps.profiled(steps.Contestant(lambda: None))
    assert found == {"not_profiled": "RuntimeError: CUPTI_ERROR_INSUFFICIENT_PRIVILEGES"}


def test_who_takes_part_on_a_gpu(monkeypatch):
    monkeypatch.setattr(steps, "training_device", lambda _: torch.device("cuda"))
    graph = {"repaired recipe as one CUDA graph"}
    compiled = {"repaired and torch.compile", "repaired, compiled to CUDA graphs"}
    for peers, more in {"none": set(), "eager": EAGER | graph}.items():
        assert contestants(Data(ITEMS, USERS), CONFIG, peers).keys() == OURS | more
    everyone = contestants(Data(ITEMS, USERS), CONFIG, "all").keys()
    assert everyone == OURS | EAGER | graph | compiled


def test_who_takes_part():
    def names(batch, peers):
        return contestants(Data(ITEMS, USERS), steps.settings(batch), peers).keys()

    assert names(1024, "none") == OURS
    assert names(1024, "all") == OURS | EAGER | {"repaired and torch.compile"}
    assert names(2048, "eager") == OURS | {"repaired: our loader, fused Adam"}


def test_a_peer_that_cannot_run_says_why(monkeypatch):
    def no_compiler(*arguments, **options):
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(torch, "compile", no_compiler)
    found = compare(Data(ITEMS, USERS), CONFIG, peers="all", rounds=1, seconds=0.001)
    assert found["cannot"] == {"repaired and torch.compile": "RuntimeError: no C++ compiler"}
    assert found["contestants"].keys() == OURS | EAGER
    monkeypatch.setattr(steps, "ours", no_compiler)
    with pytest.raises(RuntimeError, match="no C"):
        compare(Data(ITEMS, USERS), CONFIG, peers="none", rounds=1, seconds=0.001)


def test_the_engine_of_a_gpu_is_checked_like_the_other():
    train = TrainConfig(batch_size=8, steps=100, backend="triton")  # interpreted without a GPU
    config = Config(model=ModelConfig(dim=16), loss=LossConfig(num_negatives=32), train=train)
    data = Data(60, 30)
    found = check(data, config)
    assert found["loss"] == pytest.approx(found["loss_of_peer"], rel=1e-5)
    _, engine = steps.engine(data, config)
    assert type(engine).__name__ == "DeviceStep" and len(engine.advance(3)) == 3


def test_parts_add_up_and_training_is_not_disturbed():
    found = phases(Data(ITEMS, USERS), CONFIG, steps=20)
    assert list(found) == [
        "batch",
        "negatives",
        "gather",
        "extractor",
        "loss",
        "backward",
        "table update",
        "extractor update",
        "the rest",
    ]
    assert min(found.values()) > 0


def test_what_does_not_fit_is_refused():
    check_memory(1000, "all")
    with pytest.raises(ConfigError, match="--num-items 10,000,000,000 .* GiB, expected at most"):
        check_memory(10**10, "none")


def test_the_command(tmp_path, capsys):
    words = ["bench", "--num-items", "200", "300", "--batch-size", "8", "--users", "30"]
    words += ["--rounds", "1", "--seconds", "0.001", "--peers", "none", "--threads", "1"]
    assert main([*words, "--json", "--out", str(tmp_path / "a.json")]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "a.json").read_text())
    assert [case["items"] for case in printed["cases"]] == [200, 300]
    assert {"torch", "cpu", "command"} <= printed["environment"].keys()
    assert all(case["contestants"].keys() == OURS for case in printed["cases"])
    assert main(words) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "batch 8, 300 items" in shown and "times as long as plain sampled softmax" in shown
    assert "the rest" in shown and "rows' traffic: " in shown and "by the step's time" in shown


@pytest.mark.parametrize(
    "lowest, highest, noisy", [(0.9, 1.1, False), (0.4, 1.1, True), (0.9, 4.3, True)]
)
def test_noise_is_named_and_phases_have_a_sum(case, lowest, highest, noisy, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    cost = {"ratio": 1.0, "lowest": lowest, "highest": highest}
    step.show(case | {"remi_by_plain": cost, "phases_ms": {"batch": 0.25, "loss": 1.5}})
    shown = capsys.readouterr().out
    assert ("too noisy for a conclusion" in shown and "--rounds" in shown) == noisy
    assert "timed in a run of its own: batch 0.250, loss 1.500; 1.750 in all" in shown


def test_precision_is_of_a_gpu(capsys):
    words = ["bench", "--num-items", "200", "--users", "200", "--precision", "fp32", "bf16"]
    assert main(words) == 2
    assert "remi-fast bench: --precision: got 'bf16' on a CPU" in capsys.readouterr().err


@pytest.mark.parametrize("precision, dtype", [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_peers_have_the_same_arithmetic(monkeypatch, precision, dtype):
    config = Config(train=TrainConfig(batch_size=8, precision=precision, backend="triton"))
    seen = []
    whole = steps.EagerModel.forward

    def forward(*arguments):
        seen.append((torch.ones(2, 2) @ torch.ones(2, 2)).dtype)
        return whole(*arguments)

    monkeypatch.setattr(steps.EagerModel, "forward", forward)
    data = Data(60, 30)
    steps.eager(data, config, steps.tensors(data.loader(config)), repaired=True).run()
    assert seen == [dtype]


def test_the_picture(case, tmp_path):
    pytest.importorskip("matplotlib")
    from remi_fast.benchmark.picture import draw, picture

    draw([case], tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    (axes,) = picture([case]).axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == list(case["contestants"])
    rows = case["contestants"].values()
    medians = [dots.lines[0].get_xdata()[0] for dots in axes.containers]
    assert medians == [row["ms"] for row in rows]
    said = [text.get_text().partition("(")[2] for text in axes.texts]
    assert said == [f"{common.ratio(row).split()[0]})" for row in rows], "as in the table"
    assert "logarithmic" in axes.get_xlabel()
