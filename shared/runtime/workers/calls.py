"""Questions between the workers of a service: datagrams over sockets that the parent made before the fork."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Final

import orjson

from shared.runtime.workers.fork import Worker

_TIMEOUT_S: Final = 2.5
"""More than a worker needs to find out that MongoDB does not answer."""
_RETRY_INTERVAL_S: Final = 0.01
_MAX_BYTES: Final = 64 * 1024

Answers = Mapping[str, Callable[[], Awaitable[Any]]]
"""Functions that answer the questions to a worker, by question. Each returns a value that JSON can hold."""


class WorkerCalls:
    """Asks the other workers, and answers them. It does nothing while nobody asks."""

    def __init__(self, worker: Worker, answers: Answers) -> None:
        self._worker = worker
        self._answers = answers
        self._inbox = worker.mailboxes[worker.number][0]
        self._open: dict[str, dict[int, Any]] = {}
        """The answers to each open question, by its id."""
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        asyncio.get_running_loop().add_reader(self._inbox.fileno(), self._receive)

    async def stop(self) -> None:
        asyncio.get_running_loop().remove_reader(self._inbox.fileno())
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def ask(self, question: str) -> dict[int, Any]:
        """Return the answers of the other workers by their numbers.

        Waits up to 2.5 s for each worker that serves.
        """
        call = secrets.token_hex(8)
        answers = self._open[call] = {}
        others = [
            number
            for number, started in enumerate(self._worker.started)
            if started and number != self._worker.number
        ]
        message = {"call": call, "from": self._worker.number, "question": question}
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                await asyncio.gather(*(self._send(number, message) for number in others))
                while len(answers) < len(others):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            pass
        finally:
            del self._open[call]
        return answers

    async def _send(self, number: int, message: Mapping[str, Any]) -> None:
        """Send a message, as soon as the worker has read enough of those before it."""
        while True:
            try:
                self._worker.mailboxes[number][1].send(orjson.dumps(message))
            except OSError:  # the kernel holds about ten
                await asyncio.sleep(_RETRY_INTERVAL_S)
            else:
                return

    def _receive(self) -> None:
        try:
            message = orjson.loads(self._inbox.recv(_MAX_BYTES))
        except BlockingIOError:
            return
        if "question" in message:
            task = asyncio.create_task(self._answer(message))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif message["call"] in self._open:
            self._open[message["call"]][message["from"]] = message["answer"]
            self._changed.set()

    async def _answer(self, message: Mapping[str, Any]) -> None:
        answer = await self._answers[message["question"]]()
        reply = {"call": message["call"], "from": self._worker.number, "answer": answer}
        with suppress(TimeoutError):
            async with asyncio.timeout(_TIMEOUT_S):
                await self._send(message["from"], reply)
