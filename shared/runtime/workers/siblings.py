"""Answer for all workers of a service in one of them: readiness, liveness and metrics."""

from collections.abc import Mapping

from shared.runtime.logs import Log
from shared.runtime.web.service_app import Checks
from shared.runtime.workers.calls import WorkerCalls
from shared.runtime.workers.fork import Worker
from shared.runtime.workers.metrics import QUESTION, WorkerMetrics


class Siblings:
    """A part of each worker, which asks the others and answers them."""

    def __init__(self, worker: Worker, checks: Mapping[str, Checks], log: Log) -> None:
        """Set the checks of this worker alone: `ready` and `alive`."""
        self._worker = worker
        self._checks = checks
        self._metrics = WorkerMetrics(worker, log)
        self._calls = WorkerCalls(worker, {**checks, QUESTION: self._metrics.answer})

    async def start(self) -> None:
        await self._calls.start()

    async def stop(self) -> None:
        await self._calls.stop()

    async def ready(self) -> Mapping[str, bool]:
        """Return the readiness checks of all workers."""
        return await self._all("ready")

    async def alive(self) -> Mapping[str, bool]:
        """Return the liveness checks of all workers."""
        return await self._all("alive")

    async def _all(self, question: str) -> Mapping[str, bool]:
        """Return the checks of all workers: each is True if it is in all, and whether each worker answers."""
        answers = await self._calls.ask(question)
        results = dict(await self._checks[question]())
        for number in range(self._worker.count):
            if number != self._worker.number:
                answer: Mapping[str, bool] = answers.get(number, {})
                results[f"worker_{number}_answers"] = number in answers
                for name, ok in answer.items():
                    results[name] = ok and results.get(name, True)
        return results

    async def exposition(self) -> bytes:
        """Return the response body of `/metrics`."""
        return await self._metrics.exposition(self._calls)
