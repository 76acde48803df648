"""Limits of one connection: bytes of a head, headers, waiting requests, and time."""

import json
import logging
from http import HTTPStatus

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

log = logging.getLogger("server.limits")

# Bytes of a request's line and headers together, and of its trailers; httptools has no limit.
MAX_HEAD = 32_768
MAX_HEADERS = 100
# Requests that wait for the answer to the one before, and bytes of the body of one that waits.
MAX_PIPELINED = 500
MAX_PIPELINED_BODY = 1_048_576
# Bytes that are parsed before the limits are checked again.
PARSE_SIZE = 4096
# Seconds in which an idle connection may still bring a request when the worker stops.
IDLE_GRACE = 1


class Protocol(HttpToolsProtocol):
    """Serve one connection within the limits."""

    read_timeout: int
    stopping = False

    # Whether a head has ended, but not the request's body and trailers.
    in_body = False
    # Whether the connection is a WebSocket's now.
    upgraded = False
    # Bytes since the last head, part of a body, or end of a request.
    unparsed = 0
    # Event loop time since which the client must send something; 0 if it need not.
    waiting_since = 0.0
    # Status and reason, once a request was refused; the rest is not read.
    refusal: tuple[int, str] | None = None
    # Whether the parser reads a head that this class has written; see `parse`.
    repeating = False
    # Unanswered requests; a few answered ones may still be in it.
    cycles: tuple[RequestResponseCycle, ...] = ()

    @property
    def answered(self) -> bool:
        """Whether every request whose head is complete has its answer."""
        return self.cycle is None or self.cycle.response_complete

    def data_received(self, data: bytes) -> None:
        """Parse the data, and refuse the request at the first limit or error."""
        self._unset_keepalive_if_required()
        for start in range(0, len(data), PARSE_SIZE):
            if self.refusal or self.transport.is_closing() or self.upgraded:
                return
            part = data[start : start + PARSE_SIZE]
            self.unparsed += len(part)
            try:
                while part:
                    part = self.parse(part)
            except httptools.HttpParserError:
                self.refuse(*(self.refusal or (400, "Invalid HTTP request")))
                return
            if self.unparsed > MAX_HEAD + PARSE_SIZE or len(self.headers or ()) > MAX_HEADERS:
                self.refuse(431, "Request header fields too large")
            elif len(self.pipeline) > MAX_PIPELINED or (
                self.pipeline and len(self.cycle.body) > MAX_PIPELINED_BODY
            ):
                # Never sent as such: earlier requests still wait for their answers.
                self.refuse(429, "Too many requests without an answer")

    def parse(self, part: bytes) -> bytes:
        """Parse `part`; return the rest after an offer of another protocol.

        An offer other than a WebSocket is ignored (RFC 9110, 7.8). httptools takes what follows for
        that protocol; so if the request has a body, it is told the body's length once more.
        """
        try:
            self.parser.feed_data(part)
            return b""
        except httptools.HttpParserUpgrade as upgrade:
            if self._should_upgrade():
                self.handle_websocket_upgrade()
                self.upgraded = True
                return b""
            rest = part[upgrade.args[0] :]
        lengths = (b"content-length", b"transfer-encoding")
        lines = [b"%s: %s\r\n" % h for h in self.scope["headers"] if h[0] in lengths]
        if not lines:
            return rest
        self.in_body = self.repeating = self.cycle.more_body = True
        # The old parser reads nothing after a head with `Connection: close`.
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn sets it
        return b"".join([b"POST / HTTP/1.1\r\n", *lines, b"\r\n", rest])

    def _should_upgrade(self) -> bool:
        """Ignore an offer of a WebSocket, too, while earlier answers are missing or at a stop."""
        return self.answered and not self.stopping and super()._should_upgrade()

    def on_headers_complete(self) -> None:
        """End the head; refuse it if it is too large or has no host (RFC 9112, 3.2)."""
        if self.repeating:
            self.repeating = False
            return
        hosts, size = 0, len(self.url)
        for index, (name, value) in enumerate(self.headers):
            hosts += name == b"host"
            size += len(name) + len(value) + 4
            if value.endswith((b" ", b"\t")):  # httptools leaves them (RFC 9110, 5.5)
                value = value.rstrip(b" \t")
                self.headers[index] = (name, value)
                self.expect_100_continue |= (name, value.lower()) == (b"expect", b"100-continue")
        if size > MAX_HEAD or len(self.headers) > MAX_HEADERS:
            self.refusal = (431, "Request header fields too large")
        elif hosts > 1 or (hosts == 0 and self.parser.get_http_version() != "1.0"):
            self.refusal = (400, "A request needs one Host header")
        elif self._get_upgrade() == b"websocket" and self.ws_protocol_class is None:
            self.refusal = (501, "WebSockets need the package websockets")
        if self.refusal:
            raise ValueError(self.refusal)  # httptools stops, with an HttpParserError
        super().on_headers_complete()
        self._unset_keepalive_if_required()
        self.in_body, self.unparsed, self.waiting_since = True, 0, 0.0
        if not (self.parser.should_upgrade() and self._should_upgrade()):
            self.headers = []  # trailers must not become headers
            self.cycles = (*(c for c in self.cycles if not c.response_complete), self.cycle)
            # After an early answer to Expect, the client may send the body or not.
            self.cycle.keep_alive &= not (self.stopping or self.expect_100_continue)

    def on_body(self, body: bytes) -> None:
        """Take a part of the body; each one may take as long as the read timeout."""
        self.unparsed = 0
        if not self.cycle.response_complete:
            self.waiting_since = self.loop.time()
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End the request; a trailer may have said that it is the last."""
        self.in_body, self.unparsed = False, 0
        super().on_message_complete()
        if self.parser.should_upgrade():
            return
        self.cycle.keep_alive &= self.parser.should_keep_alive()
        if self.cycle.response_complete:  # the answer came before the end of the body
            self.close_after(self.timeout_keep_alive if self.cycle.keep_alive else 0)

    def close_after(self, seconds: float) -> None:
        """Close the connection unless the client sends something within `seconds`."""
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(
            seconds, self.timeout_keep_alive_handler
        )

    def timeout_keep_alive_handler(self) -> None:
        """Close the idle connection, but not while the client still takes an answer."""
        if self.transport.get_write_buffer_size():
            self.close_after(self.timeout_keep_alive)
        else:
            super().timeout_keep_alive_handler()

    def refuse(self, status: int, detail: str) -> None:
        """Answer with an error and close the connection; earlier requests get their answers first."""
        self.refusal = (status, detail)
        log.warning("refused %s: %s", self.client, detail)
        if self.in_body and self.cycle.response_complete:
            self.transport.close()
            return
        if not self.answered and (not self.in_body or self.pipeline or self.cycle.response_started):
            self.cycle.keep_alive = False
            self.flow.pause_reading()
            return
        body = json.dumps({"detail": detail})
        self.transport.write(
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nconnection: close\r\n"
            "content-type: application/json\r\nx-content-type-options: nosniff\r\n"
            "x-frame-options: DENY\r\nreferrer-policy: no-referrer\r\n"
            f"content-length: {len(body)}\r\n\r\n{body}".encode()
        )
        self.transport.close()

    def drop_if_slow(self, now: float) -> None:
        """Drop the client if its own request waits for it; called once a second."""
        if self.in_body:
            waiting = not self.flow.read_paused and not self.cycle.waiting_for_100_continue
        else:
            waiting = self.answered and self.timeout_keep_alive_task is None
        if self.answered and self.cycle is not None:
            self.cycle.body.clear()  # the service reads it no more
        if not waiting or self.transport.is_closing():
            self.waiting_since = 0.0
        elif not self.waiting_since:
            self.waiting_since = now
        elif now - self.waiting_since > self.read_timeout:
            log.info("dropped %s: it sent nothing for READ_TIMEOUT", self.client)
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the connection; log it if the kernel dropped it."""
        if isinstance(exc, TimeoutError):
            log.info("dropped %s: it took nothing for WRITE_TIMEOUT", self.client)
        for cycle in self.cycles:  # uvicorn tells only the last one
            cycle.disconnected = not cycle.response_complete
            cycle.message_event.set()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Make the next answer the last one; close the connection if the client asks for nothing."""
        self.timeout_keep_alive = IDLE_GRACE
        if not self.answered:
            self.cycle.keep_alive &= self.cycle.response_started
        elif not self.unparsed:
            self.close_after(IDLE_GRACE)
