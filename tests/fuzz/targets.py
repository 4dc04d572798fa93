"""What is fuzzed: a folder that opens, how it is damaged, and what opening it means."""

import json
import re
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import NamedTuple

import yaml

from remi_fast import files
from remi_fast.config import Config, ModelConfig, TrainConfig, as_dict, load_config
from remi_fast.data import readers
from remi_fast.data.dataset import Dataset
from remi_fast.data.loader import BatchLoader
from remi_fast.data.prepare import PrepareSettings, prepare
from remi_fast.models.recommender import make_model
from remi_fast.training import checkpoint
from remi_fast.training.step import TrainingStep
from tests.conftest import interactions
from tests.fuzz import mutate

Files = dict[str, bytes]
MEMORY = "/dev/shm"  # a disk in memory


class Target(NamedTuple):
    """`damage` makes an input of `good`, which `open` has to open or to refuse."""

    good: Files
    damage: Callable[[Random, Files], Files]
    open: Callable[[Path], object]


def content_of(folder: Path) -> Files:
    """The files of a folder, in memory."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def dataset() -> Target:
    """Dataset.open; of what it opens a batch and the tables, and no index may point outside."""
    with tempfile.TemporaryDirectory() as folder:
        raw, out = Path(folder, "raw.parquet"), Path(folder, "data")
        interactions(users=20, topics=3, items_per_topic=4).write_parquet(raw)
        prepare([raw], out, PrepareSettings())
        good = content_of(out)

    def open_(folder: Path) -> None:
        data = Dataset.open(folder)
        options = {"batch_size": 8, "max_history": 5, "min_history": 1, "seed": 1, "threads": 1}
        with BatchLoader(data.items, data.train_users, data.train_spans, **options) as batches:
            next(batches)
        assert data.items.min() >= 1 and data.items.max() < data.num_items
        for split in map(data.eval_split, ("valid", "test")):
            for user, (start, cut, end) in zip(split.users, split.spans, strict=True):
                assert data.offsets[user] <= start < cut < end <= data.offsets[user + 1]
        _ = data.item_table, data.user_table

    return Target(good, lambda random, content: _stored(random, content, "manifest.json"), open_)


def checkpoint_() -> Target:
    """restore_training_state, and the rows of the table that it gives."""
    config = Config(
        model=ModelConfig(dim=4, num_interests=2, max_history=4), train=TrainConfig(steps=50)
    )
    trained, trainer = (TrainingStep(make_model(config.model, 30, seed=1), config) for _ in "12")
    import torch

    for step in range(20):
        ids = torch.randint(1, 30, (8, 5), generator=torch.Generator().manual_seed(step))
        trained(step, ids[:, 1:], torch.full((8,), 4), ids[:, 0])
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save_training_state(Path(folder, "last"), trained, {"step": 20})
        good = content_of(Path(folder, "last"))

    def open_(folder: Path) -> None:
        checkpoint.restore_training_state(folder, trainer)
        trainer.model.rows(0, 30)

    return Target(good, lambda random, content: _stored(random, content, "state.json"), open_)


def text() -> Target:
    """The folder of three text files that were split already, with an index column or without;
    what is read from it has no nulls."""
    rows = [f"{user},{10 * user + n},{n},{1000 + n}\n" for user in range(4) for n in range(6)]
    good = {f"x_{part}.txt": "".join(rows[i::3]).encode() for i, part in enumerate(readers.PARTS)}

    def damage(random: Random, content: Files) -> Files:
        if random.random() < 0.5:
            content = {
                name: re.sub(rb",\d+(,\d+\n)", rb"\1", all_) for name, all_ in content.items()
            }
        name = random.choice(list(content))
        if random.random() < 0.3:
            return content | {name: mutate.some_bytes(random, content[name])}
        return content | {name: mutate.lines(random, content[name], ",")}

    def open_(folder: Path) -> None:
        frame = readers.read([folder], readers.ColumnNames()).frame
        assert frame.height > 0 and not any(column.has_nulls() for column in frame)

    return Target(good, damage, open_)


def config() -> Target:
    """load_config of a YAML file."""
    settings = as_dict(Config())
    good = {"c.yaml": _yaml(settings)}

    def damage(random: Random, content: Files) -> Files:
        (old,) = content.values()
        match random.randrange(4):
            case 0:
                new = mutate.some_bytes(random, old)
            case 1:
                changed = mutate.value(random, settings)
                new = json.dumps(changed).encode() if random.random() < 0.3 else _yaml(changed)
            case _:
                new = mutate.lines(random, old, ": ")
        return {"c.yaml": new}

    return Target(good, damage, lambda folder: load_config(folder / "c.yaml"))


def _yaml(value: object) -> bytes:
    return yaml.dump(value, Dumper=yaml.CSafeDumper, sort_keys=False, allow_unicode=True).encode()


def _stored(random: Random, content: Files, index: str) -> Files:
    """Damage a dataset or checkpoint: as it may happen, or (mostly) so that checksums are right."""
    content = dict(content)
    listing = json.loads(content[index])
    del listing["crc32"]
    chosen = random.sample(list(content), random.choice((1, 1, 2)))
    for name in chosen:
        if name == index:
            continue
        kind = name.rpartition(".")[2]
        damage = {"npy": mutate.npy, "safetensors": mutate.safetensors}.get(kind, mutate.some_bytes)
        content[name] = damage(random, content[name])
        # Of forged Parquet one file in thousands ends the process: SECURITY.md.
        if kind != "parquet" and random.random() < 0.9:
            listing["files"][name] = _checksums(content[name])
    content[index] = _checked_json(mutate.value(random, listing) if index in chosen else listing)
    if random.random() < 0.1:
        content[index] = mutate.json_text(random, content[index])
    return content


def _checksums(content: bytes) -> dict[str, object]:
    chunks = range(0, len(content), files.CHECKSUM_CHUNK)
    crcs = [f"{zlib.crc32(content[i : i + files.CHECKSUM_CHUNK]):08x}" for i in chunks]
    return {"bytes": len(content), "crc32_per_4MiB": crcs}


def _checked_json(value: object) -> bytes:
    """As files.write_checked_json writes it, also where it would not."""
    if not isinstance(value, dict) or not value:
        return json.dumps(value).encode()
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        path = Path(folder, "index.json")
        files.write_checked_json(path, value)
        return path.read_bytes()


TARGETS: dict[str, Callable[[], Target]] = {
    "dataset": dataset,
    "text": text,
    "checkpoint": checkpoint_,
    "config": config,
}
