"""What uvicorn and gunicorn leave open: slow clients, a stop without a lost request, the last word."""

import asyncio
import contextlib
import gc
import json
import logging
import math
import mmap
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any

import httptools
import uvicorn
from gunicorn.arbiter import Arbiter
from uvicorn.lifespan.on import LifespanOn, LifespanSendMessage
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn_worker import UvicornWorker

log = logging.getLogger("app.server")

# Bytes of a request's line and headers together; httptools itself takes any number.
MAX_HEAD = 32_768
# Seconds in which a handshake that had begun before a stop may still end.
HANDSHAKE = 0.1
# Seconds in which a connection that is open at a stop may still bring a request.
LAST_CHANCE = 0.5

# Linux's option to take connections from one network device alone, and a device that nobody has.
SO_BINDTOIFINDEX, NOWHERE = 62, 2**31 - 1

# Shared by the master and its workers: why a worker could not start.
_cause = mmap.mmap(-1, 1024)


class Protocol(HttpToolsProtocol):
    """Serve one connection, and know since when its client owes bytes."""

    owing_since = 0.0
    # The request that is being read: whether its head or all of it has ended, how large its head is.
    in_head = False
    body_ended = False
    head = 0
    # Bytes that came since the parser last made something of them, and the last of them.
    unparsed = 0
    data = b""
    # Bytes of the answer that the client has not taken, and when it last took any.
    unsent = 0
    taken = math.inf

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        self.owing_since = self.loop.time()
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Read on; refuse a head, or a trailer, that does not end."""
        self.unparsed += len(data)
        self.data = data
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self.unparsed > MAX_HEAD and (self.in_head or (not self.idle and self.cycle.more_body)):
            self.send_400_response("Request header fields too large.")
        elif self.body_ended and self.idle and self.timeout_keep_alive_task is None:
            # The answer came before the body had ended, and these bytes cancelled the time-out.
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def send_400_response(self, msg: str) -> None:
        """Refuse what cannot be read, in the format of every other error, and hang up."""
        body = json.dumps({"detail": msg}).encode()
        headers = [
            *self.server_state.default_headers,
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
        ]
        head = b"".join(b"%s: %s\r\n" % header for header in headers)
        self.transport.write(b"HTTP/1.1 400 Bad Request\r\n%s\r\n%s" % (head, body))
        self.transport.close()

    def on_message_begin(self) -> None:
        """Begin a request; its head may take as long as the read timeout, all in all."""
        self.owing_since = self.loop.time()
        self.in_head, self.head, self.unparsed = True, 0, 0
        self.body_ended = False
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Take a part of the request line."""
        self._count(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        self._count(name + value)
        if self.in_head:  # a trailer may not pose as a header
            super().on_header(name, value)

    def _count(self, part: bytes) -> None:
        self.head += len(part)
        if self.head > MAX_HEAD:
            raise ValueError("head too large")  # the parser makes it a 400

    def on_headers_complete(self) -> None:
        """End the head."""
        self.in_head = False
        if not self.parser.should_upgrade():  # else it is read once more
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a part of the body; each one may take as long as the read timeout."""
        self.owing_since = self.loop.time()
        self.unparsed = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End the request."""
        if not self.parser.should_upgrade():
            self.body_ended = True
            super().on_message_complete()

    def _unsupported_upgrade_warning(self) -> None:
        """Ignore an offer of another protocol (RFC 9110, 7.8): read the request again without it.

        uvicorn would ignore its body, too, and Java's HTTP client makes the offer with every request.
        """
        method, upgrade = self.parser.get_method(), sys.exception()
        if method == b"CONNECT" or upgrade is None:
            self.send_400_response("CONNECT is not supported.")
            return
        again = [method, b" ", self.url, b" HTTP/1.1\r\n"]
        for name, value in self.headers:
            if name not in (b"upgrade", b"connection", b"http2-settings"):
                again += [name, b": ", value, b"\r\n"]
        rest = self.data[upgrade.args[0] :]
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(b"".join([*again, b"\r\n"]) + rest)

    @property
    def idle(self) -> bool:
        """Whether there is no request that is being answered."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def owing(self) -> bool:
        """Whether the client must send something before anything can go on."""
        if self.idle:
            return self.timeout_keep_alive_task is None  # else that ends it
        return (
            self.cycle.more_body
            and not self.flow.read_paused
            and not self.cycle.waiting_for_100_continue
        )


class Lifespan(LifespanOn):
    """Start and end the service; remember why it could not start."""

    async def send(self, message: LifespanSendMessage) -> None:
        """Take what the service says of its start or end."""
        if message["type"] == "lifespan.startup.failed":
            error = sys.exception()  # the service is still handling it
            cause = f"{type(error).__name__}: {error}" if error else message.get("message", "")
            _cause.seek(0)
            _cause.write(cause.encode(errors="replace")[:1000] + b"\0")
        await super().send(message)


class Server(uvicorn.Server):
    """Serve until told to stop; then finish what has begun, and lose nothing that was accepted."""

    read_timeout = 20

    def connections(self) -> Iterator[Protocol]:
        """Iterate over the open connections."""
        return (c for c in list(self.server_state.connections) if isinstance(c, Protocol))

    async def on_tick(self, counter: int) -> bool:
        """Do what is due ten times a second; drop clients that neither send nor take for too long."""
        if counter % 10 == 0:
            now = asyncio.get_running_loop().time()
            for connection in self.connections():
                unsent = connection.transport.get_write_buffer_size()
                if not unsent or unsent != connection.unsent:
                    connection.unsent, connection.taken = unsent, now
                since = connection.owing_since if connection.owing else connection.taken
                if since < now - self.read_timeout:
                    connection.transport.abort()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting, give every connection a last chance, then wait for running requests.

        uvicorn alone would reset what the kernel has accepted but nobody has read yet.
        """
        loop = asyncio.get_running_loop()
        await asyncio.sleep(HANDSHAKE)
        # At a stop nothing can arrive between these two steps: see `refuse_at_stop`.
        accepted = [sock for listener in sockets or [] for sock in _accept_all(listener)]
        for server in self.servers:
            server.close()
        for sock in accepted:
            await loop.connect_accepted_socket(self._protocol, sock)
        deadline = loop.time() + LAST_CHANCE
        while any(c.idle for c in self.connections()) and loop.time() < deadline:
            for connection in self.connections():
                if not connection.idle:
                    connection.shutdown()  # its answer says that it is the last
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)

    def _protocol(self) -> Protocol:
        return Protocol(self.config, self.server_state, self.lifespan.state)


def _accept_all(listener: socket.socket) -> Iterator[socket.socket]:
    """Accept what the kernel holds for this non-blocking socket."""
    with contextlib.suppress(OSError):  # there are no more, or no more file descriptors
        while True:
            connection, _ = listener.accept()
            connection.setblocking(False)
            yield connection


class Worker(UvicornWorker):
    """Run `Server` in each process that gunicorn forks."""

    CONFIG_KWARGS: dict[str, Any] = {  # noqa: RUF012 - so it is declared
        "loop": "asyncio",
        "http": Protocol,
        "ws": "none",
        "lifespan": "on",
        "server_header": False,
        # On every answer, the server's own included.
        "headers": [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "no-referrer"),
        ],
    }

    async def _serve(self) -> None:
        self.config.app = self.wsgi
        self.config.load()
        self.config.lifespan_class = Lifespan
        server = Server(self.config)
        # What the master sends for a quick stop; gunicorn's own handler would do nothing here.
        asyncio.get_running_loop().add_signal_handler(
            signal.SIGQUIT, server.handle_exit, signal.SIGINT, None
        )
        await server.serve(sockets=self.sockets)
        if not server.started:
            sys.exit(Arbiter.WORKER_BOOT_ERROR)


def freeze(_: Arbiter, __: UvicornWorker) -> None:
    """Leave what the master holds out of garbage collection, so that its workers go on sharing it."""
    gc.freeze()


def refuse_at_stop(arbiter: Arbiter) -> None:
    """Let the kernel refuse new connections from the moment on when the master begins to stop.

    Else one may come between a worker's last `accept` and the closing of the socket, and is reset.
    """
    stop = arbiter.stop

    def refuse_and_stop(graceful: bool = True) -> None:
        for listener in arbiter.LISTENERS:
            with contextlib.suppress(OSError):  # not on Linux, or not on one before 5.7
                listener.sock.setsockopt(socket.SOL_SOCKET, SO_BINDTOIFINDEX, NOWHERE)
        stop(graceful)  # type: ignore[no-untyped-call]

    arbiter.stop = refuse_and_stop  # type: ignore[method-assign]  # there is no hook


def say_why(_: Arbiter | None = None) -> None:
    """Say at the end, where people look, why a worker could not start, if that is the reason."""
    with contextlib.suppress(ChildProcessError):  # there are no more that could say something later
        for _tenth in range(30):
            os.waitpid(-1, os.WNOHANG)
            time.sleep(0.1)
    if cause := _cause[:].partition(b"\0")[0].decode(errors="replace"):
        log.critical("cannot start: %s", cause)
