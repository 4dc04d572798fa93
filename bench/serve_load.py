"""Latency of docs/serve_example.py under requests that come at a given rate, whether or not those
before were answered (an open loop): a request's time runs from when it was due.

python -m bench.serve_load --rates 100 300 600 --save serve_load
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from bench import results
from bench.large_catalogue import USERS, write_raw
from remi_fast.export import Export, export_run, load_export

HISTORY = 20  # items
K = 50
WARM_UP = 2  # seconds at the rate, not counted


class Client:
    """Connections that are kept open, as many as are needed at a time."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self.idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.opened = 0

    async def ask(self, body: bytes) -> int:
        """Send a request, read the answer; its status."""
        # The server closes connections that were idle for some seconds.
        self.idle = [pair for pair in self.idle if not pair[0].at_eof()]
        if self.idle:
            reader, writer = self.idle.pop()
        else:
            reader, writer = await asyncio.open_connection(self.host, self.port)
            self.opened += 1
        head = f"POST /recommend HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        status, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
        length = next(line for line in lines if line.startswith("content-length:"))
        await reader.readexactly(int(length.split(":")[1]))
        self.idle.append((reader, writer))
        return int(status.split()[1])


async def load(address: Any, bodies: list[bytes], rate: float, seconds: float) -> dict[str, Any]:
    """Requests at random times (a Poisson process) of this rate; what became of them."""
    client = Client(address.hostname, address.port)
    generator = np.random.default_rng(1)
    due = np.cumsum(generator.exponential(1 / rate, int(rate * (WARM_UP + seconds))))
    start = time.perf_counter()

    async def one(number: int) -> tuple[float, int]:
        await asyncio.sleep(due[number] - (time.perf_counter() - start))
        status = await client.ask(bodies[number % len(bodies)])
        return time.perf_counter() - start - due[number], status

    answers = await asyncio.gather(*(one(number) for number in range(len(due))))
    counted = [answer for answer, at in zip(answers, due, strict=True) if at >= WARM_UP]
    milliseconds = 1e3 * np.array([taken for taken, _ in counted])
    span = due[-1] + answers[-1][0] - WARM_UP
    return {
        "asked_per_s": rate,
        "answered_per_s": round(float(len(counted) / span), 1),
        "requests": len(counted),
        "not_200": sum(status != 200 for _, status in counted),
        **{f"p{p}_ms": round(float(np.percentile(milliseconds, p)), 2) for p in (50, 90, 99)},
        "max_ms": round(float(milliseconds.max()), 2),
        "connections": client.opened,
    }


def make_export(folder: Path, items: int) -> Path:
    """An export of a model that was hardly trained: how it scores does not matter here."""
    raw, data, run = (folder / name for name in ("raw.parquet", "data", "run"))
    write_raw(raw, items)
    words = [
        f"prepare {raw} --out {data} --filter none",
        f"train {data} --out {run} --train.steps=2 --train.eval_every=2",
    ]
    for command in words:
        line = [sys.executable, "-m", "remi_fast.cli", *command.split()]
        subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
    export_run(run, folder / "export", ["npy", "onnx", "faiss"])
    return folder / "export"


def request_bodies(export: Export) -> list[bytes]:
    """Requests with random histories of known items."""
    ids = export.items["item_id"].to_list()
    drawn = np.random.default_rng(2).integers(len(ids), size=(1000, HISTORY))
    return [
        json.dumps({"history": [ids[i] for i in row], "k": K, "exclude_seen": True}).encode()
        for row in drawn
    ]


def main() -> None:
    """Serve, load, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--items", type=int, default=50_000, help=f"of {USERS} generated users")
    parser.add_argument("--rates", type=float, nargs="+", default=[100, 300], help="a second")
    parser.add_argument("--seconds", type=float, default=20, help="of each rate")
    parser.add_argument("--save", help="name in bench/results/; not saved without it")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = make_export(Path(name), arguments.items)
        export = load_export(folder)
        bodies = request_bodies(export)
        command = [sys.executable, "docs/serve_example.py", str(folder), "--port", "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout is not None
                address = urlsplit(server.stdout.readline().strip())
                measured = [
                    asyncio.run(load(address, bodies, rate, arguments.seconds))
                    for rate in arguments.rates
                ]
            finally:
                server.terminate()
    described = {key: export.manifest[key] for key in ("model", "items", "faiss")}
    record = described | {"history": HISTORY, "k": K, "seconds": arguments.seconds}
    print(json.dumps(record | {"rates": measured}, indent=1))
    if arguments.save:
        print(results.save(arguments.save, record | {"rates": measured}))


if __name__ == "__main__":
    main()
