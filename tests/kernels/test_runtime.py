"""Where kernels are launched."""

import contextlib

import torch

from remi_fast.kernels.runtime import launch


def test_a_kernel_runs_on_the_device_of_its_tensors(monkeypatch):
    """Triton takes the current device, which may be another one."""
    current, ran = [], []

    @contextlib.contextmanager
    def device_of(tensor):
        current.append(tensor)
        yield
        current.pop()

    class Kernel:
        def __getitem__(self, grid):
            return lambda *arguments, **options: ran.append((grid, arguments, options, current[:]))

    monkeypatch.setattr(torch.cuda, "device_of", device_of)
    first, second = torch.zeros(2), torch.zeros(3)
    launch(Kernel(), (2, 3), (second,), 4, first, second, BLOCK=8)
    ((grid, arguments, options, inside),) = ran
    assert grid == (2, 3) and options == {"BLOCK": 8} and len(arguments) == 4
    assert len(inside) == 1 and inside[0] is first and not current
