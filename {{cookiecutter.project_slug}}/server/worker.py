"""A worker process: gunicorn's side of uvicorn."""

import asyncio
import logging
import os
import signal
import socket
import sys
from types import FrameType

import gunicorn.workers.base
import uvicorn

from server import startup
from server.limits import Protocol
from server.shutdown import Server

log = logging.getLogger("server.worker")


class Worker(gunicorn.workers.base.Worker):
    """Serve with uvicorn in a process that gunicorn forks."""

    def init_process(self) -> None:
        """Log an error that ends this process; gunicorn would print it as plain text."""
        try:
            super().init_process()
        except Exception as error:
            startup.log_startup_failure(f"{type(error).__name__}: {error}")
            sys.exit(startup.FAILED)

    def run(self) -> None:
        """Serve until told to stop."""
        settings = self.app.settings
        Protocol.read_timeout = settings.read_timeout
        config = uvicorn.Config(
            self.wsgi,
            loop="asyncio",
            http=Protocol,
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            root_path=settings.root_path,
            forwarded_allow_ips=settings.forwarded_allow_ips,
            timeout_keep_alive=settings.keep_alive,
            timeout_graceful_shutdown=settings.graceful_timeout,
            limit_max_requests=self.max_requests,
            callback_notify=self.tick,
            # Always due, even if the system's clock is changed.
            timeout_notify=-sys.maxsize,
        )
        self.server = Server(config)
        signal.signal(signal.SIGQUIT, self.handle_quit)
        self.wsgi.slot = startup.SLOTS + self.age % 256
        sockets = [listener.sock for listener in self.sockets]
        for listener in sockets:
            if sys.platform == "linux" and listener.family in (socket.AF_INET, socket.AF_INET6):
                # The kernel ends a connection whose client takes nothing for that long.
                limit = settings.write_timeout * 1000
                listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, limit)
        self.server.run(sockets=sockets)
        startup.skip_teardown = True

    async def tick(self) -> None:
        """Tell gunicorn each second that the event loop works, and drop slow clients."""
        self.notify()
        now = asyncio.get_running_loop().time()
        for connection in list(self.server.server_state.connections):
            if isinstance(connection, Protocol):  # a WebSocket has pings of its own
                connection.drop_if_slow(now)

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        """Stop at once; gunicorn's own handler raises SystemExit wherever the code is."""
        self.server.force_exit = self.server.should_exit
        self.server.should_exit = True
        self.server.config.timeout_graceful_shutdown = 0

    def handle_abort(self, sig: int, frame: FrameType | None) -> None:
        """End, and log where the event loop is blocked."""
        log.critical("the event loop was blocked for WORKER_TIMEOUT", stack_info=True)
        logging.shutdown()
        os._exit(1)
