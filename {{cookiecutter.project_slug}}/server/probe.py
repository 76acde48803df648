"""The image's health check: exits 0 if the service answers /livez in time, else 1.

Any status below 500 will do: a service that redirects or asks for a password is alive.

It uses a bare socket, because importing an HTTP client costs more than the request.
"""

import os
import re
import socket
import sys


def main(host: str, port: int, timeout: float = 4) -> int:
    """Return 0 if the service that listens on `host` and `port` is live, else print why not and return 1."""
    try:
        with socket.create_connection((host, port), timeout) as connection:
            connection.sendall(b"GET /livez HTTP/1.0\r\nHost: localhost\r\n\r\n")
            status_line = connection.recv(64).split(b"\r\n")[0].decode("ascii", "replace")
    except OSError as error:
        status_line = str(error)
    if re.match(r"HTTP/1\.[01] [234]\d\d ", status_line):
        return 0
    print(f"/livez: {status_line or 'no answer'}")  # noqa: T201 - for `docker inspect`
    return 1


if __name__ == "__main__":
    sys.exit(main(os.environ.get("HOST") or "0.0.0.0", int(os.environ["PORT"])))  # noqa: S104 - as the server
