"""Damaged datasets, checkpoints and run folders are refused before a step of training is done."""

import re
import shutil

import numpy as np
import pytest

from remi_fast import api, files
from remi_fast.config import Config, LossConfig, ModelConfig, TrainConfig
from remi_fast.data.dataset import ARRAYS
from remi_fast.errors import CorruptFileError, RemiFastError
from remi_fast.training import shards
from remi_fast.training.step import TrainingStep

CHUNK = 1024  # bytes to a checksum in here, so that the offsets in messages differ
LOGS = {"env.json", "metrics.jsonl"}  # nothing depends on them, nor on tensorboard/
CONFIG = Config(
    model=ModelConfig(dim=8, num_interests=2, max_history=6),
    loss=LossConfig(num_negatives=8),
    train=TrainConfig(batch_size=16, steps=100, eval_every=10, threads=1),
)


class Trained(Exception):
    """A training step was reached."""


@pytest.fixture(scope="module", params=[256 << 20, 1000], ids=["whole", "sharded"])
def run(request, raw_file, tmp_path_factory):
    """A run stopped in step 25, its dataset in it; where it goes on, its next step is `Trained`."""
    path = tmp_path_factory.mktemp("damaged") / "run"
    train = TrainingStep.__call__

    def stop(self, step, *batch):
        if step == 25:
            raise Trained
        return train(self, step, *batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "CHECKSUM_CHUNK", CHUNK)
        patch.setattr(shards, "SHARD_BYTES", request.param)
        patch.setattr(TrainingStep, "__call__", stop)
        with pytest.raises(Trained):
            api.train(raw_file, path, CONFIG)
        patch.setattr(TrainingStep, "__call__", lambda *_: stop(None, 25))
        yield path


def guarded(run):
    """Every file of a run that decides how it goes on."""
    found = [path for path in run.rglob("*") if path.is_file() and path.name not in LOGS]
    return sorted(path for path in found if path.parent.name != "tensorboard")


def refusal(run, error=CorruptFileError):
    with pytest.raises(error) as caught:
        api.resume(run)
    return str(caught.value)


def test_the_undamaged_run_goes_on(run):
    refusal(run, Trained)
    names = {path.name for path in guarded(run)}
    assert {"config.yaml", "data.json", "items.parquet", "manifest.json", "state.json"} <= names
    assert set(ARRAYS) <= names
    many = len(list(run.glob("checkpoints/*/*-of-*.safetensors")))
    assert many > 20 or many == 0


def test_every_flipped_bit_is_found_and_its_place_named(run, at_scale):
    generator = np.random.default_rng(3)
    contents = {path: path.read_bytes() for path in guarded(run)}
    for number in range(at_scale(150, 5_000)):  # of each of the two runs
        path = list(contents)[generator.integers(len(contents))]
        content = contents[path]
        end = len(content) if number % 2 else min(len(content), 256)  # headers come first
        place = int(generator.integers(end))
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(generator.integers(8))
        path.write_bytes(damaged)
        message = refusal(run)
        path.write_bytes(content)
        assert message.startswith(f"{path}: checksum mismatch"), message
        offset = int(re.search(r"at offset (\d+): got crc32 [0-9a-f]{8}", message)[1])
        length = len(content) if path.suffix == ".json" else CHUNK
        assert offset <= place < offset + length and "expected" in message, (place, message)
    refusal(run, Trained)


def test_no_bit_of_a_file_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "CHECKSUM_CHUNK", 10)
    file = tmp_path / "x"
    for length in (1, 9, 10, 11, 95):  # the last with threads
        content = bytes(range(length))
        file.write_bytes(content)
        good = files.checksums(file)
        files.verify(file, good)
        for bit in range(8 * length):
            damaged = bytearray(content)
            damaged[bit // 8] ^= 1 << bit % 8
            file.write_bytes(damaged)
            with pytest.raises(CorruptFileError, match=f"at offset {bit // 80 * 10}:"):
                files.verify(file, good)


def test_no_bit_of_checked_json_is_left_out(tmp_path):
    file = tmp_path / "x.json"
    files.write_checked_json(file, {"a": [1, {"b": "x"}]})
    content = file.read_bytes()
    assert files.read_checked_json(file)["a"] == [1, {"b": "x"}]
    for bit in range(8 * len(content)):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        with pytest.raises(CorruptFileError, match="x.json: checksum mismatch"):
            files.read_checked_json(file)


def test_every_truncation_is_found_and_its_place_named(run, at_scale):
    generator = np.random.default_rng(4)
    contents = {path: path.read_bytes() for path in guarded(run)}
    for _ in range(at_scale(60, 500)):
        path = list(contents)[generator.integers(len(contents))]
        content = contents[path]
        length = int(generator.integers(len(content)))
        path.write_bytes(content[:length])
        message = refusal(run)
        path.write_bytes(content)
        assert message.startswith(f"{path}: "), message
        offset = int(re.search(r"at offset (\d+): got crc32 [0-9a-f]{8}", message)[1])
        assert offset <= length and "expected" in message, message
        if path.suffix != ".json":
            assert f"got {length} bytes, expected {len(content)}" in message
    refusal(run, Trained)


def test_every_missing_file_is_named(run):
    for path in guarded(run):
        content = path.read_bytes()
        path.unlink()
        message = refusal(run, RemiFastError)
        path.write_bytes(content)
        assert str(path.parent) in message
        assert path.name in message or "not a run folder" in message, message


@pytest.mark.parametrize("folder", ["data", "checkpoints/last", "checkpoints/best"])
def test_a_file_that_nobody_listed_is_named(run, folder):
    extra = run / folder / "extra.safetensors"
    extra.write_bytes(b"")
    assert refusal(run).startswith(f"{extra}: got a file that")
    extra.unlink()
    hidden = run / folder / ".DS_Store"
    hidden.write_bytes(b"")
    refusal(run, Trained)
    hidden.unlink()


@pytest.mark.parametrize(
    "name, other",
    [
        ("data/train_spans.npy", "data/items.npy"),
        ("checkpoints/last/{model}", "checkpoints/best/{model}"),
        ("checkpoints/best/{model}", "checkpoints/last/{model}"),
        ("checkpoints/last/state.json", "checkpoints/best/state.json"),
        ("data.json", "data/manifest.json"),
    ],
)
def test_a_file_of_another_place_is_refused(run, name, other):
    model = min((run / "checkpoints" / "last").glob("model*")).name
    path, other = (run / text.format(model=model) for text in (name, other))
    content = path.read_bytes()
    assert content != other.read_bytes()
    shutil.copyfile(other, path)
    message = refusal(run, RemiFastError)
    path.write_bytes(content)
    assert str(path.parent) in message
    refusal(run, Trained)


def test_a_whole_checkpoint_of_the_other_kind_is_refused(run, tmp_path):
    last, best = run / "checkpoints" / "last", run / "checkpoints" / "best"
    last.rename(tmp_path / "last")
    shutil.copytree(best, last)
    assert "expected model, table_optimizer, dense_optimizer" in refusal(run, RemiFastError)
    shutil.rmtree(last)
    (tmp_path / "last").rename(last)


def test_items_of_another_dataset_of_the_same_size_are_refused(run):
    path = run / "data" / "items.npy"
    items = np.load(path)
    np.save(path, items[::-1])
    assert refusal(run).startswith(f"{path}: checksum mismatch in the 4 MiB at offset 0: got crc32")
    np.save(path, items)
    refusal(run, Trained)


def test_recommending_reads_no_damaged_item_table(run):
    path = run / "items.parquet"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"2")
    with pytest.raises(CorruptFileError, match="items.parquet: checksum mismatch"):
        api.load(run)
    path.write_bytes(content)
    assert len(api.load(run).item_table) == 96
