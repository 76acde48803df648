"""Fixtures for every test of the server."""

import os
from collections.abc import Iterator

import pytest

from tests.server.serving import Process, serving

collect_ignore_glob = ["test_[!b]*.py"] if os.name == "nt" else []


@pytest.fixture(scope="session", autouse=True)
def logs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the logs of the servers in a temporary folder."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("SERVER_LOGS", str(tmp_path_factory.mktemp("logs")))
        yield


@pytest.fixture(scope="module")
def server() -> Iterator[Process]:
    """Return a server that drops slow clients after a second."""
    with serving(READ_TIMEOUT="1", KEEP_ALIVE="5") as server:
        yield server
