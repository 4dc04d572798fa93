"""Where Triton runs in the tests, and a small prepared dataset that several of them read."""

import os

import numpy as np
import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before the first import of triton


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="the long forms, as in `make test-all`")


@pytest.fixture(scope="session")
def at_scale(request):
    """at_scale(short, full): the one or, with --full, the other."""
    full = request.config.getoption("--full")
    return lambda short, long: long if full else short


@pytest.fixture(scope="module", autouse=True)
def gpu_only_where_asked_for(request):
    """On a GPU machine the tests that do not ask tests/device.py are of the CPU, as elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        if torch.cuda.is_available() and not hasattr(request.module, "DEVICE"):
            patch.setattr(torch.cuda, "is_available", lambda: False)
            patch.setenv("CUDA_VISIBLE_DEVICES", "")  # of the processes that they start
        yield


# Imported where used, below: the kernels' tests also run on a GPU machine with little more than
# torch, triton and NumPy.


def interactions(users=300, topics=8, items_per_topic=12, seed=0):
    """Two topics a user; raw item ids are text, raw user ids are not 0..n."""
    pl = pytest.importorskip("polars")
    generator = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        mine = generator.choice(topics, 2, replace=False)
        for time in range(generator.integers(6, 25)):
            item = generator.integers(items_per_topic)
            rows.append((1000 + 7 * user, f"t{generator.choice(mine)}-{item}", 100 * time))
    columns = {"user_id": pl.Int64, "item_id": pl.String, "timestamp": pl.Int64}
    return pl.DataFrame(rows, schema=columns, orient="row")


@pytest.fixture(scope="session")
def raw_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("raw") / "interactions.parquet"
    interactions().write_parquet(path)
    return path


@pytest.fixture(scope="session")
def dataset(raw_file, tmp_path_factory):
    from remi_fast.data.prepare import PrepareSettings, prepare

    out = tmp_path_factory.mktemp("prepared") / "data"
    return prepare([raw_file], out, PrepareSettings())
