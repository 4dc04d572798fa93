"""Checkpoints: shards, in-place loading, and no second copy of the model in memory."""

import pytest
import torch
from safetensors import safe_open

from remi_fast import files
from remi_fast.config import Config, ModelConfig
from remi_fast.errors import CorruptFileError, RunFolderError
from remi_fast.models.recommender import make_model
from remi_fast.training import checkpoint, shards
from remi_fast.training.step import TrainingStep
from tests.memory import growth

ITEMS, DIM = 700, 16


def make(items=ITEMS, dim=DIM, seed=1):
    config = Config(model=ModelConfig(dim=dim, num_interests=2, max_history=4))
    return TrainingStep(make_model(config.model, items, seed=seed), config)


def train(step, numbers):
    generator = torch.Generator().manual_seed(7)
    for number in numbers:
        ids = torch.randint(1, 60, (8, 5), generator=generator)
        step(number, ids[:, 1:], torch.full((8,), 4), ids[:, 0])


def state(step):
    moments = step.table_optimizer.state_dict()
    dense = step.dense_optimizer.state_dict()["state"]
    return (
        dict(step.model.state_dict())
        | {name: moments[name] for name in checkpoint.TABLE_STATE}
        | {(i, name): value for i, entry in dense.items() for name, value in entry.items()}
    )


def copy(tensors):
    return {name: tensor.clone() for name, tensor in tensors.items()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def sharded(monkeypatch, size=10_000):
    monkeypatch.setattr(shards, "SHARD_BYTES", size)


@pytest.mark.parametrize("size", [8, 100, 1000, 10**9])
def test_groups_of_any_shard_size_read_back(monkeypatch, tmp_path, size):
    sharded(monkeypatch, size)
    tensors = {
        "scalar": torch.tensor(3.0),
        "matrix": torch.randn(50, 7),
        "stamp": torch.arange(90, dtype=torch.int32),
        "empty": torch.zeros(0, 4),
        "turned": torch.randn(5, 9).T,
    }
    paths = shards.write(tmp_path, "group", tensors)
    assert [p.name for p in paths] == sorted(p.name for p in tmp_path.iterdir())
    assert {shards.group_of(path.name) for path in paths} == {"group"}
    assert (len(paths) == 1) == (size == 10**9)
    for path in paths:
        with safe_open(path, framework="pt") as file:
            rows = [file.get_tensor(key) for key in file.keys()]  # noqa: SIM118
        assert sum(t.nbytes for t in rows) <= size or all(t.nbytes <= 36 for t in rows)
    assert shards.forms(paths) == {name: (tuple(t.shape), t.dtype) for name, t in tensors.items()}
    again = shards.read(paths)
    assert same(again, tensors)
    for name, tensor in again.items():
        assert tensor.dtype == tensors[name].dtype
        tensor.fill_(-1)
    shards.read_into(paths, again)
    assert same(again, tensors)


def test_a_small_group_is_one_plain_file(tmp_path):
    (path,) = shards.write(tmp_path, "model", {"weight": torch.ones(2, 2)})
    assert path.name == "model.safetensors"
    with safe_open(path, framework="pt") as file:
        assert list(file.keys()) == ["weight"]


def test_other_users_may_read_the_files(tmp_path):
    """As any new file of this process: safetensors makes its own for their owner alone."""
    (tmp_path / "any").touch()
    (path,) = shards.write(tmp_path, "group", {"x": torch.zeros(3)})
    assert path.stat().st_mode == (tmp_path / "any").stat().st_mode


def test_training_continues_from_shards_with_the_same_bits(monkeypatch, tmp_path):
    sharded(monkeypatch)
    first = make()
    train(first, range(30))
    checkpoint.save_training_state(tmp_path / "last", first, {"step": 30})
    assert len(list((tmp_path / "last").glob("table_optimizer-*-of-*.safetensors"))) > 5
    second = make(seed=2)
    assert checkpoint.restore_training_state(tmp_path / "last", second) == {"step": 30}
    assert same(state(first), state(second))
    for step in (first, second):
        train(step, range(30, 45))
    assert same(state(first), state(second))


def test_saving_changes_nothing_and_weights_are_up_to_date(monkeypatch, tmp_path):
    sharded(monkeypatch)
    step = make()
    train(step, range(30))
    before = copy(state(step))
    checkpoint.save_training_state(tmp_path / "last", step, {})
    checkpoint.save_weights(tmp_path / "best", step.model, {})
    assert same(before, state(step))
    loaded = make(seed=2).model
    loaded.table.source = None
    checkpoint.load_weights(tmp_path / "best", loaded)
    assert not torch.equal(step.model.table.weight, loaded.table.weight), "nothing was deferred"
    assert torch.equal(step.model.rows(0, ITEMS), loaded.table.weight)
    assert same(step.model.extractor.state_dict(), loaded.extractor.state_dict())


def test_damaged_and_missing_shards_are_refused_before_anything_is_read(monkeypatch, tmp_path):
    sharded(monkeypatch)
    step = make()
    checkpoint.save_training_state(tmp_path / "last", step, {})
    other = make(seed=2)
    before = copy(state(other))
    shard = max((tmp_path / "last").glob("table_optimizer-*"))
    content = shard.read_bytes()
    shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(CorruptFileError, match=f"{shard.name}: checksum mismatch"):
        checkpoint.restore_training_state(tmp_path / "last", other)
    shard.unlink()
    with pytest.raises(CorruptFileError, match=f"{shard.name}: file is missing"):
        checkpoint.restore_training_state(tmp_path / "last", other)
    assert same(before, state(other))
    record = files.read_checked_json(tmp_path / "last" / "state.json")
    del record["crc32"], record["files"][shard.name]
    files.write_checked_json(tmp_path / "last" / "state.json", record)
    with pytest.raises(RunFolderError, match="checkpoint of another model: got exp_avg_sq of"):
        checkpoint.restore_training_state(tmp_path / "last", other)


def test_weights_of_another_catalogue_are_refused(tmp_path):
    checkpoint.save_weights(tmp_path / "best", make().model, {})
    with pytest.raises(RunFolderError, match="another model.*700, 16.*expected.*701, 16"):
        checkpoint.load_weights(tmp_path / "best", make(items=ITEMS + 1).model)


def test_nothing_holds_a_second_copy(monkeypatch, tmp_path):
    sharded(monkeypatch, 1 << 20)
    step = make(items=400_000, dim=16)
    table_bytes = step.model.table.weight.nbytes
    train(step, range(3))
    last, best = tmp_path / "last", tmp_path / "best"
    checkpoint.save_weights(best, make().model, {})  # whatever is imported or allocated once
    calls = [
        (checkpoint.save_training_state, last, step, {}),
        (checkpoint.restore_training_state, last, step),
        (checkpoint.save_weights, best, step.model, {}),
        (checkpoint.load_weights, best, step.model),
    ]
    for call in calls:
        assert growth(*call) < table_bytes / 2, call[0].__name__
