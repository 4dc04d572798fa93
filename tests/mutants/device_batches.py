"""Bugs in the batches drawn on the device: reference, Triton kernel, launch and loader."""

from .killers import MEMORY, group

KERNEL = "kernels/device_batches_triton.py"
LAUNCH = "kernels/device_batches_launch.py"
OPERATION = "kernels/device_batches.py"
PERMUTATION = "kernels/permutation_triton.py"
CLASS = "remi_fast/data/device_loader.py"
BATCHES = "tests/kernels/test_device_batches.py::test_"
LOADER = "tests/data/test_device_loader.py::test_"

LAST_EPOCH = f"{BATCHES}the_last_epoch_as_in_the_cpp_loader[4294967295-reference]"
NO_WAIT = f"{BATCHES}nothing_is_allocated_or_waited_for"
MODULO = f"{BATCHES}a_step_past_the_last_reads_nothing_else[epoch]"
BYTES = f"{BATCHES}the_bytes_on_the_device"
DRAWN = f"{LOADER}draws_the_batch_of_a_step_on_the_device_into_the_same_memory[uniform]"
CLOSING = f"{LOADER}closing"
PROPERTIES = f"{LOADER}properties[uniform-changes0]"
STEPS = f"{LOADER}steps_that_are_not"
GUARDED = f"{MEMORY}nothing_is_touched_beyond_a_tensor[batches]"


def bits(case="many users", sampling="uniform", backend="triton"):
    return f"{BATCHES}the_bits_of_the_cpp_loader[{case}-{sampling}-{backend}]"


def iterated(sampling="uniform", backend="triton"):
    return f"{LOADER}iterates_over_the_batches_of_the_other_loader[{sampling}-{backend}]"


REFERENCE = group(
    OPERATION,
    ("users without a target are drawn", bits("users without a target", backend="reference"),
     "trained = targets > 0",
     "trained = targets >= 0"),
    ("targets start an item late", bits(backend="reference"),
     "past = rank + sequences.min_history",
     "past = rank + sequences.min_history + 1"),
    ("a history ends with the target", bits(backend="reference"),
     "(place - length)[:, None] + column, 0)], 0)",
     "(place - length)[:, None] + column + 1, 0)], 0)"),
    ("histories are not padded with 0", bits(backend="reference"),
     "+ column, 0)], 0)",
     "+ column, 0)], 1)"),
    ("a longer history than there is room", bits("an item of history", backend="reference"),
     "np.minimum(past, max_history)",
     "past"),
    ("users drawn again from as many as samples",
     bits("as many users as samples", backend="reference"),
     "if len(index) > num_users:",
     "if len(index) >= num_users:"),
    ("targets drawn by the users' stream", bits(backend="reference"),
     "random_words(index, step, TARGETS, seed)",
     "random_words(index, step, USERS, seed)"),
    ("every epoch is the same", bits("epochs of three targets", "epoch", "reference"),
     "num_targets, seed=seed, step=e)",
     "num_targets, seed=seed, step=0)"),
    ("epochs start with a batch", bits("epochs of three targets", "epoch", "reference"),
     "np.divmod(step * len(index) + index, num_targets)",
     "np.divmod(step * num_targets + index, num_targets)"),
    ("the first target is the last of the user before", bits(sampling="epoch", backend="reference"),
     'side="right"',
     'side="left"'),
)  # fmt: skip

INTERFACE = group(
    OPERATION,
    ("an epoch past the last", LAST_EPOCH,
     "if last >= 2**32:",
     "if last > 2**33:"),
    ("the epoch of the first sample judges", LAST_EPOCH.replace("4294967295", "3221225472"),
     "last = (step * batch + batch - 1) // num_targets",
     "last = (step * batch - 1) // num_targets"),
    ("the epoch is not named", LAST_EPOCH,
     "epoch = max(2**32, step * batch // num_targets)",
     "epoch = 2**32"),
    ("a strided buffer is written as a dense one", f"{BATCHES}bad_buffers[strided]",
     "if buffer.device != device or not buffer.is_contiguous():",
     "if buffer.device != device:"),
    ("a buffer too small", f"{BATCHES}bad_buffers[too small]",
     "any(buffer.shape != shape[:1] for buffer in out[1:])",
     "any(buffer.ndim != 1 for buffer in out[1:])"),
    ("users' bytes not counted", BYTES,
     "items.nbytes + 20 * trained + 8",
     "items.nbytes + 8"),
    ("users without a target are counted", BYTES,
     "> min_history)",
     "> 0)"),
    ("a step in a tensor is read by the host", f"{NO_WAIT}[uniform]",
     "    check_step(step, device)\n",
     "    check_step(step, device)\n    step = int(step)\n"),
    ("memory is taken", f"{NO_WAIT}[epoch]",
     "    draw(sequences, out, seed, step, every_target_once)\n",
     "    draw(sequences, Buffers(*map(torch.empty_like, out)), seed, step, every_target_once)\n"),
)  # fmt: skip

DRAWING = group(
    KERNEL,
    ("targets drawn by the users' stream, in Triton", bits("one user"),
     "targets.to(tl.uint64), _TARGETS)",
     "targets.to(tl.uint64), _USERS)"),
    ("users drawn by the targets' stream", bits("fewer users than samples"),
     "n, _USERS)",
     "n, _TARGETS)"),
    ("the permutation of the negatives", bits(),
     "tl.constexpr(philox.PERMUTATION_KEYS)",
     "tl.constexpr(philox.NEGATIVE_KEYS)"),
    ("one target too many", bits("one user, one target"),
     "targets = tl.load(before_ptr + row + 1) - tl.load(before_ptr + row)",
     "targets = tl.load(before_ptr + row + 1) - tl.load(before_ptr + row) + 1"),
    ("every epoch is the same, in Triton", bits("epochs of three targets", "epoch"),
     "permute(number % n, n, seed, number // n,",
     "permute(number % n, n, seed, number // n * 0,"),
    ("a sample's number in 32 bits", bits(sampling="epoch"),
     "step.to(tl.uint32).to(tl.uint64) * batch.to(tl.uint64) + index.to(tl.uint64)",
     "(step.to(tl.uint32) * batch.to(tl.uint32) + index.to(tl.uint32)).to(tl.uint64)"),
    ("a step past the last", MODULO,
     "number = step.to(tl.uint32).to(tl.uint64) *",
     "number = step.to(tl.uint64) *"),
    ("the first target is the last of the user before, in Triton", bits(sampling="epoch"),
     "there & (before <= target)",
     "there & (before < target)"),
    ("half of the users are searched", bits(sampling="epoch"),
     "for bit in range(USER_BITS):",
     "for bit in range(1, USER_BITS):"),
    ("a target counts from the first user", bits(sampling="epoch"),
     "return row, target - tl.load(before_ptr + row)",
     "return row, target"),
    ("search past the last user", GUARDED,
     "tl.load(before_ptr + tl.where(there, later, 0))",
     "tl.load(before_ptr + later)"),
    ("the device's step is not read, for a batch", bits(),
     "step = tl.load(step_ptr)",
     "step = tl.load(step_ptr) * 0"),
    ("every block of samples is the first", bits("more than a block"),
     "tl.program_id(0).to(tl.int64) * BLOCK",
     "tl.program_id(0).to(tl.int64) * 0"),
    ("targets start an item late, in Triton", bits(),
     "past = rank + min_history",
     "past = rank + min_history + 1"),
    ("a longer history than there is room, in Triton", bits("an item of history"),
     "length = tl.minimum(past, L)",
     "length = past"),
    ("every tile of a history is the first", bits("long histories"),
     "tl.cast(tile, tl.int64) * BLOCK_L",
     "tl.cast(tile, tl.int64) * 0"),
    ("a history ends with the target, in Triton", bits(),
     "(place - length)[:, None] + column, mask",
     "(place - length)[:, None] + column + 1, mask"),
    ("a short history goes on with the target", bits(),
     "real = column < length[:, None]",
     "real = column <= length[:, None]"),
    ("users by the place among those with a target", bits(),
     "tl.load(users_ptr + row)",
     "row.to(tl.int32)"),
)  # fmt: skip

TOUCHING = group(
    KERNEL,
    ("samples past the last are written", GUARDED,
     "tl.store(length_ptr + index, length.to(tl.int32), mask=inside)",
     "tl.store(length_ptr + tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), length.to(tl.int32))"),
    ("a history is read beyond its end", GUARDED,
     "mask=real, other=0)",
     "mask=column >= 0, other=0)"),
)  # fmt: skip

HOST = group(
    LAUNCH,
    ("the last samples are not drawn", bits("more than a block"),
     "(triton.cdiv(batch, _BLOCK),)",
     "(max(batch // _BLOCK, 1),)"),
    ("a step in a tensor is ignored", bits(),
     "(0, step) if isinstance(step, Tensor)",
     "(0, None) if isinstance(step, Tensor)"),
    ("drawn again though there are enough users", bits("as many users as samples"),
     "REPLACE=num_users < batch",
     "REPLACE=num_users <= batch"),
    ("an epoch permutes the users", bits(sampling="epoch"),
     "network(sequences.num_targets if every_target_once else num_users)",
     "network(num_users)"),
    ("the last users are not searched", bits(sampling="epoch"),
     "USER_BITS=(num_users - 1).bit_length()",
     "USER_BITS=num_users.bit_length() - 1"),
)  # fmt: skip

SHARED = group(
    PERMUTATION,
    ("one stream for all permutations", bits(),
     "step.to(tl.uint32), STREAM, 0)",
     "step.to(tl.uint32), _NEGATIVE_KEYS, 0)"),
)  # fmt: skip

LOADING = group(
    CLASS,
    ("the same batch again", iterated(),
     "        self._next += 1\n",
     ""),
    ("an epoch is drawn uniformly", iterated("epoch"),
     'sampling == "epoch"',
     'sampling == "uniform epoch"'),
    ("batches of iterating share memory", iterated(),
     "self._draw(self._next, self.buffers())",
     "self._draw(self._next, self._drawn)"),
    ("a drawn batch has memory of its own", DRAWN,
     "self._drawn if out is None else out)",
     "self.buffers() if out is None else out)"),
    ("closing does nothing", CLOSING,
     "self._closed = True",
     "self._closed = False"),
    ("eligible users are skipped", PROPERTIES,
     "len(users) - sampler.num_users",
     "sampler.num_users"),
    ("past the last step", STEPS,
     "if self._next >= 2**32:",
     "if self._next > 2**32:"),
)  # fmt: skip

MUTANTS = [
    *REFERENCE, *INTERFACE, *DRAWING, *TOUCHING, *HOST, *SHARED, *LOADING
]  # fmt: skip
