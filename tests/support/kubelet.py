"""A kubelet, an endpoint controller and a Deployment's controller, on Docker.

The manifests set image, variables, security, volumes, limits, probes, grace period and strategy. HAProxy
is the Service: it passes connections on. A pod that stops is removed from it up to `LATE` seconds after
SIGTERM. Open connections stay open, as they do in a cluster.
"""

from __future__ import annotations

import asyncio
import math
import random
import re
import socket
import subprocess
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.commands import free_port
from tests.support.containers import docker

# Seconds.
LATE = 3
# Servers in HAProxy's configuration, one for each pod that becomes ready in a test.
SLOTS = 100
HAPROXY = """
global
    stats socket {folder}/admin level admin
defaults
    mode tcp
    retries 0
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend service
    bind 127.0.0.1:{port}
    default_backend pods
backend pods
    balance random
    server-template pod {slots} 127.0.0.1:1 disabled
"""

Objects = dict[str, dict[str, Any]]


class DeploymentError(Exception):
    """A migration or a roll-out has failed."""


def run_options(objects: Objects, kind: str, secret: dict[str, str]) -> tuple[str, list[str]]:
    """Return the image of a Deployment or Job, and the options of `docker run` for its pod."""
    specification = objects[kind]["spec"]["template"]["spec"]
    (container,) = specification["containers"]
    variables: dict[str, str] = {}
    for source in container["envFrom"]:
        if "configMapRef" in source:
            config = objects["ConfigMap"]
            assert config["metadata"]["name"] == source["configMapRef"]["name"]
            variables |= config["data"]
        else:
            variables |= secret
    assert specification["securityContext"]["runAsNonRoot"]
    image = container["image"]
    user = docker("image", "inspect", "--format", "{{.Config.User}}", image)
    assert re.match("[1-9]", user), "runAsNonRoot needs a number that is not 0"
    security = container["securityContext"]
    assert security["allowPrivilegeEscalation"] is False
    assert security["readOnlyRootFilesystem"]
    (volume,) = specification["volumes"]
    (mount,) = container["volumeMounts"]
    size = volume["emptyDir"]["sizeLimit"].removesuffix("i").lower()
    options = ["--read-only", "--security-opt=no-new-privileges", "--no-healthcheck"]
    options += [f"--cap-drop={name}" for name in security["capabilities"]["drop"]]
    options += [f"--tmpfs={mount['mountPath']}:size={size},mode=1777"]
    options += [f"--memory={container['resources']['limits']['memory'].removesuffix('i').lower()}"]
    options += [f"--env={name}={value}" for name, value in variables.items()]
    return image, options


@dataclass(eq=False)
class Pod:
    """A pod: a container, its probes, and its end."""

    cluster: Cluster
    objects: Objects
    name: str = field(default_factory=lambda: f"test-pod-{uuid.uuid4().hex[:12]}")
    address: str = ""
    ready_since: float | None = None
    deleted: bool = False
    restarts: int = 0
    killed: bool = False
    slot: int = 0

    @property
    def image(self) -> str:
        """Return its image."""
        image: str = self.specification["containers"][0]["image"]
        return image

    @property
    def specification(self) -> dict[str, Any]:
        """Return its specification in the manifest."""
        specification: dict[str, Any] = self.objects["Deployment"]["spec"]["template"]["spec"]
        return specification

    @property
    def available(self) -> bool:
        """Tell whether it has been ready for `minReadySeconds`."""
        least = self.objects["Deployment"]["spec"]["minReadySeconds"]
        return self.ready_since is not None and time.monotonic() >= self.ready_since + least

    @property
    def state(self) -> str:
        """Describe it for a person."""
        version = self.image.rpartition(":")[2]
        seconds = self.ready_since and f"ready for {time.monotonic() - self.ready_since:.0f} s"
        deleted = ", deleted" if self.deleted else ""
        return f"{version}: {seconds or 'not ready'}, {self.restarts} restarts{deleted}"

    async def live(self) -> None:
        """Start the container and probe it, until it is deleted."""
        image, options = run_options(self.objects, "Deployment", self.cluster.secret)
        options += [f"--name={self.name}", f"--network={self.cluster.network}", "--detach"]
        await asyncio.to_thread(docker, "run", *options, image)
        container = self.specification["containers"][0]
        while not self.deleted:
            state = await asyncio.to_thread(
                docker, "inspect", "--format",
                "{{.State.Running}} {{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}",
                self.name,
            )  # fmt: skip
            if state.startswith("true"):
                self.address = state.split()[1]
                await self.probe(container["startupProbe"], until=True)
                async with asyncio.TaskGroup() as group:
                    readiness = group.create_task(self.readiness(container["readinessProbe"]))
                    await self.probe(container["livenessProbe"], until=False)
                    readiness.cancel()
            if self.deleted:
                return
            # It has ended, or a probe has failed.
            self.set_ready(False)
            self.restarts += 1
            await asyncio.to_thread(docker, "stop", "--time=20", self.name)
            await asyncio.sleep(2 * self.restarts)
            if not self.deleted:
                await asyncio.to_thread(docker, "start", self.name)

    async def probe(self, probe: dict[str, Any], until: bool) -> None:
        """Ask until it succeeds, if `until`, else until it fails, or has failed too often."""
        failures = 0
        while not self.deleted and failures < probe["failureThreshold"]:
            good = await self.ask(probe)
            if good and until:
                return
            failures = 0 if good else failures + 1
            ended = self.name not in await asyncio.to_thread(docker, "ps", "--format={{.Names}}")
            if ended:
                return
            await asyncio.sleep(probe["periodSeconds"])

    async def readiness(self, probe: dict[str, Any]) -> None:
        """Set whether it is ready."""
        failures = 0
        while not self.deleted:
            good = await self.ask(probe)
            failures = 0 if good else failures + 1
            if good or failures >= probe["failureThreshold"]:
                self.set_ready(good)
            await asyncio.sleep(probe["periodSeconds"])

    def set_ready(self, ready: bool) -> None:
        """Tell the endpoint controller, if that is new."""
        if ready and self.ready_since is None and not self.deleted:
            self.ready_since = time.monotonic()
            self.cluster.add_endpoint(self)
        elif not ready and self.ready_since is not None:
            self.ready_since = None
            self.cluster.remove_endpoint(self)

    async def ask(self, probe: dict[str, Any]) -> bool:
        """Send a probe's request."""
        ports = {
            p["name"]: p["containerPort"] for p in self.specification["containers"][0]["ports"]
        }
        get = probe["httpGet"]
        try:
            async with asyncio.timeout(probe.get("timeoutSeconds", 1)):
                reader, writer = await asyncio.open_connection(self.address, ports[get["port"]])
                try:
                    head = f"GET {get['path']} HTTP/1.0\r\nHost: {self.address}\r\n\r\n"
                    writer.write(head.encode())
                    status = await reader.readline()
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return False
        return re.match(rb"HTTP/1\.1 [23]", status) is not None

    def delete(self) -> asyncio.Task[None]:
        """Mark it as deleted, which the controllers see at once, and stop it."""
        self.deleted = True
        return self.cluster.tasks.create_task(self.stop())

    async def stop(self) -> None:
        """Remove it from the Service, late, while it gets SIGTERM and its grace period."""
        if self.ready_since is not None:
            delay = random.uniform(0, LATE)
            asyncio.get_running_loop().call_later(delay, self.cluster.remove_endpoint, self)
        grace = self.specification["terminationGracePeriodSeconds"]
        begin = time.monotonic()
        await asyncio.to_thread(docker, "stop", f"--time={grace}", self.name)
        self.cluster.stops.append(time.monotonic() - begin)
        status = await asyncio.to_thread(
            docker, "inspect", "--format={{.State.ExitCode}}", self.name
        )
        self.killed = status == "137"
        self.cluster.remember(self, await asyncio.to_thread(docker, "logs", self.name))
        await asyncio.to_thread(docker, "rm", "--force", self.name)


class Cluster:
    """A cluster with one Deployment, one Service and one Secret."""

    def __init__(self, folder: Path, network: str, secret: dict[str, str]) -> None:
        self.folder, self.network, self.secret = folder, network, secret
        self.port = free_port()
        self.pods: list[Pod] = []
        self.ended: list[Pod] = []
        self.logs: dict[str, str] = {}
        self.stops: list[float] = []
        self.tasks = asyncio.TaskGroup()
        self.slots = 0

    @classmethod
    @asynccontextmanager
    async def open(
        cls, folder: Path, network: str, secret: dict[str, str]
    ) -> AsyncIterator[Cluster]:
        """Start the Service; remove all pods at the end."""
        cluster = cls(folder, network, secret)
        config = HAPROXY.format(folder=folder, port=cluster.port, slots=SLOTS)
        (folder / "haproxy.cfg").write_text(config)
        with subprocess.Popen(["haproxy", "-q", "-f", folder / "haproxy.cfg"]) as proxy:
            try:
                async with cluster.tasks:
                    yield cluster
                    await asyncio.gather(*(pod.delete() for pod in cluster.serving()))
            finally:
                proxy.terminate()
                for pod in cluster.pods:
                    docker("rm", "--force", pod.name, check=False)

    def command(self, *commands: str) -> None:
        """Send commands to HAProxy."""
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(self.folder / "admin"))
            client.sendall("; ".join(commands).encode() + b"\n")
            answer = client.recv(4096).decode()
        assert "no such" not in answer.lower(), answer

    def add_endpoint(self, pod: Pod) -> None:
        """Send new connections to a pod, too."""
        if not pod.slot:
            self.slots += 1
            assert self.slots <= SLOTS
            pod.slot = self.slots
        (port,) = (p["containerPort"] for p in pod.specification["containers"][0]["ports"])
        name = f"pods/pod{pod.slot}"
        self.command(
            f"set server {name} addr {pod.address} port {port}", f"set server {name} state ready"
        )

    def remove_endpoint(self, pod: Pod) -> None:
        """Send a pod no new connections."""
        self.command(f"set server pods/pod{pod.slot} state maint")

    def remember(self, pod: Pod, log: str) -> None:
        """Keep an ended pod and its log."""
        self.pods.remove(pod)
        self.ended.append(pod)
        self.logs[pod.name] = log

    def create(self, objects: Objects) -> Pod:
        """Create a pod."""
        pod = Pod(self, objects)
        self.pods.append(pod)
        self.tasks.create_task(pod.live())
        return pod

    def serving(self) -> list[Pod]:
        """List the pods that are not being deleted."""
        return [pod for pod in self.pods if not pod.deleted]

    def migrate(self, objects: Objects) -> None:
        """Run the Job, as often as `backoffLimit` says."""
        image, options = run_options(objects, "Job", self.secret)
        job = objects["Job"]["spec"]
        arguments = job["template"]["spec"]["containers"][0]["args"]
        for _ in range(1 + job["backoffLimit"]):
            command = ["docker", "run", "--rm", f"--network={self.network}", *options, image]
            done = subprocess.run([*command, *arguments], capture_output=True, text=True)
            if done.returncode == 0:
                return
        raise DeploymentError(done.stdout.splitlines()[-1])

    async def deploy(self, objects: Objects, deadline: float = math.inf) -> None:
        """Do what `make deploy` does: migrate, then roll out; raise `DeploymentError` if it fails.

        `deadline` is for tests that need not wait for as long as the manifest says.
        """
        await asyncio.to_thread(self.migrate, objects)
        specification = objects["Deployment"]["spec"]
        deadline = min(deadline, specification["progressDeadlineSeconds"])
        replicas = objects["HorizontalPodAutoscaler"]["spec"]["minReplicas"]
        strategy = specification["strategy"]["rollingUpdate"]
        progress = time.monotonic()
        new: list[Pod] = []
        while True:
            new = [pod for pod in new if not pod.deleted]
            old = [pod for pod in self.serving() if pod not in new]
            if len(new) < replicas and len(old) + len(new) < replicas + strategy["maxSurge"]:
                new.append(self.create(objects))
                continue
            available = [pod for pod in self.serving() if pod.available]
            spare = len(available) - (replicas - strategy["maxUnavailable"])
            for pod in old[: max(0, spare)]:
                pod.delete()
                progress = time.monotonic()
            if len(new) == replicas and not old and len(available) == replicas:
                return
            if time.monotonic() > progress + deadline:
                raise DeploymentError(f"no progress: {[pod.state for pod in self.pods]}")
            await asyncio.sleep(0.1)

    async def roll_back(self, good: Objects) -> None:
        """Delete the pods of every other version, as `kubectl rollout undo` does after a failed roll-out."""
        await asyncio.gather(*(p.delete() for p in self.serving() if p.objects is not good))

    async def drain_node(self, pods: list[Pod]) -> None:
        """Evict pods as the disruption budget allows; the Deployment's controller replaces each."""
        for pod in pods:
            objects = pod.objects
            replicas = objects["HorizontalPodAutoscaler"]["spec"]["minReplicas"]
            budget = objects["PodDisruptionBudget"]["spec"]["maxUnavailable"]
            await self.until(lambda n=replicas - budget: self.ready() - 1 >= n)  # type: ignore[misc]
            pod.delete()
            self.create(objects)
            await self.until(lambda n=replicas: self.ready() >= n)  # type: ignore[misc]

    def ready(self) -> int:
        """Count the pods that are ready."""
        return sum(pod.ready_since is not None for pod in self.serving())

    async def until(self, condition: Callable[[], bool], seconds: float = 60) -> float:
        """Wait for something; return the seconds that it took."""
        begin = time.monotonic()
        while not condition():
            assert time.monotonic() < begin + seconds, f"not within {seconds} s"
            await asyncio.sleep(0.1)
        return time.monotonic() - begin
