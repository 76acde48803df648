"""gunicorn's options, as far as they depend on each other."""

from typing import Any

import pytest

from server.gunicorn_conf import options
from server.settings import ServerSettings


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"worker_timeout": 30, "graceful_timeout": 6}, {"timeout": 30, "graceful_timeout": 8}),
        # A worker that stops for 40 s sends no heartbeat.
        ({"worker_timeout": 30, "graceful_timeout": 40}, {"timeout": 45, "graceful_timeout": 42}),
        ({"max_requests": 1000}, {"max_requests": 1000, "max_requests_jitter": 100}),
        ({"workers": 3}, {"workers": 3}),
        ({"workers": 3, "web_concurrency": 2}, {"workers": 2}),
        ({"host": "::", "port": 9000}, {"bind": "[::]:9000"}),
    ],
)
def test_options_follow_the_settings(given: dict[str, Any], expected: dict[str, Any]) -> None:
    found = options(ServerSettings(**({"port": 8000, "workers": 1} | given)))
    assert expected.items() <= found.items()


def test_the_service_is_imported_before_the_workers_are_forked() -> None:
    assert options(ServerSettings(port=8000, workers=1))["preload_app"] is True
