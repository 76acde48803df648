"""Threads that call functions for the event loop."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")


class Threads:
    """A number of threads; those of `concurrent.futures` cost twice the CPU time for a call."""

    def __init__(self, number: int, name: str) -> None:
        self._calls = SimpleQueue[Callable[[], None] | None]()
        # Daemons, because one that hangs must not keep the process from ending.
        self._threads = [
            threading.Thread(target=self._run, name=name, daemon=True) for _ in range(number)
        ]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        while call := self._calls.get():
            call()

    async def call(self, function: Callable[[], T], seconds: float, late: Exception) -> T:
        """Return `function()`, called in a thread; raise `late` after `seconds`, waiting included.

        Context variables are those of the caller. A function that has begun is not ended.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        context = copy_context()

        def fail(error: BaseException) -> None:
            if not future.done():
                future.set_exception(error)

        def finish(result: T) -> None:
            if not future.done():
                future.set_result(result)

        def run() -> None:
            if future.done():  # nobody waits any more
                return
            with suppress(RuntimeError):  # the loop was closed meanwhile
                try:
                    result = context.run(function)
                except BaseException as error:
                    loop.call_soon_threadsafe(fail, error)
                else:
                    loop.call_soon_threadsafe(finish, result)

        self._calls.put(run)
        timer = loop.call_later(seconds, fail, late)
        try:
            return await future
        finally:
            timer.cancel()

    def close(self) -> None:
        """End the threads; wait a second for each that still calls a function."""
        for _ in self._threads:
            self._calls.put(None)
        for thread in self._threads:
            thread.join(1)
