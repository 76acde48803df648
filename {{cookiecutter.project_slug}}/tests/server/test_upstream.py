"""What `server/` relies on in uvicorn, httptools and gunicorn has not changed.

A test that fails names the modules of `server/` to read again, beside the new source. If they are
still right, put the new hash here.
"""

import hashlib
import inspect

import gunicorn.arbiter
import gunicorn.workers.workertmp
import pytest
import uvicorn.server
from uvicorn.protocols.http import flow_control, httptools_impl

HTTP = httptools_impl.HttpToolsProtocol
SOURCES = {
    HTTP.data_received: ("limits.py", "010a7ae59a5d3b1a"),
    HTTP.handle_websocket_upgrade: ("limits.py", "179c4f769386ab89"),
    HTTP._should_upgrade: ("limits.py", "8fcad1ab8e096739"),
    HTTP._get_upgrade: ("limits.py", "7b1305aac7b87064"),
    HTTP.on_message_begin: ("limits.py", "96d377fdc7c2baef"),
    HTTP.on_headers_complete: ("limits.py", "1ea8589acfad92d8"),
    HTTP.on_body: ("limits.py", "dba9c32aeba35b6a"),
    HTTP.on_message_complete: ("limits.py", "1fbad42dc31fc01f"),
    HTTP.on_response_complete: ("limits.py", "64e254f28e389e76"),
    HTTP.connection_lost: ("limits.py", "c91a4c9bf2e29c55"),
    HTTP.shutdown: ("limits.py", "d7351fa33f00d430"),
    HTTP.timeout_keep_alive_handler: ("limits.py", "8b53bf5f2e202970"),
    httptools_impl.RequestResponseCycle: ("limits.py", "e67d470d435dcc1c"),
    flow_control.FlowControl: ("limits.py", "126debcdaa894c83"),
    uvicorn.server.Server.shutdown: ("shutdown.py", "9b33c50562992b1e"),
    uvicorn.server.Server.on_tick: ("worker.py", "60ea49b06ccf68c1"),
    gunicorn.arbiter.Arbiter.stop: ("shutdown.py", "7138b6afd9c46ae0"),
    gunicorn.arbiter.Arbiter.halt: ("shutdown.py", "f080672e7413f835"),
    gunicorn.arbiter.Arbiter.reap_workers: ("shutdown.py, startup.py", "ebcf4187e9ebf378"),
    gunicorn.arbiter.Arbiter.reexec: ("__main__.py, shutdown.py", "7d8134145fffe417"),
    gunicorn.workers.workertmp.WorkerTmp: ("worker.py", "2e6b7f3168073f4e"),
}


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.__qualname__)
def test_what_the_server_relies_on_has_not_changed(source: object) -> None:
    modules, expected = SOURCES[source]
    found = hashlib.sha256(inspect.getsource(source).encode()).hexdigest()[:16]  # type: ignore[arg-type]
    assert found == expected, f"read server/{modules} again beside the new source"
