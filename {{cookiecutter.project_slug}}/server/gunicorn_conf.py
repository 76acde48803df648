"""What gunicorn is told, from the server's settings."""

import gc
import socket
from pathlib import Path
from typing import Any

from gunicorn.arbiter import Arbiter

from server import cpus, startup
from server.settings import ServerSettings
from server.worker import Worker


def options(settings: ServerSettings) -> dict[str, Any]:
    """Return gunicorn's settings by their names in its documentation."""
    workers = settings.web_concurrency or settings.workers
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return {
        "bind": f"{host}:{settings.port}",
        "workers": cpus.available() if workers == "auto" else workers,
        "worker_class": Worker,
        # Handlers and levels are those of the service's own logging.
        "errorlog": None,
        "logconfig_dict": {
            "version": 1,
            "incremental": True,
            "loggers": {"gunicorn.error": {"level": "NOTSET", "propagate": True}},
            **{key: {} for key in ("root", "handlers", "formatters")},
        },
        # The service is imported once, before the workers are forked: half the memory and time.
        "preload_app": True,
        "pre_fork": lambda _, __: gc.freeze(),
        "when_ready": lambda arbiter: drop_stuck_readers(arbiter, settings.write_timeout),
        "on_exit": lambda _: startup.log_failure(),
        # Stopping workers send no heartbeat, so this must exceed the graceful timeout.
        "timeout": max(settings.worker_timeout, 2 * settings.graceful_timeout),
        # Longer than uvicorn waits for requests, so that the lifespan can end.
        "graceful_timeout": settings.graceful_timeout + 2,
        "max_requests": settings.max_requests,
        "max_requests_jitter": settings.max_requests // 10,
        # Nothing is written to disk, so that the container may be read-only. macOS has no such folder.
        "worker_tmp_dir": "/dev/shm" if Path("/dev/shm").is_dir() else None,  # noqa: S108
        "control_socket_disable": True,
    }


def drop_stuck_readers(arbiter: Arbiter, seconds: int) -> None:
    """Let the kernel end connections whose peer takes nothing for that long; they inherit this."""
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        for listener in arbiter.LISTENERS:
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, seconds * 1000)
