"""Batches drawn on the device against the C++ loader's, bit for bit."""

from dataclasses import fields

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import _disable_current_modes

from remi_fast.data.loader import BatchLoader
from remi_fast.kernels import device_batches_launch
from remi_fast.kernels.device_batches import Buffers, Sequences, device_bytes, draw_batch
from tests.device import DEVICE
from tests.kernels.test_no_synchronisation import OnlyAllowed

BACKENDS = ["reference", "triton"]
SAMPLINGS = ["uniform", "epoch"]
LAST = 2**32 - 1
LENGTHS = (9, 4, 30, 5, 12, 1, 7, 18)  # two users without a target

# Lengths of the users' sequences, batch size, longest history, items before a target.
CASES = {
    "users without a target": (LENGTHS, 4, 6, 4),
    "one sample": (LENGTHS, 1, 6, 4),
    "an item of history": (LENGTHS, 5, 1, 4),
    "as many users as samples": (LENGTHS, 6, 20, 4),
    "fewer users than samples": (LENGTHS, 7, 20, 4),
    "more than a block": ((5, 6, 40) * 15, 33, 33, 4),
    "more than a block, drawn again": ((3, 6, 40), 70, 5, 2),
    "one user": ((9,), 3, 100, 4),
    "one user, one target": ((5,), 40, 4, 4),
    "no history": ((1, 2, 3, 70), 4, 65, 0),
    "long histories": ((200, 130, 66), 2, 64, 50),
    "epochs of three targets": ((5, 6), 40, 3, 4),
    "permuted in six rounds": ((5, 6) * 20_000, 40, 3, 4),
    "many users": (tuple(5 + i * i % 23 for i in range(300)), 20, 9, 4),
}
# Seed and step, and how the step is given.
DRAWS = [
    (0, 0, int),
    (2**40 + 3, 1000, torch.tensor),
    (2**63 + 5, 2**31, lambda step: torch.tensor([step])),
    (2**64 - 1, LAST, int),
    (1, LAST, torch.tensor),
]


def make(lengths, gap=2):
    """Spans in another order than the items, with items of nobody between them."""
    starts = np.cumsum([gap, *(n + gap for n in lengths)])[:-1]
    spans = np.stack([starts, starts + lengths], axis=1).astype(np.int64)[::-1].copy()
    items = np.arange(1, spans[0, 1] + gap + 1, dtype=np.int32) * 7919 % 100_003 + 1
    users = np.arange(len(lengths), dtype=np.int32) * 3 + 1
    return items, users, spans


def upload(data, min_history=4):
    return Sequences.upload(*data, min_history=min_history, device=DEVICE)


def empty(batch_size=4, max_history=6):
    """Where a batch goes; what is not written is seen."""
    out = Buffers.empty(batch_size, max_history, DEVICE)
    for buffer in out:
        buffer.fill_(-1)
    return out


def drawn(sequences, sizes, step, **options):
    out = empty(*sizes)
    draw_batch(sequences, out, step=step, **options)
    return out


def assert_same(out, batch):
    for name, tensor in out._asdict().items():
        assert tensor.dtype == torch.int32 and tensor.device.type == DEVICE
        assert torch.equal(tensor.cpu(), getattr(batch, name)), name


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("case", CASES)
def test_the_bits_of_the_cpp_loader(case, sampling, backend):
    lengths, batch_size, max_history, min_history = CASES[case]
    data, every_target_once = make(lengths), sampling == "epoch"
    sequences = upload(data, min_history)
    for seed, step, given in DRAWS:
        with BatchLoader(
            *data, batch_size=batch_size, max_history=max_history, min_history=min_history,
            seed=seed, sampling=sampling, threads=1,
        ) as loader:  # fmt: skip
            if every_target_once and (step + 1) * batch_size > 2**32 * sequences.num_targets:
                continue
            expected = loader.batch(step)
        word = given(step)
        word = word if isinstance(word, int) else word.to(DEVICE)
        options = {"seed": seed, "every_target_once": every_target_once, "backend": backend}
        assert_same(drawn(sequences, (batch_size, max_history), word, **options), expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("step", [3 * 2**30 - 1, 3 * 2**30, LAST])
def test_the_last_epoch_as_in_the_cpp_loader(step, backend):
    data = make((5, 6))  # three targets
    sequences, options = upload(data), {"seed": 1, "every_target_once": True, "backend": backend}
    with BatchLoader(*data, batch_size=4, max_history=6, seed=1, sampling="epoch") as loader:
        if step < 3 * 2**30:
            assert_same(drawn(sequences, (4, 6), step, **options), loader.batch(step))
            return
        with pytest.raises(ValueError, match="beyond the last one") as cpp:
            loader.batch(step)
    with pytest.raises(ValueError, match="beyond the last one") as ours:
        drawn(sequences, (4, 6), step, **options)
    assert str(ours.value) == str(cpp.value)


def test_random_problems_have_the_bits_of_the_cpp_loader():
    generator = np.random.default_rng(0)
    for _ in range(20):
        lengths = generator.integers(1, generator.choice([6, 20, 90]), generator.integers(1, 60))
        least = int(generator.integers(0, lengths.max()))
        sizes = int(generator.integers(1, 80)), int(generator.integers(1, 80))
        seed, step = int(generator.integers(2**63)) * 2 + 1, int(generator.integers(2**20))
        data, sampling = make(lengths), SAMPLINGS[generator.integers(2)]
        with BatchLoader(
            *data, batch_size=sizes[0], max_history=sizes[1], min_history=least, seed=seed,
            sampling=sampling, threads=1,
        ) as loader:  # fmt: skip
            options = {"seed": seed, "every_target_once": sampling == "epoch"}
            out = drawn(upload(data, least), sizes, step, backend="triton", **options)
            assert_same(out, loader.batch(step))


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_same_bits_twice(sampling):
    sequences = upload(make(LENGTHS))
    options = {"seed": 1, "every_target_once": sampling == "epoch", "backend": "triton"}
    for one, other in zip(
        drawn(sequences, (40, 9), 5, **options), drawn(sequences, (40, 9), 5, **options),
        strict=True,
    ):  # fmt: skip
        assert torch.equal(one, other)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_a_step_past_the_last_reads_nothing_else(sampling):
    """On the device nobody is told: it counts modulo 2^32."""
    sequences, sizes = upload(make(LENGTHS)), (9, 6)
    options = {"seed": 1, "every_target_once": sampling == "epoch", "backend": "triton"}
    for step in (2**32 + 3, 3 - 2**32):
        word = torch.tensor(step, device=DEVICE)
        for one, other in zip(
            drawn(sequences, sizes, word, **options), drawn(sequences, sizes, 3, **options),
            strict=True,
        ):  # fmt: skip
            assert torch.equal(one, other)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_nothing_is_allocated_or_waited_for(monkeypatch, sampling):
    """No operator of torch runs: there is nothing but the launch, the same for every step."""
    launches = []
    launch = device_batches_launch.launch

    def noted(kernel, grid, *arguments, **options):
        addresses = [x.data_ptr() if isinstance(x, torch.Tensor) else x for x in arguments]
        launches.append((kernel, grid, addresses, options))
        with _disable_current_modes():  # what the interpreter does is not what a GPU does
            launch(kernel, grid, *arguments, **options)

    monkeypatch.setattr(device_batches_launch, "launch", noted)
    sequences, out, word = upload(make(LENGTHS)), empty(), torch.zeros(1, dtype=torch.int64)
    word = word.to(DEVICE)
    results = []
    for step in (3, 2**32 - 1):
        word.fill_(step if sampling == "uniform" else step % 1000)
        with OnlyAllowed(frozenset()):
            draw_batch(
                sequences, out, seed=1, step=word, every_target_once=sampling == "epoch",
                backend="triton",
            )  # fmt: skip
        results.append(out.target.tolist())
    assert len(launches) == 2 and launches[0] == launches[1] and results[0] != results[1]


def test_the_bytes_on_the_device():
    data = make(LENGTHS)
    sequences = upload(data)
    tensors = [getattr(sequences, field.name) for field in fields(sequences)][:4]
    taken = sum(tensor.nbytes for tensor in tensors)
    assert device_bytes(data[0], data[2], min_history=4) == taken == 4 * len(data[0]) + 20 * 6 + 8


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"history": lambda x: x.long()}, TypeError, "history: got torch.int64"),
        ({"length": lambda x: x.tolist()}, TypeError, "length: got list, expected a tensor"),
        ({"history": lambda x: x.T}, ValueError, "history: got not contiguous memory"),
        ({"user": lambda x: x.to("meta")}, ValueError, "user: got a torch.strided tensor on meta"),
        ({"target": lambda x: x[:3]}, ValueError, r"buffers: got shapes .* expected \(B, L\)"),
        ({"history": lambda x: x[:, 0].contiguous()}, ValueError, "buffers: got shapes"),
        ({"history": lambda x: x[:, :0].contiguous()}, ValueError, "with B, L >= 1"),
    ],
    ids=["int64", "a list", "strided", "elsewhere", "too small", "one dimension", "no places"],
)
def test_bad_buffers(change, error, message):
    out = empty()
    out = out._replace(**{name: edit(getattr(out, name)) for name, edit in change.items()})
    with pytest.raises(error, match=message):
        draw_batch(upload(make(LENGTHS)), out, seed=1, step=0)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"seed": -1}, "seed: got .*, expected a number in"),
        ({"seed": 2**64}, "seed: got .*, expected a number in"),
        ({"step": 2**32}, "step: got .*, expected a number in"),
        ({"step": torch.tensor(1.0)}, r"step: got \(\) torch.float32"),
        ({"step": torch.zeros(2).long()}, r"step: got \(2,\) torch.int64, expected a number or"),
        ({"step": torch.tensor(0, device="meta")}, "step: got a tensor on meta, expected it on"),
        ({"backend": "native"}, "got backend 'native'"),
    ],
)
def test_bad_arguments(change, message):
    options = {"seed": 1, "step": 0} | change
    with pytest.raises(ValueError, match=message):
        draw_batch(upload(make(LENGTHS)), empty(), **options)


def test_the_reference_reads_a_step_in_a_tensor_and_checks_it():
    step = torch.tensor(2**32, device=DEVICE)
    with pytest.raises(ValueError, match="step: got .*, expected a number in"):
        draw_batch(upload(make(LENGTHS)), empty(), seed=1, step=step, backend="reference")


def test_the_data_is_not_written_nor_kept(recwarn):
    """It may be memory-mapped, read only."""
    data = make(LENGTHS)
    for array in data:
        array.flags.writeable = False
    sequences = upload(data)
    assert not recwarn and not np.shares_memory(sequences.items.cpu().numpy(), data[0])
