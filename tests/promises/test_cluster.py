"""The rendered manifests at work: roll-outs, a drained node and faults, under load.

`tests/support/kubelet.py` does what Kubernetes would. `FULL=1` does ten roll-outs.
"""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.clients import check_endpoints
from tests.support.commands import lacking, program, wait_until
from tests.support.containers import FULL, answers, container, docker, require_docker
from tests.support.databases import postgresql_container
from tests.support.kubelet import Cluster, DeploymentError, Objects
from tests.support.load import Result, until_stopped
from tests.support.podman import Podman
from tests.support.services import Bake

pytestmark = pytest.mark.docker

REGISTRY = "registry.example.com/team"
# Two runs at once do not remove each other's images.
IMAGE = f"registry.example.com/test-{uuid.uuid4().hex[:8]}/my-service"
ITEMS = "/items/?limit=1"

MIGRATION = '''"""A migration."""
import sqlalchemy as sa
from alembic import op

revision, down_revision, branch_labels, depends_on = "{revision}", "{before}", None, None

def upgrade() -> None:
    """Upgrade."""
    {upgrade}
'''
COLUMN = 'op.add_column("items", sa.Column("note", sa.Text()))'
# Version: a line of its Dockerfile, and its migrations.
VERSIONS = {
    "0.1.0": ("", []),
    "0.2.0": ("", [("0002", "0001", COLUMN)]),
    "0.3.0-migration": ("", [("0002", "0001", COLUMN), ("0003", "0002", 'op.drop_table("none")')]),
    "0.3.0-silent": (
        'CMD ["python", "-c", "import signal; signal.signal(15, print); signal.pause()"]',
        [],
    ),
    "0.3.0-crash": ("ENV READ_TIMEOUT=0", []),
}


@dataclass(frozen=True)
class Setup:
    """A network with PostgreSQL, images of several versions, and their manifests."""

    network: str
    database: str
    secret: dict[str, str]
    manifests: Path

    def objects(self, version: str, overlay: str = "staging") -> Objects:
        """Render the manifests of a version."""
        file = self.manifests / overlay / "kustomization.yaml"
        before = file.read_text()
        name = IMAGE.removesuffix("/my-service")
        file.write_text(before.replace('"0.1.0"', f'"{version}"').replace(REGISTRY, name))
        command = ["kubectl", "kustomize", str(file.parent)]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        file.write_text(before)
        return {each["kind"]: each for each in yaml.safe_load_all(text)}

    @asynccontextmanager
    async def serving(self, folder: Path) -> AsyncIterator[tuple[Cluster, Result]]:
        """Deploy the first version, and send 100 requests a second while the caller does something."""
        async with Cluster.open(folder, self.network, self.secret) as cluster:
            await cluster.deploy(self.objects("0.1.0"))
            result = Result()
            stop = asyncio.Event()
            load = asyncio.create_task(until_stopped(lambda: cluster.port, ITEMS, 5, result, stop))
            try:
                yield cluster, result
            finally:
                stop.set()
                await load


@pytest.fixture(scope="module")
def setup(bake: Bake, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    require_docker()
    for name, package in ("kubectl", "kubernetes-client"), ("haproxy", "haproxy"):
        program(name, package)
    if sys.platform != "linux":
        lacking("this machine cannot reach the addresses of containers")
    service = bake(database="postgresql", kubernetes="yes").path
    manifests = tmp_path_factory.mktemp("manifests") / "kubernetes"
    shutil.copytree(service / "kubernetes", manifests)
    for version, (line, migrations) in VERSIONS.items():
        folder = tmp_path_factory.mktemp("image") if version != "0.1.0" else service
        if version != "0.1.0":
            for revision, before, upgrade in migrations:
                text = MIGRATION.format(revision=revision, before=before, upgrade=upgrade)
                (folder / f"{revision}_more.py").write_text(text)
            copy = "COPY *.py app/migrations/versions/" if migrations else ""
            (folder / "Dockerfile").write_text(f"FROM {IMAGE}:0.1.0\n{line}\n{copy}\n")
        docker("build", "--quiet", "--tag", f"{IMAGE}:{version}", str(folder))
    try:
        with postgresql_container() as server:
            name = server.container.name
            secret = {
                "DATABASE_URL": f"postgresql://app@{name}/app",
                "DATABASE_PASSWORD": server.password,
            }
            yield Setup(server.network, name, secret, manifests)
    finally:
        for version in VERSIONS:
            docker("rmi", "--force", f"{IMAGE}:{version}", check=False)


def check(cluster: Cluster, result: Result) -> None:
    """Expect that no request failed, no pod was restarted, and each stop ended in time."""
    print(f"\n{result.total} requests, {dict(result.outcomes)}; {len(cluster.ended)} pods ended")
    if cluster.stops:
        print(f"longest stop {max(cluster.stops):.1f} s")
    assert result.failed == 0, result.outcomes
    assert result.total > 200
    good = [pod for pod in [*cluster.pods, *cluster.ended] if "0.3.0" not in pod.image]
    assert [pod.restarts for pod in good] == [0] * len(good)
    assert [pod.killed for pod in good] == [False] * len(good)


def test_roll_outs_and_a_drained_node_lose_no_request(setup: Setup, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with setup.serving(tmp_path) as (cluster, result):
            for number in range(10 if FULL else 2):
                before = cluster.serving()
                objects = setup.objects("0.1.0" if number % 2 else "0.2.0")
                await cluster.deploy(objects)
                assert not set(before) & set(cluster.serving())
            # All pods that are there are on the node; the others start elsewhere.
            await cluster.drain_node(cluster.serving())
            await asyncio.sleep(5)
            check(cluster, result)

    asyncio.run(scenario())


def test_a_bad_version_takes_no_traffic(setup: Setup, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with setup.serving(tmp_path) as (cluster, result):
            before = cluster.serving()
            good = before[0].objects
            with pytest.raises(DeploymentError, match=r'table \\"none\\" does not exist'):
                await cluster.deploy(setup.objects("0.3.0-migration"), 10)
            assert cluster.serving() == before, "a failed migration starts no roll-out"
            for version in "0.3.0-silent", "0.3.0-crash":
                with pytest.raises(DeploymentError, match="no progress"):
                    await cluster.deploy(setup.objects(version), 15)
                (bad,) = (pod for pod in cluster.serving() if pod.objects is not good)
                assert set(before) < set(cluster.serving())
                await cluster.roll_back(good)
                assert bad.slot == 0, "it was in the Service"
                assert ITEMS.partition("?")[0] not in cluster.logs[bad.name]
                if version == "0.3.0-crash":
                    assert bad.restarts > 0
                    assert "READ_TIMEOUT" in cluster.logs[bad.name].splitlines()[-1]
            assert cluster.serving() == before
            check(cluster, result)

    asyncio.run(scenario())


def test_a_lost_database_restarts_nothing_and_stops_a_roll_out(
    setup: Setup, tmp_path: Path
) -> None:
    """Requests that need the database fail meanwhile; all are served after its return."""

    async def scenario() -> None:
        async with setup.serving(tmp_path) as (cluster, result):
            before = cluster.serving()
            assert result.failed == 0
            docker("stop", setup.database)
            lost = await cluster.until(lambda: cluster.ready() == 0)
            with pytest.raises(DeploymentError):
                await cluster.deploy(setup.objects("0.1.0"), 10)
            assert cluster.serving() == before
            await asyncio.sleep(15)
            docker("start", setup.database)
            back = await cluster.until(lambda: cluster.ready() == len(before))
            print(f"\nno pod ready {lost:.1f} s after the loss, all {back:.1f} s after the return")
            print(dict(result.outcomes))
            await asyncio.sleep(1)
            result.outcomes.clear()
            await asyncio.sleep(6)
            check(cluster, result)
            assert cluster.serving() == before

    asyncio.run(scenario())


# --- podman kube play


def test_podman_runs_the_deployment(setup: Setup, tmp_path: Path) -> None:
    """With its security context, volume, limits and a real PostgreSQL; then a second version."""
    podman = Podman(tmp_path)
    network, keeper = f"test-{uuid.uuid4().hex[:8]}", f"test-{uuid.uuid4().hex[:8]}"
    objects = setup.objects("0.1.0")
    secret = objects["Deployment"]["metadata"]["name"]

    def play(name: str, *documents: Any, replace: bool = False) -> None:
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump_all(documents))
        options = ["--replace"] if replace else []
        podman("kube", "play", *options, "--network", network, str(file))

    try:
        for version in "0.1.0", "0.2.0":
            podman.take(f"{IMAGE}:{version}", tmp_path)
        podman("network", "create", network)
        # The network's address exists while a container is there.
        keep = ("python", "-c", "import time; time.sleep(600)")
        podman("run", "--detach", "--name", keeper, "--network", network, f"{IMAGE}:0.1.0", *keep)
        gateway = podman(
            "inspect", "--format", "{{range .NetworkSettings.Networks}}{{.Gateway}}{{end}}", keeper
        )
        variables = ("--env=LANG=C.UTF-8", "--env=POSTGRES_USER=app", "--env=POSTGRES_PASSWORD=s")
        publish = f"--publish={gateway}::5433"
        with container(
            "postgres:17", publish, *variables, "--env=PGPORT=5433", port=5433
        ) as server:
            wait_until(
                lambda: "accepting" in docker("exec", server.name, "pg_isready", check=False)
            )
            wait_until(lambda: server.inspect("{{.State.Running}}") == "true", 10)
            published = docker("port", server.name, "5433")
            (port,) = (line.split(":")[1] for line in published.splitlines() if gateway in line)
            values = {"DATABASE_URL": f"postgresql://app:s@{gateway}:{port}/app"}
            encoded = {name: base64.b64encode(v.encode()).decode() for name, v in values.items()}
            podman("secret", "create", secret, "-", text=json.dumps(encoded))
            job = objects["Job"]["spec"]["template"]["spec"]
            meta = {"name": "test-migrate"}
            play("job", {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": job})
            ended = podman("wait", "test-migrate-migrate")
            assert ended == "0", podman("logs", "test-migrate-migrate")

            play("first", objects["ConfigMap"], objects["Deployment"])
            name = f"{secret}-pod-0-server"
            first = f"http://{podman.address(name)}:8000"
            wait_until(lambda: answers(f"{first}/readyz"), 60, lambda: podman("logs", name))
            check_endpoints(first)
            form = "{{.HostConfig.ReadonlyRootfs}} {{.HostConfig.Memory}} {{.Config.User}}"
            assert podman("inspect", "--format", form, name) == f"true {256 * 2**20} 10001:10001"
            inside = (
                "grep -E '^(NoNewPrivs|CapEff|Seccomp):' /proc/1/status; touch /tmp/x || exit 1"
            )
            lines = podman("exec", name, "sh", "-c", f"{inside}; touch /x && exit 1; true")
            status = dict(line.split() for line in lines.splitlines())
            assert status == {"NoNewPrivs:": "1", "CapEff:": "0" * 16, "Seccomp:": "2"}

            newer = setup.objects("0.2.0")
            play("second", newer["ConfigMap"], newer["Deployment"], replace=True)
            assert podman("inspect", "--format", "{{.ImageName}}", name) == f"{IMAGE}:0.2.0"
            second = f"http://{podman.address(name)}:8000"
            wait_until(lambda: answers(f"{second}/readyz"), 60, lambda: podman("logs", name))
            check_endpoints(second)
            specification = objects["Deployment"]["spec"]["template"]["spec"]
            grace = specification["terminationGracePeriodSeconds"]
            podman("stop", "--time", str(grace), name)
            assert podman("inspect", "--format", "{{.State.ExitCode}}", name) == "0"
    finally:
        for file in "second", "first", "job":
            podman("kube", "down", str(tmp_path / f"{file}.yaml"), check=False)
        podman("rm", "--force", keeper, check=False)
        podman("secret", "rm", secret, check=False)
        podman("network", "rm", "--force", network, check=False)
        for version in "0.1.0", "0.2.0":
            podman("rmi", "--force", f"{IMAGE}:{version}", check=False)
