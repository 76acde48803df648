"""How gunicorn serves app.main:app; the environment variables are in app/settings.py."""

from pathlib import Path

from app import cpus, logs, server
from app.settings import ServerSettings

settings = ServerSettings()

bind = f"0.0.0.0:{settings.port}"
workers = settings.web_concurrency or (
    cpus.available() if settings.workers == "auto" else settings.workers
)
worker_class = server.Worker
server.Server.read_timeout = settings.read_timeout
server.Worker.CONFIG_KWARGS |= {
    "root_path": settings.root_path,
    "timeout_graceful_shutdown": settings.graceful_timeout,
    "limit_max_requests_jitter": settings.max_requests // 10,
}
when_ready = server.refuse_at_stop
on_exit = server.say_why

# The service is imported once, before the workers are forked from it: half the memory and time.
preload_app = True
pre_fork = server.freeze

# A worker that is ending no longer says that it is alive.
timeout = max(settings.worker_timeout, 2 * settings.graceful_timeout)
keepalive = settings.keep_alive
max_requests = settings.max_requests
forwarded_allow_ips = settings.forwarded_allow_ips
# Longer than uvicorn waits for requests, so that the lifespan can end; shorter than docker stop's 10 s.
graceful_timeout = settings.graceful_timeout + 2

# Nothing is written to disk, so that the container may be read-only; macOS has no such folder.
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108
control_socket_disable = True

errorlog = None  # as JSON, through these:
logconfig_dict = logs.config(settings.log_level)
