"""docs/serve_example.py over a real socket: it answers what the model does, to many at a time."""

import asyncio
import http.client
import json
import os
import re
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import polars as pl
import pytest

import remi_fast
from remi_fast.export import FORMATS, export_run

ROOT = Path(__file__).parent.parent.parent
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
KINDS = ((5, False), (5, True), (40, False), (1000, True))  # k, exclude_seen


class Server:
    """The example in a process of its own, on a free port."""

    def __init__(self, folder, log):
        self.log = log
        script = (
            "import runpy, sys, atexit; sys.argv = ['serve', *sys.argv[1:]]\n"
            "atexit.register(lambda: print('torch' in sys.modules, flush=True))\n"
            "runpy.run_path('docs/serve_example.py', run_name='__main__')"
        )
        command = [sys.executable, "-c", script, str(folder), "--port", "0"]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=log.open("w"),
            text=True,
            cwd=ROOT,
            env=ENVIRONMENT,
        )
        self.address = urlsplit(self.process.stdout.readline().strip())

    def connection(self):
        return http.client.HTTPConnection(self.address.hostname, self.address.port, timeout=30)

    def ask(self, body, method="POST", path="/recommend"):
        """Status and parsed answer."""
        connection = self.connection()
        connection.request(method, path, body)
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        return answer.status, json.loads(text)

    def health(self):
        return self.ask(None, "GET", "/health")

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        return self.process.communicate(timeout=30)[0]


@pytest.fixture(scope="module", params=["comirec-sa", "mind"])
def served(request, runs, exported, tmp_path_factory):
    """A model and its server: one with a faiss index, one that searches in NumPy."""
    folder = exported(request.param)
    if request.param == "mind":
        folder = tmp_path_factory.mktemp("serve") / "export"
        export_run(runs("mind"), folder, ["npy", "onnx"])
    server = Server(folder, tmp_path_factory.mktemp("log") / "stderr")
    yield remi_fast.load(runs(request.param)), server
    assert server.stop() == "False\n", "the server imported torch"
    log = server.log.read_text()
    assert "Traceback" not in log and "ERROR" not in log, log


def requests(items, users):
    """Histories of 1 to 12 items, some unknown, some twice; user 0's is a single one."""
    generator = np.random.default_rng(1)
    for user in range(users):
        history = generator.choice(items, generator.integers(1, 13) if user else 1).tolist()
        if user % 3 == 1:
            history.insert(generator.integers(len(history)), f"unknown-{user}")
        k, exclude_seen = KINDS[user % len(KINDS)]
        yield {"user_id": user, "history": history, "k": k, "exclude_seen": exclude_seen}


def expected(recommender, asked):
    """The recommendations of each request, by user."""
    found = {}
    for k, exclude_seen in KINDS:
        rows = [
            (each["user_id"], item)
            for each in asked
            if (each["k"], each["exclude_seen"]) == (k, exclude_seen)
            for item in each["history"]
        ]
        schema = {"user_id": pl.Int64, "item_id": pl.String}
        histories = pl.DataFrame(rows, schema=schema, orient="row")
        frame = recommender.recommend(histories, k, exclude_seen)
        found |= {user: rows for (user,), rows in frame.group_by("user_id", maintain_order=True)}
    return found


def check(answer, want):
    """The same items with the same scores; only near-ties may be in another order."""
    items = answer["items"]
    scores = dict(zip(want["item_id"], want["score"], strict=True))
    assert {item["item_id"] for item in items} == set(scores) and len(items) == len(scores)
    close = 1e-5 * max(map(abs, scores.values()))
    for item, score in zip(items, want["score"], strict=True):
        assert abs(item["score"] - score) <= close
        assert abs(scores[item["item_id"]] - score) <= close
    assert [item["interest"] for item in items[:1]] == want["interest"].head(1).to_list()


def test_hundreds_at_a_time_get_what_the_model_recommends(served):
    recommender, server = served
    asked = list(requests(recommender.item_table["item_id"].to_list(), 300))
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda each: server.ask(json.dumps(each)), asked))
    want = expected(recommender, asked)
    for request, (status, answer) in zip(asked, answers, strict=True):
        assert status == 200 and answer["user_id"] == request["user_id"]
        assert answer["unknown_items"] == (request["user_id"] % 3 == 1)
        check(answer, want[request["user_id"]])
    assert server.health()[0] == 200


def test_k_is_10_and_seen_items_are_there_by_default(served):
    recommender, server = served
    item = recommender.item_table["item_id"][0]
    status, answer = server.ask(json.dumps({"history": [item]}))
    assert status == 200 and len(answer["items"]) == 10 and answer["user_id"] is None
    check(answer, recommender.recommend(pl.DataFrame({"user_id": [1], "item_id": [item]}), 10))


def test_what_is_left_of_a_long_history_is_found(served):
    recommender, server = served
    items = recommender.item_table["item_id"].to_list()
    asked = {"history": items[5:], "k": 5, "exclude_seen": True}
    status, answer = server.ask(json.dumps(asked))
    assert status == 200 and {item["item_id"] for item in answer["items"]} == set(items[:5])


def test_health_describes_the_model(served):
    recommender, server = served
    status, answer = server.health()
    assert status == 200 and answer["status"] == "ok"
    assert answer["items"] == recommender.model.num_items - 1


HISTORY = '{"history": ["t0-0"]'
HOSTILE = {
    "nothing": (b"", 400, "body: Invalid JSON"),
    "no JSON": (b"k=3", 400, "body: Invalid JSON"),
    "half of it": (b'{"history": ["t0-0"', 400, "body: Invalid JSON"),
    "bytes that are no text": (b'{"history": ["\xff\xfe"]}', 400, "body: Invalid JSON"),
    "half a surrogate": (rb'{"history": ["\ud800"]}', 400, "body: Invalid JSON"),
    "a deep list": (b"[" * 60_000, 400, "recursion limit"),
    "a list": (b"[]", 422, r"body: .*object; got \[\]"),
    "an empty object": (b"{}", 422, "history: Field required"),
    "an empty history": (b'{"history": []}', 422, "history: .*at least 1 item"),
    "a long history": (json.dumps({"history": ["a"] * 1001}), 422, "history: .*at most 1000"),
    "a text": (b'{"history": "t0-0"}', 422, "history: .*valid array; got 't0-0'"),
    "ids of another type": (b'{"history": [7]}', 422, "history.0: .*valid string; got 7"),
    "null in it": (b'{"history": ["t0-0", null]}', 422, "history.1: .*; got None"),
    "unknown items only": (b'{"history": ["x", "y"]}', 422, "none of its items is known"),
    "k 0": (HISTORY + ', "k": 0}', 422, "k: .*greater than or equal to 1; got 0"),
    "k below 0": (HISTORY + ', "k": -5}', 422, "k: .*; got -5"),
    "k too large": (HISTORY + ', "k": 1001}', 422, "k: .*less than or equal to 1000; got 1001"),
    "k huge": (HISTORY + f', "k": {"9" * 4000}}}', 422, "k: .*less than"),
    "k with 5,000 digits": (HISTORY + f', "k": {"9" * 5000}}}', 400, "number out of range"),
    "k a fraction": (HISTORY + ', "k": 2.5}', 422, "k: .*integer; got 2.5"),
    "k NaN": (HISTORY + ', "k": NaN}', 422, "k: .*integer; got nan"),
    "k a truth value": (HISTORY + ', "k": true}', 422, "k: .*integer; got True"),
    "a user with 5,000 digits": (
        HISTORY + f', "user_id": {"9" * 5000}}}',
        400,
        "number out of range",
    ),
    "a user that is a list": (HISTORY + ', "user_id": []}', 422, "user_id"),
    "an unknown field": (HISTORY + ', "top": 3}', 422, "top: Extra inputs .*; got 3"),
    "a huge body": (b'{"history": ["' + b"a" * 200_000 + b'"]}', 413, "more than 131072 bytes"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_bad_requests_are_refused(served, name):
    body, status, message = HOSTILE[name]
    got, answer = served[1].ask(body)
    assert got == status, answer
    assert list(answer) == ["detail"] and len(answer["detail"]) < 300
    assert re.search(message, answer["detail"]), answer
    assert served[1].health()[0] == 200


@pytest.mark.parametrize(
    "method, path, status", [("GET", "/", 404), ("GET", "/recommend", 405), ("PUT", "/health", 405)]
)
def test_other_paths_and_methods_are_refused(served, method, path, status):
    assert served[1].ask(None, method, path)[0] == status


def test_a_body_of_unknown_length_is_cut_off(served):
    connection = served[1].connection()
    parts = (b"a" * 10_000 for _ in range(20))
    connection.request("POST", "/recommend", parts, encode_chunked=True)
    assert connection.getresponse().status == 413


def test_what_is_not_http_and_who_hangs_up_do_no_harm(served):
    server = served[1]
    address = (server.address.hostname, server.address.port)
    for sent in (
        b"\x00\xff\x00\r\n\r\n",
        b"POST /recommend HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"POST /recommend HTTP/1.1\r\nHost: a\r\nContent-Length: 50\r\n\r\n{",
        b"POST /recommend HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + b"[" * 100,
    ):
        with socket.create_connection(address) as connection:
            connection.sendall(sent)
    body = HISTORY.encode() + b"}"
    head = f"POST /recommend HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    for _ in range(20):  # asks, and does not wait for the answer
        with socket.create_connection(address) as connection:
            connection.sendall(head + body)
    assert server.health()[0] == 200
    assert server.ask(body)[0] == 200


def test_a_damaged_export_is_not_served(exported, tmp_path):
    folder = Path(shutil.copytree(exported("comirec-sa"), tmp_path / "export"))
    file = folder / FORMATS["onnx"]
    file.write_bytes(file.read_bytes()[:-1])
    command = [sys.executable, "docs/serve_example.py", str(folder)]
    done = subprocess.run(
        command, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and "user_encoder.onnx: got" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def example():
    return runpy.run_path(str(ROOT / "docs/serve_example.py"))


def batched(example, answer, ask):
    """What `ask(batcher)` returns, with a worker that calls `answer`."""

    async def run():
        batcher = example["Batcher"](answer)
        worker = asyncio.create_task(batcher.run())
        try:
            return await asyncio.wait_for(ask(batcher), timeout=60)
        finally:
            worker.cancel()

    return asyncio.run(run())


@pytest.mark.parametrize("port", ["taken", "70000"])
def test_a_port_that_cannot_be_had_is_a_line(exported, port, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        if port == "taken":
            port = str(taken.getsockname()[1])
        done = subprocess.run(
            [sys.executable, "docs/serve_example.py", str(exported("dnn")), "--port", port],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=ENVIRONMENT,
        )
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"serve_example.py: 127.0.0.1:{port}: cannot listen: ")


def test_what_comes_in_meanwhile_is_one_batch(example):
    seen = []

    def answer(queries):
        seen.append(queries)
        return [10 * query for query in queries]

    async def ask(batcher):
        return await asyncio.gather(*map(batcher, range(80)))

    assert batched(example, answer, ask) == [10 * query for query in range(80)]
    assert [len(queries) for queries in seen] == [32, 32, 16]


def test_an_error_is_each_ones_of_its_batch_and_the_next_goes_on(example):
    def answer(queries):
        return [1 / query for query in queries]

    async def ask(batcher):
        failed = await asyncio.gather(*map(batcher, [1, 0]), return_exceptions=True)
        return failed, await batcher(4)

    failed, after = batched(example, answer, ask)
    assert [type(error) for error in failed] == [ZeroDivisionError] * 2 and after == 0.25


def test_one_who_is_gone_does_no_harm(example):
    async def ask(batcher):
        gone = asyncio.create_task(batcher(1))
        await asyncio.sleep(0)  # it waits in the queue
        gone.cancel()
        return await batcher(2), await batcher(3)

    assert batched(example, list, ask) == (2, 3)


def test_more_than_can_wait_are_turned_away(example):
    release = threading.Event()

    def answer(queries):
        release.wait()
        return queries

    async def ask(batcher):
        waiting = [asyncio.create_task(batcher(query)) for query in range(1024)]
        await asyncio.sleep(0)
        with pytest.raises(example["HTTPException"]) as refused:
            await batcher(0)
        release.set()
        return refused.value.status_code, await asyncio.gather(*waiting)

    assert batched(example, answer, ask) == (503, list(range(1024)))
