"""A warm process that forks a child for each run: `python -m tests.reliability.doomed`.

Each line on stdin is JSON: what to do, with which paths, and how it ends; `Doomed` (crashes.py)
says what. faults.c is preloaded and counts the child's calls. Nothing here may start a thread
before the fork: neither torch nor polars, nor the C++ thread pool.
"""

import ctypes
import json
import mmap
import os
import signal
import sys
import time

import polars  # noqa: F401  imported once, here, for all the children
import torch
import torch.utils.tensorboard  # noqa: F401
import triton  # noqa: F401

from remi_fast import api
from remi_fast.config import Config, LossConfig, ModelConfig, OptimConfig, TrainConfig
from remi_fast.data.prepare import PrepareSettings, prepare
from remi_fast.errors import RemiFastError
from remi_fast.training import checkpoint, trainer

CONFIG = Config(
    model=ModelConfig(dim=4, num_interests=2, max_history=4),
    loss=LossConfig(num_negatives=8),
    optim=OptimConfig(lr=0.01),
    train=TrainConfig(batch_size=8, steps=24, eval_every=8, checkpoint_every=4, threads=1),
)
TIMEOUT = 60.0  # seconds: what hangs is ended, and says so


class Shared(ctypes.Structure):
    """What parent and child both see; the first five as in faults.c."""

    _fields_ = [
        (name, ctypes.c_long)
        for name in ("calls", "first", "last", "fault", "mirror", "saving", "saved", "at")
    ]


def do(task, paths):
    if task == "prepare":
        prepare([paths["raw"]], paths["out"], PrepareSettings())
    elif task == "train":
        api.train(paths["data"], paths["out"], CONFIG)
    elif task == "resume":
        api.resume(paths["out"])
    else:
        raise ValueError(task)


def watch(shared):
    """Record which step was saved last, whether a save is under way, and what was restored."""
    save, save_best = checkpoint.save_training_state, checkpoint.save_weights
    restore = trainer.Trainer.restore

    def saving(function):
        def call(folder, what, progress):
            shared.saving = 1
            function(folder, what, progress)
            shared.saving = 0
            if function is save:
                shared.saved = progress["step"]

        return call

    def restored(self):
        restore(self)
        shared.at = self.step

    checkpoint.save_training_state, checkpoint.save_weights = saving(save), saving(save_best)
    trainer.Trainer.restore = restored
    trainer.LOG_EVERY = 3  # the means between two lines are part of what is resumed


def child(order, shared, answer):
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)  # warnings, and the traceback of TensorBoard's thread
    watch(shared)
    ctypes.CDLL(None).arm(ctypes.byref(shared), os.fsencode(order["below"]))
    try:
        do(order["task"], order["paths"])
        found = {"error": None}
    except Exception as error:
        kind = type(error).__name__
        kind = kind if isinstance(error, RemiFastError) else f"untyped {kind}"
        found = {"error": kind, "message": str(error)}
    os.write(answer, json.dumps(found).encode())
    os._exit(0)


def attempt(order):
    """Do it in a child; killed after order["seconds"], if that is given."""
    memory = mmap.mmap(-1, mmap.PAGESIZE)
    shared = Shared.from_buffer(memory)
    shared.at = -1
    for name in ("first", "last", "fault", "mirror"):
        setattr(shared, name, order.get(name, 0))
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        child(order, shared, writing)
    os.close(writing)
    started = time.monotonic()
    end = started + order.get("seconds", TIMEOUT)
    while (ended := os.waitpid(pid, os.WNOHANG)) == (0, 0):
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
            ended = os.waitpid(pid, 0)
            break
        time.sleep(0.001)
    seconds = time.monotonic() - started
    with os.fdopen(reading, "rb") as file:
        text = file.read()
    answer = {"error": "hung" if seconds > TIMEOUT else "killed", "message": f"status {ended[1]}"}
    if os.WIFEXITED(ended[1]):
        answer = json.loads(text)
    counted = {name: getattr(shared, name) for name, _ in Shared._fields_}
    return answer | counted | {"seconds": seconds}


def main():
    torch.set_num_threads(1)
    for line in sys.stdin:
        sys.stdout.write(json.dumps(attempt(json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
