"""The options of gunicorn; change them here."""

import gc
import logging
from pathlib import Path
from typing import Any

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer

from server import cpus, startup
from server.settings import ServerSettings
from server.worker import Worker


def options(settings: ServerSettings) -> dict[str, Any]:
    """Return gunicorn's options by their names in its documentation."""
    workers = settings.web_concurrency or settings.workers
    return {
        "bind": f"[{settings.host}]:{settings.port}",
        "workers": cpus.available() if workers == "auto" else workers,
        "worker_class": Worker,
        # The service is imported once, before the workers are forked: half the memory and time.
        "preload_app": True,
        "pre_fork": lambda _, __: gc.freeze(),
        "child_exit": forget_worker,
        "on_exit": lambda _: startup.repeat_failure(),
        # Stopping workers send no heartbeat, so this must exceed gunicorn's graceful timeout.
        "timeout": max(settings.worker_timeout, settings.graceful_timeout + 5),
        # Longer than uvicorn waits for requests, so that the lifespan can end.
        "graceful_timeout": settings.graceful_timeout + 2,
        "max_requests": settings.max_requests,
        "max_requests_jitter": settings.max_requests // 10,
        # Nothing is written to disk, so that the container may be read-only. macOS has no such folder.
        "worker_tmp_dir": "/dev/shm" if Path("/dev/shm").is_dir() else None,  # noqa: S108 - memory
        "control_socket_disable": True,
        # No handler of gunicorn's own; the level is the service's.
        "errorlog": None,
        "loglevel": logging.getLevelName(logging.root.level).lower(),
    }


def forget_worker(arbiter: Arbiter, worker: Worker) -> None:
    """End the service if no worker has ever started; gunicorn would start new ones for ever."""
    startup.shared[startup.SLOTS + worker.age % 256] = False
    if arbiter.LISTENERS and not startup.shared[startup.STARTED]:
        startup.log_startup_failure(f"worker {worker.pid} died while it started")
        raise HaltServer("A worker died while it started.", startup.FAILED)


class Application(BaseApplication):
    """The service and its options, as gunicorn loads them; see its chapter on custom applications."""

    def __init__(self, service: startup.Gate, settings: ServerSettings) -> None:
        self.service, self.settings = service, settings
        super().__init__()

    def load_config(self) -> None:
        """Set gunicorn's options."""
        for option, value in options(self.settings).items():
            self.cfg.set(option, value)  # type: ignore[union-attr]

    def load(self) -> startup.Gate:
        """Return the ASGI application."""
        return self.service
