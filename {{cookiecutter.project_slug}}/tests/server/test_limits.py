"""Limits of size, time and syntax, over raw sockets."""

import contextlib
import json
import re
import socket
import time
from pathlib import Path

import pytest

from tests.server.serving import GET, Process, answer, serving, statuses, wait_until

# As README.md says.
MAX_HEAD, MAX_HEADERS = 32_768, 100
POST = b"POST /echo HTTP/1.1\r\nHost: x\r\n"
LAST = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"


def body(received: bytes) -> dict[str, str]:
    """Return the JSON of the first answer."""
    head, _, rest = received.partition(b"\r\n\r\n")
    length = int(re.search(rb"content-length: (\d+)", head)[1])  # type: ignore[index]
    result: dict[str, str] = json.loads(rest[:length])
    return result


def resident(server: Process) -> float:
    """Return the memory of the worker, in KiB."""
    (worker,) = server.workers()
    status = Path(f"/proc/{worker}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1])  # type: ignore[index]


def dropped(server: Process, begin: bytes, then: bytes, times: int = 1, pause: float = 0.1) -> bool:
    """Send `begin`, then each byte of `then` so many times; return whether the server hangs up."""
    with server.connect() as connection:
        connection.sendall(begin)
        time.sleep(0.2)
        try:
            for byte in then:
                connection.sendall(bytes([byte]) * times)
                time.sleep(pause)
        except OSError:
            return True
    return False


# --- Time -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "begun",
    [b"", b"\r\n", b"GET / HT", POST, POST + b"Content-Length: 9\r\n\r\n{"],
)
def test_a_client_that_does_not_go_on_is_dropped(begun: bytes, server: Process) -> None:
    before = len(server.messages("dropped .* READ_TIMEOUT"))
    assert server.exchange(begun) == b""
    assert len(server.messages("dropped .* READ_TIMEOUT")) == before + 1


@pytest.mark.slow
def test_a_client_that_sends_its_head_slowly_is_dropped(server: Process) -> None:
    assert dropped(server, b"", LAST * 2)


@pytest.mark.slow
def test_a_slow_body_that_goes_on_is_read(server: Process) -> None:
    with server.connect() as connection:
        connection.sendall(POST + b"Content-Length: 5\r\n\r\n")
        for _ in range(5):
            time.sleep(0.7)
            connection.sendall(b"x")
        assert body(answer(connection))["body"] == "xxxxx"


@pytest.mark.slow
def test_a_client_may_pause_for_less_than_the_read_timeout() -> None:
    """The server looks for slow clients once a second."""
    with serving(READ_TIMEOUT="9") as server, server.connect() as connection:
        for _ in range(2):
            for part in POST[:9], POST[9:] + b"Content-Length: 2\r\n\r\n", b"ok":
                time.sleep(1.2)
                connection.sendall(part)
            assert body(answer(connection))["body"] == "ok"


def test_the_time_for_a_body_begins_when_the_client_is_asked(server: Process) -> None:
    """The endpoint reads after 3 s; a client that waits for 100 Continue sends only then."""
    with server.connect() as connection:
        connection.sendall(
            b"POST /echo?wait=3 HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n"
            b"Expect: 100-continue\r\n\r\n"
        )
        assert answer(connection).startswith(b"HTTP/1.1 100 ")
        time.sleep(0.6)
        connection.sendall(b"ok")
        received = answer(connection)
    assert body(received)["body"] == "ok"
    assert b"connection: close" in received


@pytest.mark.parametrize("blank", [b"", b" ", b"\t"])
def test_a_client_that_expects_100_continue_gets_it(blank: bytes, server: Process) -> None:
    head = POST + b"Content-Length: 2\r\nExpect: 100-continue" + blank + b"\r\n\r\n"
    with server.connect() as connection:
        connection.sendall(head)
        assert answer(connection).startswith(b"HTTP/1.1 100 ")


@pytest.mark.slow
def test_a_slow_but_steady_reader_gets_everything(server: Process) -> None:
    count = 8_000_000
    with server.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        connection.sendall(b"GET /bytes?count=%d HTTP/1.1\r\nHost: x\r\n" % count)
        connection.sendall(b"Connection: close\r\n\r\n")
        received, begin = 0, time.monotonic()
        while data := connection.recv(20_000):
            received += len(data)
            if time.monotonic() - begin < 8:
                time.sleep(0.05)
    assert received > count


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="only Linux limits this")
def test_a_reader_that_takes_nothing_is_dropped() -> None:
    with serving(WRITE_TIMEOUT="2") as server, server.connect() as connection:
        connection.sendall(b"GET /bytes?count=30000000 HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_until(lambda: len(server.messages("dropped .* WRITE_TIMEOUT")) == 1)


@pytest.mark.slow
def test_an_idle_connection_is_kept_and_then_closed(server: Process) -> None:
    with server.connect() as connection:
        for _ in range(2):
            connection.sendall(GET)
            assert answer(connection).startswith(b"HTTP/1.1 200 ")
            time.sleep(2)
        assert connection.recv(1) == b""


@pytest.mark.slow
def test_a_connection_is_kept_after_an_answer_that_came_before_the_body(server: Process) -> None:
    with server.connect() as connection:
        connection.sendall(b"POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n")
        assert answer(connection).startswith(b"HTTP/1.1 404 ")
        connection.sendall(b"abc")
        time.sleep(2)
        connection.sendall(GET)
        assert answer(connection).startswith(b"HTTP/1.1 200 ")


@pytest.mark.slow
def test_an_unread_body_is_not_read_without_end(server: Process) -> None:
    head = b"POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n"
    assert dropped(server, head, b"x" * 100)


# --- Size -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [b"GET /?%s HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nX-Y: %s\r\n"])
@pytest.mark.parametrize("pieces", [1, 50])
def test_a_head_that_is_too_large_is_refused(form: bytes, pieces: int, server: Process) -> None:
    def send(size: int) -> bytes:
        head = form % (b"y" * size) + b"Host: x\r\nConnection: close\r\n\r\n"
        step = len(head) // pieces + 1
        return server.exchange(*(head[i : i + step] for i in range(0, len(head), step)))

    assert statuses(send(MAX_HEAD - 200)) == [200]
    assert statuses(send(MAX_HEAD)) == statuses(send(2 * MAX_HEAD)) == [431]


def test_the_size_of_a_head_counts_its_path_and_headers(server: Process) -> None:
    """Each header counts with its colon, blank and line end; the method and the version do not."""

    def send(size: int) -> bytes:
        size -= len("/X-Y: \r\nHost: x\r\nConnection: close\r\n")
        return server.exchange(LAST.replace(b"Host", b"X-Y: " + b"y" * size + b"\r\nHost"))

    assert statuses(send(MAX_HEAD)) == [200]
    assert statuses(send(MAX_HEAD + 1)) == [431]


def test_the_number_of_headers_is_limited(server: Process) -> None:
    def send(count: int) -> bytes:
        return server.exchange(LAST.replace(b"Host", b"a:b\r\n" * count + b"Host"))

    # Host and Connection are two.
    assert statuses(send(MAX_HEADERS - 2)) == [200]
    assert statuses(send(MAX_HEADERS - 1)) == [431]
    assert statuses(send(30_000)) == [431]


@pytest.mark.parametrize(
    "endless",
    [
        POST + b"X-Y: ",
        POST + CHUNKED + b"\r\n1;",
        POST + CHUNKED + b"\r\n0\r\nX-Y: ",
        POST.replace(b"echo", b"early") + CHUNKED + b"\r\n0\r\nX-Y: ",
        POST.replace(b"echo", b"early") + CHUNKED + b"\r\n2\r\nab\r\n0\r\n" + b"a: b\r\n" * 200,
    ],
)
def test_a_head_and_a_trailer_are_limited_even_after_an_answer(
    endless: bytes, server: Process
) -> None:
    before = resident(server)
    assert dropped(server, endless, b"y" * 1000, times=65536, pause=0)
    assert resident(server) < before + 5000


@pytest.mark.slow
def test_an_idle_connection_costs_little() -> None:
    """Each has sent a body that nobody read. The process may keep some freed memory, but only once."""
    request = POST.replace(b"echo", b"early") + b"Content-Length: 250000\r\n\r\n" + b"x" * 250_000
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(serving())

        def growth() -> float:
            before = resident(server)
            for _ in range(100):
                connection = stack.enter_context(server.connect())
                connection.sendall(request)
                answer(connection)
            time.sleep(2)  # the server frees memory once a second
            return resident(server) - before

        assert min(growth() for _ in range(4)) < 100 * 50


@pytest.mark.slow
def test_the_body_of_a_request_that_waits_is_limited(server: Process) -> None:
    """The request before it asks again and again whether the client has gone."""
    before = resident(server)
    poll = b"GET /poll HTTP/1.1\r\nHost: x\r\n\r\n"
    head = POST + b"Content-Length: 200000000\r\n\r\n"
    dropped(server, poll + head, b"x" * 200, times=1_000_000, pause=0)
    assert resident(server) < before + 10_000

    def refused(size: int) -> bool:
        count = len(server.messages("without an answer"))
        head = POST + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % size
        server.exchange(poll + head + b"x" * size)
        return len(server.messages("without an answer")) > count

    assert not refused(1_048_576)
    assert refused(1_048_577)


@pytest.mark.slow
def test_every_request_of_a_client_that_leaves_gets_a_disconnect(server: Process) -> None:
    with server.connect() as connection:
        connection.sendall(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n" + GET)
        connection.recv(100)
    received = server.exchange(b"GET /poll HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert received.endswith(b"\r\n\r\n0")


@pytest.mark.slow
def test_an_answer_is_taken_before_the_connection_counts_as_idle() -> None:
    with serving(KEEP_ALIVE="1") as server, server.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        connection.sendall(b"GET /bytes?count=12000000 HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(3)
        assert len(answer(connection)) > 12_000_000
        connection.sendall(GET)
        assert answer(connection).startswith(b"HTTP/1.1 200 ")


OFFER = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n"


@pytest.mark.parametrize("request_", [GET, OFFER])
def test_requests_in_a_row_are_answered_in_order(request_: bytes, server: Process) -> None:
    received = server.exchange(request_ * 399 + LAST)
    assert statuses(received) == [200] * 400


@pytest.mark.slow
def test_the_number_of_requests_that_wait_is_limited(server: Process) -> None:
    before = resident(server)
    slow = GET.replace(b"/", b"/sleep?seconds=0.5", 1)
    received = statuses(server.exchange(slow + GET * 100_000))
    assert set(received) == {200}
    assert 500 < len(received) < 1000
    assert resident(server) < before + 10_000

    def refused(waiting: int) -> bool:
        count = len(server.messages("without an answer"))
        server.exchange(slow + GET * (waiting - 1) + LAST)
        return len(server.messages("without an answer")) > count

    assert not refused(500)
    assert refused(501)


# --- HTTP -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("blank", [b" ", b"\t", b" \t "])
def test_blanks_around_a_value_are_not_part_of_it(blank: bytes, server: Process) -> None:
    length = b"Content-Length:" + blank + b"2" + blank + b"\r\nConnection: close\r\n\r\nab"
    got = body(server.exchange(POST + length))
    assert "content-length: 2" in got["headers"]
    assert got["body"] == "ab"


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"GET / HTTP/1.1\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n", 400),
        (b"GET / HTTP/1.0\r\nHost: x\r\nHost: y\r\n", 400),
        (b"GET / HTTP/1.0\r\n", 200),
        (b"CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\n", 400),
        (b"no HTTP\r\n", 400),
    ],
)
def test_a_head_that_http_forbids_is_refused(head: bytes, expected: int, server: Process) -> None:
    received = server.exchange(head + b"\r\n")
    assert statuses(received) == [expected]
    assert b"\r\nserver:" not in received
    if expected == 400:
        assert body(received).keys() == {"detail"}
        assert b"connection: close" in received


@pytest.mark.parametrize(
    ("then", "answers", "told"),
    [(b"", 1, True), (GET, 2, True), (POST + CHUNKED + b"\r\n", 1, False)],
)
def test_an_error_does_not_overtake_an_earlier_answer(
    then: bytes, answers: int, told: bool, server: Process
) -> None:
    slow = GET.replace(b"/", b"/sleep?seconds=0.3", 1)
    received = server.exchange(slow + then + b"no HTTP\r\n\r\n")
    assert statuses(received) == [200] * answers
    assert (b"connection: close" in received) == told


def test_a_broken_body_ends_its_request(server: Process) -> None:
    received = server.exchange(POST + CHUNKED + b"\r\nno number\r\n")
    assert statuses(received) == [400]


@pytest.mark.parametrize("broken", [b"zz\r\n", b"0\r\na: " + b"b" * 50_000])
def test_a_request_gets_one_answer(broken: bytes, server: Process) -> None:
    early = POST.replace(b"echo", b"early") + CHUNKED + b"\r\n"
    with server.connect() as connection:
        connection.sendall(early)
        answer(connection)
        connection.sendall(broken)
        assert connection.recv(1) == b""


def test_a_trailer_is_not_a_header(server: Process) -> None:
    trailer = CHUNKED + b"Connection: close\r\n\r\n2\r\nab\r\n0\r\nX-Forged: yes\r\n\r\n"
    got = body(server.exchange(POST + trailer))
    assert got["body"] == "ab"
    assert "forged" not in str(got)


@pytest.mark.parametrize("path", [b"/echo", b"/early"])
def test_connection_close_in_a_trailer_is_honoured(path: bytes, server: Process) -> None:
    """Requests after it would vanish, because the parser ignores what follows a close."""
    with server.connect() as connection:
        connection.sendall(b"POST " + path + b" HTTP/1.1\r\nHost: x\r\n" + CHUNKED + b"\r\n")
        if path == b"/early":
            answer(connection)
        connection.sendall(b"0\r\nConnection: close\r\n\r\n")
        if path == b"/echo":
            assert b"connection: close" in answer(connection)
        assert connection.recv(1) == b""


BODIES = [
    b"\r\n",
    b"Content-Length: 3\r\n\r\nabc",
    CHUNKED + b"\r\n3\r\nabc\r\n0\r\nX-T: 1\r\n\r\n",
]


@pytest.mark.parametrize(
    ("version", "content"),  # HTTP/1.0 has no chunks
    [*((b"1.1", content) for content in BODIES), *((b"1.0", content) for content in BODIES[:2])],
)
@pytest.mark.parametrize("connection_header", [b"upgrade", b"close, upgrade"])
@pytest.mark.parametrize("size", [1, pytest.param(10_000, marks=pytest.mark.slow)])
def test_an_offer_of_another_protocol_changes_nothing(
    content: bytes, version: bytes, connection_header: bytes, size: int, server: Process
) -> None:
    """Java's HTTP client makes the offer with each of its requests."""
    offer = b"Connection: %s\r\nUpgrade: h2c\r\n" % connection_header
    request = b"POST /echo HTTP/%s\r\nHost: x\r\n" % version + offer + content
    with server.connect() as connection:
        for start in range(0, len(request), size):
            connection.sendall(request[start : start + size])
        received = answer(connection)
        got = body(received)
        assert got["http"] == version.decode()
        assert got["body"] == ("abc" if b"abc" in content else "")
        assert "upgrade: h2c" in got["headers"]
        assert "x-t" not in str(got).lower()
        closes = version == b"1.0" or b"close" in connection_header
        assert (b"connection: close" in received) == closes
        if closes:
            assert connection.recv(1) == b""
        else:
            connection.sendall(request + LAST)
            assert body(answer(connection))["body"] == got["body"]
            assert answer(connection).startswith(b"HTTP/1.1 200 ")
