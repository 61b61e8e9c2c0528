"""Processes that run the models, one request at a time each, and are replaced when they die.

Each has a pipe of its own, so that a process that is killed leaves no lock taken for the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any

from nirvana_deploy.serving.server.inference_request import RefusedError
from nirvana_deploy.serving.server.served_models import ServedGraph
from pruning.errors import NirvanaError

Key = tuple[str, str]

_CLOSE_SECONDS = 5.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0


def run_worker(pipe: Connection, graphs: Sequence[ServedGraph], num_threads: int) -> None:
    """Open the models, then answer requests (model and version, arrays) until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the server, which ends us
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    from nirvana_deploy.serving.server.graph_model import open_model

    try:
        models = {(graph.name, graph.version): open_model(graph, num_threads) for graph in graphs}
    except Exception as error:  # ONNX Runtime's errors have no base of their own
        pipe.send(("failed", _describe(error)))
        return
    pipe.send(("ready", None))
    with contextlib.suppress(EOFError, OSError):
        while (job := pipe.recv()) is not None:
            key, feeds = job
            try:
                pipe.send(("answer", models[key].answer(feeds)))
            except Exception as error:
                pipe.send(("failed", _describe(error)))


def _describe(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


class _Worker:
    """One process and the thread that waits for its answers."""

    def __init__(self, graphs: Sequence[ServedGraph], num_threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self.process = context.Process(
            target=run_worker, args=(theirs, graphs, num_threads), daemon=True
        )
        self.process.start()
        theirs.close()  # the pipe then ends when the process does
        self.thread = ThreadPoolExecutor(1)

    def receive(self) -> tuple[str, Any]:
        """Wait for the next message; raise EOFError or OSError when the process ended."""
        kind, content = self._pipe.recv()
        return kind, content

    def ask(self, job: tuple[Key, Mapping[str, object]]) -> tuple[str, Any]:
        """Run a request."""
        self._pipe.send(job)
        return self.receive()

    def end(self) -> None:
        """Ask the process to end; by force where it does not listen."""
        with contextlib.suppress(OSError):
            self._pipe.send(None)
        self.process.join(_CLOSE_SECONDS)
        self.kill()

    def kill(self) -> None:
        """End the process by force."""
        self.process.kill()
        self.process.join()
        self.thread.shutdown(wait=False)


class WorkerPool:
    """Gives requests to workers that are free. Make it within an event loop."""

    def __init__(
        self,
        graphs: Sequence[ServedGraph],
        *,
        num_workers: int,
        num_threads: int,
        request_seconds: float,
    ) -> None:
        self._graphs, self._num_threads = graphs, num_threads
        self._num_workers, self._seconds = num_workers, request_seconds
        self._workers: set[_Worker] = set()
        self._free: asyncio.Queue[_Worker] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closing = False

    @property
    def is_ready(self) -> bool:
        """Whether all workers have their models open."""
        return len(self._workers) == self._num_workers

    async def start(self) -> None:
        """Start all workers.

        Raises:
            NirvanaError: a model does not open.
        """
        await asyncio.gather(*(self._add_worker() for _ in range(self._num_workers)))

    async def run(self, key: Key, feeds: Mapping[str, object]) -> dict[str, object]:
        """Run a request in the next free worker.

        Raises:
            RefusedError: it does not run; it took too long; its worker ended; none is free.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._seconds
        worker = await self._take_worker(deadline)
        asked = loop.run_in_executor(worker.thread, worker.ask, (key, feeds))
        try:
            async with asyncio.timeout_at(deadline):
                kind, content = await asyncio.shield(asked)
        except (EOFError, OSError) as error:
            if isinstance(error, TimeoutError):
                worker.process.kill()  # it would answer nobody; a new one takes its place
                asked.add_done_callback(_forget)
                raise RefusedError(
                    f"The request took more than {self._seconds:g} seconds. Send fewer rows, or "
                    "start the server with a larger --request-seconds.",
                    504,
                ) from error
            raise RefusedError(
                "The worker that ran this request ended. It is started again: try later.", 503
            ) from error
        except asyncio.CancelledError:
            asked.add_done_callback(lambda _: self._give_back(worker))
            raise
        self._give_back(worker)
        if kind == "failed":
            raise RefusedError(content)
        answer: dict[str, object] = content
        return answer

    async def close(self) -> None:
        """End all workers."""
        self._is_closing = True
        for task in self._tasks:
            task.cancel()
        loop = asyncio.get_running_loop()
        for worker in self._workers:
            loop.remove_reader(worker.process.sentinel)
        await asyncio.gather(*(asyncio.to_thread(worker.end) for worker in self._workers))

    async def _take_worker(self, deadline: float) -> _Worker:
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    worker = await self._free.get()
            except TimeoutError as error:
                raise RefusedError("No worker became free in time. Try later.", 503) from error
            if worker in self._workers:
                return worker

    def _give_back(self, worker: _Worker) -> None:
        if worker in self._workers:
            self._free.put_nowait(worker)

    async def _add_worker(self) -> None:
        loop = asyncio.get_running_loop()
        worker = await asyncio.to_thread(_Worker, self._graphs, self._num_threads)
        try:
            kind, reason = await loop.run_in_executor(worker.thread, worker.receive)
        except (EOFError, OSError) as error:
            worker.kill()
            raise NirvanaError(
                "A worker ended while it opened the models; the system may be out of memory."
            ) from error
        except asyncio.CancelledError:
            worker.process.kill()
            raise
        if kind != "ready":
            worker.kill()
            raise NirvanaError(f"A model of the package does not open: {reason}.")
        self._workers.add(worker)
        loop.add_reader(worker.process.sentinel, self._replace, worker)
        self._free.put_nowait(worker)

    def _replace(self, worker: _Worker) -> None:
        """Start another worker for one that ended."""
        asyncio.get_running_loop().remove_reader(worker.process.sentinel)
        self._workers.discard(worker)
        worker.kill()
        task = asyncio.get_running_loop().create_task(self._start_again())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _start_again(self) -> None:
        pause = _FIRST_PAUSE
        while not self._is_closing:
            try:
                await self._add_worker()
                return
            except (NirvanaError, OSError) as error:
                stamp = time.strftime("%H:%M:%S")
                print(f"{stamp} {error} Trying again in {pause:g} s.", file=sys.stderr)  # noqa: T201
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)


def _forget(answer: asyncio.Future[Any]) -> None:
    """Take the error of an answer that nobody waits for, which asyncio would write to the log."""
    if not answer.cancelled():
        answer.exception()
