"""Threads that call functions for the event loop."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from math import inf
from queue import SimpleQueue
from time import monotonic
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")

_current = threading.local()


def seconds_left() -> float:
    """Return the seconds that this thread's call may still take; infinite outside of a call."""
    return getattr(_current, "deadline", inf) - monotonic()


class _Call(NamedTuple):
    future: asyncio.Future[Any]
    deadline: float
    function: Callable[[], Any]


class Threads:
    """Call functions in threads, for less CPU time than `concurrent.futures`.

    Once per turn of the event loop, calls go to the threads and results come back. A thread that
    wakes up competes with the loop for the interpreter, which costs more than a short statement.
    """

    def __init__(self, number: int, name: str) -> None:
        self._unsent: list[_Call] = []
        self._calls = SimpleQueue[_Call | None]()
        self._results = deque[tuple[asyncio.Future[Any], Callable[[], None]]]()
        self._delivering = False
        # Daemons, because one that hangs must not keep the process from ending.
        self._threads = [
            threading.Thread(target=self._work, name=name, daemon=True) for _ in range(number)
        ]
        for thread in self._threads:
            thread.start()

    async def call(self, function: Callable[[], T], seconds: float, timeout_error: Exception) -> T:
        """Return `function()`, called in a thread; raise `timeout_error` after `seconds`, waiting included.

        Context variables are those of the caller. A started function is not interrupted.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        if not self._unsent:
            loop.call_soon(self._hand_over)
        run = partial(copy_context().run, function)
        self._unsent.append(_Call(future, monotonic() + seconds, run))
        timer = loop.call_later(
            seconds, _finish, future, partial(future.set_exception, timeout_error)
        )
        try:
            return await future
        finally:
            timer.cancel()

    def _hand_over(self) -> None:
        for call in self._unsent:
            self._calls.put(call)
        self._unsent.clear()

    def _work(self) -> None:
        while call := self._calls.get():
            if call.future.done():  # timed out, cancelled
                continue
            _current.deadline = call.deadline
            try:
                finish = partial(call.future.set_result, call.function())
            except BaseException as error:
                finish = partial(call.future.set_exception, error)
            self._results.append((call.future, finish))
            if not self._delivering:
                self._delivering = True
                with suppress(RuntimeError):  # the loop was closed meanwhile
                    call.future.get_loop().call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._delivering = False
        while self._results:
            _finish(*self._results.popleft())

    def close(self) -> None:
        """End the threads; wait a second for each that still calls a function."""
        for _ in self._threads:
            self._calls.put(None)
        for thread in self._threads:
            thread.join(1)


def _finish(future: asyncio.Future[Any], finish: Callable[[], None]) -> None:
    if not future.done():
        finish()
