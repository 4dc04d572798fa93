"""Tables with room behind their rows."""

import pytest
import torch

from remi_fast.kernels import memory
from remi_fast.kernels.memory import has_room, spread, table_zeros


def table(rows, dim, room):
    made = table_zeros(rows, dim, dtype=torch.float32, device=torch.device("cpu"), room=room)
    assert made.shape == (rows, dim) and not made.any()
    return made


@pytest.mark.parametrize("rows, dim, parts", [(1, 1, 3), (7, 5, 3), (50, 3, 2), (64, 1, 4)])
def test_rows_move_apart_in_place(rows, dim, parts, monkeypatch):
    monkeypatch.setattr(memory, "_ROWS_MOVED", 8)
    numbers = torch.arange(1.0, 1 + rows * dim).view(rows, dim)
    made = table(rows, dim, parts)
    made.copy_(numbers)
    apart = spread(made, parts)
    assert apart.shape == (rows, parts, dim) and apart.is_contiguous()
    assert torch.equal(apart[:, 0], numbers) and not apart[:, 1:].any()
    assert apart.data_ptr() == made.data_ptr()


def test_room_is_there_where_it_was_asked_for():
    assert has_room(table(6, 4, 3), 3) and not has_room(table(6, 4, 3), 4)
    assert not has_room(table(6, 4, 1), 3)
    assert not has_room(table(6, 4, 3).clone(), 3)
    assert not has_room(table(6, 4, 3)[:, :2], 3)  # rows that are apart already
    assert not has_room(table(0, 4, 3), 3)
