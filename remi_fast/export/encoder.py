"""The user encoder as a program of plain operations: by torch.export, and as ONNX."""

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from remi_fast.errors import ExportError, StorageError
from remi_fast.export.reader import Encoder
from remi_fast.models.recommender import MultiInterestModel

# Largest difference from the model's interests, as a part of the largest value among them.
TOLERANCE = 1e-5
# Bytes of weights from which ONNX keeps them in a file beside: its own is at most 2 GiB.
MOST_IN_ONNX = 1 << 30

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


class UserEncoder(nn.Module):
    """history (B, L) int64, right-padded with 0; length (B,) int64 -> interests (B, K, d).

    It holds the item table, shared with the model, and the extractor on its reference path: our
    own operations are known to no other program.
    """

    def __init__(self, model: MultiInterestModel) -> None:
        super().__init__()
        # Of the same memory, but not of its storage, which has room for moments: torch.export.save
        # writes whole storages, and warns of tensors that are only a part of theirs.
        self.item_embeddings = nn.Parameter(
            torch.from_numpy(model.table.weight.detach().numpy()), requires_grad=False
        )
        self.extractor = copy.deepcopy(model.extractor)
        if hasattr(self.extractor, "backend"):
            setattr(self.extractor, "backend", "reference")  # noqa: B010 (a module, says mypy)
        self.requires_grad_(False)

    def forward(self, history: Tensor, length: Tensor) -> Tensor:
        """See the class."""
        embedded = nn.functional.embedding(history, self.item_embeddings)
        interests: Tensor = self.extractor(embedded, length)[0]
        return interests


def sample_histories(num_items: int, max_history: int) -> tuple[Ints, Ints]:
    """One history of each length from 0 to L: (L + 1, L), (L + 1,)."""
    length = np.arange(max_history + 1)
    generator = np.random.default_rng(0)
    history = generator.integers(1, num_items, (max_history + 1, max_history))
    history[np.arange(max_history) >= length[:, None]] = 0
    return history, length


def export_program(model: MultiInterestModel) -> ExportedProgram:
    """The user encoder for any number of users."""
    history, length = map(torch.from_numpy, sample_histories(model.num_items, model.max_history))
    batch = Dim("batch", min=1)
    shapes = {"history": {0: batch}, "length": {0: batch}}
    with _quiet():
        program = torch.export.export(UserEncoder(model), (history, length), dynamic_shapes=shapes)
    program.example_inputs = None  # torch.export.save would pickle them
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine
    return program


def save_program(program: ExportedProgram, path: Path) -> None:
    """Write a .pt2 file, in which nothing is pickled."""
    try:
        torch.export.save(program, path)
    except RuntimeError as error:  # torch's zip writer has no other
        raise StorageError(f"{path}: cannot be written ({error})") from error


def save_onnx(program: ExportedProgram, path: Path) -> None:
    """Write a .onnx file; the weights of a large model go to `<path>.data` beside it."""
    size = sum(tensor.nbytes for tensor in program.state_dict.values())
    with _quiet():
        made = torch.onnx.export(
            program,
            input_names=["history", "length"],
            output_names=["interests"],
            dynamo=True,
            verbose=False,
        )
        assert made is not None
        made.save(path, external_data=size > MOST_IN_ONNX)


def of_program(program: ExportedProgram) -> Encoder:
    """The program as a function of arrays."""
    module = program.module()

    def encode(history: Ints, length: Ints) -> Floats:
        interests: Tensor = module(torch.from_numpy(history), torch.from_numpy(length))
        return interests.numpy()

    return encode


def check_encoder(name: str, encode: Encoder, model: MultiInterestModel) -> float:
    """The largest difference from the model's interests, as a part of their largest value.

    Over one history of each length, all at once and the shortest and the longest alone. Raises
    ExportError above TOLERANCE.
    """
    history, length = sample_histories(model.num_items, model.max_history)
    want = model.interests(torch.from_numpy(history), torch.from_numpy(length)).numpy()
    worst = 0.0
    for users in (slice(None), slice(1, 2), slice(-1, None)):
        got = encode(history[users], length[users])
        difference = np.abs(got - want[users]).max() / np.abs(want).max()
        if got.shape != want[users].shape or not difference <= TOLERANCE:
            raise ExportError(
                f"{name}: got interests {got.shape} that differ by {difference:.1e} of the largest "
                f"value from the model's, expected {want[users].shape} within {TOLERANCE}"
            )
        worst = max(worst, float(difference))
    return worst


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch says about its own workings and about packages that are not needed."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
