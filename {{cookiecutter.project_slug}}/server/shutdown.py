"""The stop: drain, refuse new connections, then finish running requests."""

import contextlib
import signal
import socket
import time

import gunicorn.arbiter
import uvicorn
from gunicorn.errors import HaltServer

from server import startup
from server.limits import Protocol

# Linux's option to accept connections of one network device, and a device that does not exist.
SO_BINDTOIFINDEX, NO_DEVICE = 62, 2**31 - 1
# Seconds in which the workers accept the connections that were made before.
ACCEPT_GRACE = 0.1


class Server(uvicorn.Server):
    """Serve until told to stop; from then on, every answer says that it is the last."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting, then wait for the connections to end."""
        Protocol.stopping = True
        await super().shutdown(sockets)


class Arbiter(gunicorn.arbiter.Arbiter):
    """gunicorn's master process, with a stop that resets no connection."""

    def stop(self, graceful: bool = True) -> None:
        """Stop the workers: after the drain time if `graceful`, else at once."""
        if graceful and self.LISTENERS and startup.shared[startup.STARTED]:
            graceful = self.drain()
        if not (self.systemd or self.master_pid or self.reexec_pid):  # no other process listens
            # The kernel refuses connections before the sockets are closed, because it resets a
            # handshake that ends in between.
            for listener in self.LISTENERS:
                with contextlib.suppress(OSError):  # not on Linux, or before 5.7
                    listener.setsockopt(socket.SOL_SOCKET, SO_BINDTOIFINDEX, NO_DEVICE)
            time.sleep(ACCEPT_GRACE)
        while True:
            with contextlib.suppress(HaltServer):  # raised for each worker that could not start
                super().stop(graceful)
                return

    def drain(self) -> bool:
        """Drain, with `/readyz` at 503; return False at a signal for a quick stop."""
        startup.shared[startup.DRAINING] = True
        end = time.monotonic() + self.app.settings.drain
        while time.monotonic() < end:
            self.murder_workers()
            self.reap_workers()
            self.manage_workers()
            if {signal.SIGINT, signal.SIGQUIT}.intersection(self.wait_for_signals(timeout=0.1)):
                return False
        return True
