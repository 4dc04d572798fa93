"""Named tensors in safetensors files of bounded size, written and read without a second copy.

A group of tensors is one file, `<group>.safetensors`, as long as it fits in SHARD_BYTES. Otherwise
it is `<group>-00001-of-00003.safetensors` and so on, and a tensor that does not fit in one file is
cut along its first dimension: `table.weight[0:1000]` is the name of its rows 0..999.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from remi_fast import files
from remi_fast.errors import CorruptFileError, NonFiniteError, StorageError
from remi_fast.kernels.finite import all_finite, first_non_finite

SHARD_BYTES = 256 << 20  # about what is held beside the tensors while writing or reading

NOT_SAVED = "; it was not saved, and what was saved before stands"

Rows = Callable[[int, int], Tensor]
Form = tuple[tuple[int, ...], torch.dtype]


class Piece(NamedTuple):
    """Rows start..end of a tensor, or all of it, where `end` is None."""

    tensor: str
    start: int = 0
    end: int | None = None

    @property
    def key(self) -> str:
        """Its name in a file."""
        return self.tensor if self.end is None else f"{self.tensor}[{self.start}:{self.end}]"

    @classmethod
    def of_key(cls, key: str) -> "Piece":
        """The piece that has this name in a file."""
        cut = re.fullmatch(r"(.*)\[([0-9]{1,18}):([0-9]{1,18})\]", key)
        return cls(cut[1], int(cut[2]), int(cut[3])) if cut else cls(key)

    def of(self, tensor: Tensor) -> Tensor:
        """The piece itself: a view."""
        return tensor if self.end is None else tensor[self.start : self.end]


def write(
    folder: Path, group: str, tensors: Mapping[str, Tensor], rows: Mapping[str, Rows] | None = None
) -> list[Path]:
    """Write a group of tensors, on any device, to `folder`; return its files.

    Raises NonFiniteError, naming tensor and row, where something is infinite or NaN.

    rows: of some of the tensors, a function of (start, end): what to write as these rows.
    """
    rows = rows or {}
    shards = _shards(tensors)
    paths = []
    for number, shard in enumerate(shards, 1):
        part = f"-{number:05d}-of-{len(shards):05d}" if len(shards) > 1 else ""
        paths.append(folder / f"{group}{part}.safetensors")
        content = {
            piece.key: _content(piece, tensors[piece.tensor], rows.get(piece.tensor))
            for piece in shard
        }
        for piece, values in content.items():
            _check_finite(f"checkpoint: {piece}", values, NOT_SAVED)
        try:
            save_file(content, paths[-1])
        except SafetensorError as error:
            raise StorageError(f"{paths[-1]}: cannot be written ({error})") from error
        files.give_usual_mode(paths[-1])
    return paths


def _check_finite(name: str, values: Tensor, then: str = "") -> None:
    if not values.is_floating_point() or all_finite([values]):
        return
    found = first_non_finite(values)
    assert found is not None
    index, value = found
    raise NonFiniteError(f"{name}: got {value} at {list(index)}, expected finite numbers{then}")


def group_of(file_name: str) -> str:
    """The group that a file belongs to."""
    return re.sub(r"(-\d{5}-of-\d{5})?\.safetensors$", "", file_name)


def forms(paths: list[Path]) -> dict[str, Form]:
    """Shape and dtype of the tensors in these files, all pieces together.

    Raises CorruptFileError where the pieces of a tensor do not follow one another.
    """
    found: dict[str, list[tuple[Piece, Form]]] = {}
    for piece, content in _pieces(paths):
        form = (tuple(content.shape), content.dtype)
        found.setdefault(piece.tensor, []).append((piece, form))
    return {name: _joined(paths[0].parent, parts) for name, parts in found.items()}


def _joined(folder: Path, parts: list[tuple[Piece, Form]]) -> Form:
    (first, (shape, dtype)), *others = parts
    if first.end is None and not others:
        return shape, dtype
    rows = 0
    for piece, form in parts:
        end = piece.end
        if end is None or piece.start != rows or form != ((end - rows, *shape[1:]), dtype):
            raise CorruptFileError(
                f"{folder}: {piece.key}: got {form} after {rows} rows of {first.tensor}, expected "
                f"pieces that follow one another, with rows like those of {shape} and {dtype}"
            )
        rows = end
    return (rows, *shape[1:]), dtype


def read_into(paths: list[Path], tensors: Mapping[str, Tensor]) -> None:
    """Copy what is in these files into `tensors`, which have the same `forms`, on any device.

    Raises NonFiniteError, naming tensor and row, where something is infinite or NaN.
    """
    for piece, content in _pieces(paths):
        _check_finite(f"{paths[0].parent}: {piece.key}", content)
        piece.of(tensors[piece.tensor].detach()).copy_(content)


def read(paths: Iterable[Path], only: str | None = None) -> dict[str, Tensor]:
    """What is in these files, or one tensor if it is there, in new memory; for small tensors."""
    parts: dict[str, list[Tensor]] = {}
    for piece, content in _pieces(paths):
        if only in (None, piece.tensor):
            parts.setdefault(piece.tensor, []).append(content.clone())
    return {name: torch.cat(part) if len(part) > 1 else part[0] for name, part in parts.items()}


def _shards(tensors: Mapping[str, Tensor]) -> list[list[Piece]]:
    """Pieces in order, as many to a shard as fit in it."""
    shards: list[list[Piece]] = [[]]
    used = 0
    for name, tensor in tensors.items():
        for piece in _cut(name, tensor):
            size = piece.of(tensor).nbytes
            if shards[-1] and used + size > SHARD_BYTES:
                shards.append([])
                used = 0
            shards[-1].append(piece)
            used += size
    return shards


def _cut(name: str, tensor: Tensor) -> list[Piece]:
    if tensor.nbytes <= SHARD_BYTES:
        return [Piece(name)]
    length = max(1, SHARD_BYTES // tensor[0].nbytes)
    edges = [*range(0, len(tensor), length), len(tensor)]
    return [Piece(name, start, end) for start, end in pairwise(edges)]


def _content(piece: Piece, tensor: Tensor, rows: Rows | None) -> Tensor:
    if rows is None:
        content = piece.of(tensor.detach())
    else:
        content = rows(piece.start, len(tensor) if piece.end is None else piece.end)
    return content.cpu().contiguous()


def _pieces(paths: Iterable[Path]) -> Iterator[tuple[Piece, Tensor]]:
    """All pieces in these files; their content is mapped from disk, and read when it is used."""
    for path in paths:
        try:
            with safe_open(path, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118 (it has no __iter__)
                    yield Piece.of_key(key), file.get_tensor(key)
        except (SafetensorError, OSError, RuntimeError, ValueError) as error:
            raise CorruptFileError(f"{path}: not readable as safetensors: {error}") from None
