"""A service that recommends from an exported folder: FastAPI, onnxruntime, faiss; no torch.

    remi-fast export runs/first --out exported
    python docs/serve_example.py exported --port 8000
    curl localhost:8000/recommend -d '{"history": ["topic-000-item-00"], "k": 10}'

Needs `pip install 'remi-fast[export,faiss,serve]'`; without items.faiss in the export the search is
exact, in NumPy. docs/export.md says what is answered to what.
"""

import argparse
import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import numpy as np
import uvicorn
from fastapi import FastAPI, HTTPException, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from starlette.requests import ClientDisconnect

from remi_fast.errors import RemiFastError, shown
from remi_fast.export import Export, load_export

MAX_K = 1000
MAX_HISTORY = 1000  # items of one request; the model looks at the last `max_history`
MAX_BODY = 1 << 17  # bytes
BODY_SECONDS = 10  # for a client to send it
MAX_BATCH = 32  # requests in one call of encoder and search
MAX_WAITING = 1024  # requests; more are turned away


def query_model(id_type: type) -> type[BaseModel]:
    """What a request must look like; raw item ids are of type int or str."""
    return create_model(
        "Query",
        __config__=ConfigDict(extra="forbid", strict=True),
        history=(list[id_type], Field(min_length=1, max_length=MAX_HISTORY)),
        k=(int, Field(10, ge=1, le=MAX_K)),
        user_id=(int | str | None, None),
        exclude_seen=(bool, False),
    )


def exact_search(vectors: np.ndarray) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """A function like `index.search`: queries (n, d), m -> scores and item indices (n, m)."""
    items = np.asarray(vectors[1:]).T

    def search(queries: np.ndarray, m: int) -> tuple[np.ndarray, np.ndarray]:
        scores = queries @ items
        best = np.argpartition(scores, -m, axis=1)[:, -m:]
        return np.take_along_axis(scores, best, axis=1), best + 1

    return search


def merged(scores: np.ndarray, ids: np.ndarray, k: int, seen: Sequence[int]) -> np.ndarray:
    """Places in `scores` and `ids` (K, m) of one user's k best items that were not seen.

    An item that several interests found counts once, with its highest score.
    """
    interest = np.repeat(np.arange(len(ids)), ids.shape[1])
    order = np.lexsort((interest, ids.ravel(), -scores.ravel()))
    first = np.sort(np.unique(ids.ravel()[order], return_index=True)[1])
    best = order[first]
    found = ids.ravel()[best]  # faiss gives -1 where it found no more
    return best[(found > 0) & ~np.isin(found, seen)][:k]


class Engine:
    """Encoder and search of an export."""

    def __init__(self, export: Export) -> None:
        self.export = export
        self.ids = export.items["item_id"].to_list()
        self.index_of = {item: index for index, item in enumerate(self.ids, start=1)}
        self.encode = export.user_encoder(threads=1)
        if export.has("faiss"):
            self.search = export.index().search
        else:
            self.search = exact_search(export.item_embeddings())

    def answer(self, queries: list[tuple[Any, list[int]]]) -> list[list[dict[str, Any]]]:
        """The items for each request and the indices of its history: one call for all."""
        positions = self.export.max_history
        history = np.zeros((len(queries), positions), np.int64)
        length = np.zeros(len(queries), np.int64)
        for row, (_, known) in enumerate(queries):
            recent = known[-positions:]
            history[row, : len(recent)], length[row] = recent, len(recent)
        interests = self.encode(history, length)
        most = max(query.k + query.exclude_seen * len(set(known)) for query, known in queries)
        most = min(most, len(self.ids))
        scores, ids = self.search(interests.reshape(-1, self.export.dim), most)
        shape = (*interests.shape[:2], most)
        per_user = zip(queries, scores.reshape(shape), ids.reshape(shape), strict=True)
        return [self._items(*each) for each in per_user]

    def _items(self, query: tuple[Any, list[int]], scores: Any, ids: Any) -> list[dict[str, Any]]:
        request, known = query
        best = merged(scores, ids, request.k, known if request.exclude_seen else [])
        return [
            {
                "item_id": self.ids[ids.flat[place] - 1],
                "score": float(scores.flat[place]),
                "interest": int(place // ids.shape[1]),
            }
            for place in best
        ]


class Batcher:
    """Answers many requests with one call: what comes in while a batch is computed is the next.

    So no request waits for others to come, and the batches grow with the load.
    """

    def __init__(self, answer: Callable[[list[Any]], list[Any]]) -> None:
        self.answer = answer
        self.waiting: asyncio.Queue[tuple[Any, asyncio.Future[Any]]] = asyncio.Queue(MAX_WAITING)

    async def __call__(self, query: Any) -> Any:
        future = asyncio.get_running_loop().create_future()
        try:
            self.waiting.put_nowait((query, future))
        except asyncio.QueueFull:
            raise HTTPException(503, "too many requests wait", {"Retry-After": "1"}) from None
        return await future

    async def run(self) -> None:
        while True:
            batch = [await self.waiting.get()]
            while len(batch) < MAX_BATCH and not self.waiting.empty():
                batch.append(self.waiting.get_nowait())
            queries = [query for query, _ in batch]
            try:
                answers = await asyncio.to_thread(self.answer, queries)
            except Exception as error:  # each of the batch answers it, and the next goes on
                answers = [error] * len(batch)
            for (_, future), answer in zip(batch, answers, strict=True):
                if future.done():  # the client is gone
                    continue
                if isinstance(answer, Exception):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)


async def read_body(request: Request) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                body += part
                if len(body) > MAX_BODY:
                    raise HTTPException(413, f"body: got more than {MAX_BODY} bytes")
    except TimeoutError:
        raise HTTPException(408, f"body: expected within {BODY_SECONDS} seconds") from None
    except ClientDisconnect:
        raise HTTPException(400, "body: it ended early") from None
    return bytes(body)


def parsed(model: type[BaseModel], body: bytes) -> Any:
    """The request in a body. HTTPException: 400 for what is not JSON, 422 for what does not fit."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "body"
        malformed = first["type"] == "json_invalid"
        text = f"{where}: {first['msg']}; got {shown(first['input'])}"
        raise HTTPException(400 if malformed else 422, text) from None


def make_app(export: Export) -> FastAPI:
    engine = Engine(export)
    model = query_model(type(engine.ids[0]))
    batcher = Batcher(engine.answer)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        worker = asyncio.create_task(batcher.run())
        yield
        worker.cancel()

    app = FastAPI(title="remi-fast", lifespan=lifespan)
    schema = {"application/json": {"schema": model.model_json_schema()}}

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {
            "status": "ok",
            "run": export.manifest["run"],
            "model": export.manifest["model"]["name"],
            "items": len(engine.ids),
        }

    @app.post("/recommend", openapi_extra={"requestBody": {"content": schema, "required": True}})
    async def recommend(request: Request) -> dict[str, Any]:
        query = parsed(model, await read_body(request))
        known = [engine.index_of[item] for item in query.history if item in engine.index_of]
        if not known:
            raise HTTPException(422, "history: none of its items is known to the model")
        items = await batcher((query, known))
        unknown = len(query.history) - len(known)
        return {"user_id": query.user_id, "unknown_items": unknown, "items": items}

    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("export", help="folder made by `remi-fast export`")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0: any that is free")
    arguments = parser.parse_args()
    try:
        app = make_app(load_export(arguments.export))
    except RemiFastError as error:
        raise SystemExit(f"{parser.prog}: {error}") from None
    where = arguments.host, arguments.port
    try:
        listening = socket.create_server(where)
    except (OSError, OverflowError) as error:  # OverflowError: no port has this number
        raise SystemExit(f"{parser.prog}: {where[0]}:{where[1]}: cannot listen: {error}") from None
    # Or the two writes of an answer wait 40 ms for each other; accepted sockets inherit it.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    print(f"http://{arguments.host}:{listening.getsockname()[1]}", flush=True)  # noqa: T201
    with suppress(KeyboardInterrupt):
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listening])


if __name__ == "__main__":
    main()
