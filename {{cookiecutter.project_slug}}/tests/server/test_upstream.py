"""The members of uvicorn, httptools and gunicorn on which `server/` relies have not changed.

A test that fails names the modules of `server/` to read again, beside the new source. If they are
still right, put the new hash here.
"""

import hashlib
import inspect

import gunicorn.arbiter
import gunicorn.glogging
import gunicorn.workers.base
import gunicorn.workers.workertmp
import pytest
import uvicorn.lifespan.on
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
    HTTP._start_asgi_task: ("limits.py", "9c08c2571ae9b038"),
    uvicorn.lifespan.on.LifespanOn: ("startup.py", "7feeee872a28668b"),
    uvicorn.server.Server.startup: ("startup.py, worker.py", "2aa1d70a244bfcf2"),
    uvicorn.server.Server.capture_signals: ("worker.py", "e1bbcd4770d1c887"),
    uvicorn.server.Server.handle_exit: ("worker.py", "553276efa26e09ea"),
    uvicorn.server.Server.shutdown: ("shutdown.py", "9b33c50562992b1e"),
    uvicorn.server.Server.on_tick: ("worker.py", "60ea49b06ccf68c1"),
    gunicorn.arbiter.Arbiter.stop: ("shutdown.py", "7138b6afd9c46ae0"),
    gunicorn.arbiter.Arbiter.halt: ("shutdown.py", "f080672e7413f835"),
    gunicorn.arbiter.Arbiter.reap_workers: ("shutdown.py, startup.py", "ebcf4187e9ebf378"),
    gunicorn.arbiter.Arbiter.__init__: ("__main__.py", "53b20d752bbb4cc2"),
    gunicorn.arbiter.Arbiter.manage_workers: ("shutdown.py", "518f2dd040ef6809"),
    gunicorn.arbiter.Arbiter.spawn_worker: ("worker.py", "6abc0d90b0b9f80b"),
    gunicorn.arbiter.Arbiter.wait_for_signals: ("shutdown.py", "4abcab1deb7caac0"),
    gunicorn.glogging.Logger.__init__: ("__main__.py", "508cb885e4c08391"),
    gunicorn.workers.base.Worker.init_signals: ("worker.py", "65442e0602b05f37"),
    gunicorn.arbiter.Arbiter.reexec: ("__main__.py, shutdown.py", "7d8134145fffe417"),
    gunicorn.workers.workertmp.WorkerTmp: ("worker.py", "2e6b7f3168073f4e"),
}


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.__qualname__)
def test_the_undocumented_members_have_not_changed(source: object) -> None:
    modules, expected = SOURCES[source]
    found = hashlib.sha256(inspect.getsource(source).encode()).hexdigest()[:16]  # type: ignore[arg-type]
    assert found == expected, f"read server/{modules} again beside the new source"
