"""Log lines: those of a turn of the event loop are one write, and none waits for anything else."""

import asyncio
import io
import threading

from shared.runtime.logs import LineLogger


class Recorder(io.BytesIO):
    """A stream that counts its writes; a `broken` one accepts none."""

    def __init__(self, *, broken: bool = False) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self._broken = broken

    def write(self, data: object, /) -> int:
        if self._broken:
            raise BrokenPipeError
        assert isinstance(data, bytes)
        self.writes.append(data)
        return len(data)


def test_lines_of_a_turn_are_one_write() -> None:
    stream = Recorder()
    log = LineLogger(stream)

    async def turn() -> None:
        before = list(stream.writes)
        log.info(b"1")
        log.debug(b"2")
        assert stream.writes == before
        await asyncio.sleep(0)

    asyncio.run(turn())
    asyncio.run(turn())  # another event loop
    assert stream.writes == [b"1\n2\n", b"1\n2\n"]


def test_a_warning_is_written_at_once_and_after_the_lines_before_it() -> None:
    stream = Recorder()
    log = LineLogger(stream)

    async def turn() -> None:
        log.info(b"1")
        log.warning(b"2")
        assert stream.writes == [b"1\n2\n"]
        log.info(b"3")
        await asyncio.sleep(0)

    asyncio.run(turn())
    assert stream.writes == [b"1\n2\n", b"3\n"]


def test_a_line_without_an_event_loop_is_written_at_once() -> None:
    stream = Recorder()
    log = LineLogger(stream)
    log.info(b"1")

    async def turn() -> None:
        thread = threading.Thread(target=log.info, args=(b"2",))
        thread.start()
        thread.join()

    asyncio.run(turn())
    assert stream.writes == [b"1\n", b"2\n"]


def test_a_line_of_a_loop_that_was_closed_too_early_is_not_lost() -> None:
    stream = Recorder()
    log = LineLogger(stream)
    closed = asyncio.new_event_loop()

    def stop() -> None:
        closed.stop()
        log.info(b"1")

    closed.call_soon(stop)
    closed.run_forever()
    closed.close()

    async def turn() -> None:
        log.info(b"2")
        await asyncio.sleep(0)

    asyncio.run(turn())
    assert stream.writes == [b"1\n2\n"]


def test_nobody_fails_for_a_log_that_cannot_be_written() -> None:
    log = LineLogger(Recorder(broken=True))
    log.info(b"1")
    log.warning(b"2")
