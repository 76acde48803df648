"""The manifests of `kubernetes=yes`: they render, they are valid, their numbers fit the server's limits."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.commands import outcome, program
from tests.support.services import Bake, Service, limits

UV = str(Path(sys.executable).with_name("uv"))
# The versions that Kubernetes' project supports.
VERSIONS = ["1.35", "1.36", "1.37"]
# Connections that PostgreSQL has for us by default: 100, of which 3 are reserved.
CONNECTIONS = 97

# Checks of checkov that the manifests fail on purpose.
EXPLAINED = {
    "CKV_K8S_11": "a CPU limit throttles; one worker cannot use much more than one CPU",
    "CKV_K8S_15": "a tag is never pushed twice, so pulling it again at each start adds a dependency",
    "CKV_K8S_35": "settings are variables; the ones in the Secret are not in the pod's manifest",
    "CKV_K8S_40": "the image's user is 10001; OpenShift gives a namespace users of its own",
    "CKV_K8S_43": "the tag names the migration's Job, and people read it",
}

Objects = dict[str, dict[str, Any]]


@cache
def rendered(folder: Path) -> str:
    """Return what `kubectl kustomize` makes of `folder`; skip the test where there is no kubectl."""
    program("kubectl", "kubernetes-client")
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def objects(service: Service, overlay: str = "production") -> Objects:
    """Return the rendered objects of an overlay by their kinds."""
    listed = list(yaml.safe_load_all(rendered(service.path / "kubernetes" / overlay)))
    found = {each["kind"]: each for each in listed}
    assert len(found) == len(listed)
    return found


OVERLAYS = pytest.mark.parametrize("overlay", ["staging", "production"])
DATABASES = pytest.mark.parametrize("database", ["postgresql", "none"])


def bake_it(bake: Bake, database: str = "postgresql", **answers: Any) -> Service:
    """Generate a service with manifests."""
    return bake(kubernetes="yes", database=database, **answers)


@DATABASES
def test_the_manifests_are_few_and_short(database: str, bake: Bake) -> None:
    service = bake_it(bake, database)
    manifests = [name for name in service.files() if name.startswith("kubernetes/")]
    lines = [line for name in manifests for line in service.read(name).splitlines()]
    assert len(manifests) <= 8
    assert len(lines) <= 220
    assert max(map(len, lines)) <= 120


@OVERLAYS
@DATABASES
def test_an_overlay_renders(overlay: str, database: str, bake: Bake) -> None:
    found = objects(bake_it(bake, database), overlay)
    kinds = """ConfigMap Deployment HorizontalPodAutoscaler NetworkPolicy PodDisruptionBudget Service
    ServiceAccount""".split()
    assert sorted(found) == sorted([*kinds, *(["Job"] if database == "postgresql" else [])])
    namespace = "my-service" + ("-staging" if overlay == "staging" else "")
    assert {each["metadata"]["namespace"] for each in found.values()} == {namespace}


@pytest.mark.slow
@OVERLAYS
@DATABASES
def test_the_objects_are_valid_in_three_versions_of_kubernetes(
    overlay: str, database: str, bake: Bake, tmp_path: Path
) -> None:
    (tmp_path / "all.yaml").write_text(
        rendered(bake_it(bake, database).path / "kubernetes" / overlay)
    )
    (tmp_path / "bad.yaml").write_text(
        (tmp_path / "all.yaml").read_text().replace("minReadySeconds", "minReadyMinutes")
    )
    for version in VERSIONS:
        for name, status in ("all.yaml", 0), ("bad.yaml", 1):
            tool = [UV, "tool", "run", "--python", sys.executable]
            validate = ["--from", "kubernetes-validate==1.37.0", "kubernetes-validate", "--strict"]
            command = [*tool, *validate, "--kubernetes-version", version, str(tmp_path / name)]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == status, done.stdout + done.stderr


@pytest.mark.slow
@DATABASES
def test_checkov_finds_nothing_that_is_not_explained(
    database: str, bake: Bake, tmp_path: Path
) -> None:
    file = tmp_path / "all.yaml"
    file.write_text(rendered(bake_it(bake, database).path / "kubernetes/production"))
    tool = [UV, "tool", "run", "--quiet", "--python", sys.executable, "--from", "checkov==3.3.30"]
    options = ["--framework", "kubernetes", "--output", "json", "--skip-download", "--file"]
    done = subprocess.run([*tool, "checkov", *options, str(file)], capture_output=True, text=True)
    report = json.loads(done.stdout)
    assert report["summary"]["passed"] > 50
    found = {check["check_id"] for check in report["results"]["failed_checks"]}
    assert found <= EXPLAINED.keys(), found
    if database == "postgresql":
        assert found == EXPLAINED.keys()


# --- the numbers


def pod(found: Objects, kind: str = "Deployment") -> dict[str, Any]:
    """Return the specification of the pods of a Deployment or Job."""
    specification: dict[str, Any] = found[kind]["spec"]["template"]["spec"]
    return specification


def server(found: Objects) -> dict[str, Any]:
    """Return the container that serves."""
    (container,) = pod(found)["containers"]
    assert isinstance(container, dict)
    return container


def settings(service: Service, overlay: str = "production") -> dict[str, int]:
    """Return the settings as a pod has them: the ConfigMap's, else the defaults."""
    data = objects(service, overlay)["ConfigMap"]["data"]
    return limits(service.path) | {k: int(v) if v.isdecimal() else v for k, v in data.items()}


def stop_seconds(values: dict[str, int]) -> int:
    """Return how long a stop takes at most."""
    return values["DRAIN"] + values["GRACEFUL_TIMEOUT"] + 2


def check_times(found: Objects, values: dict[str, int]) -> None:
    """Compare the manifests' times with the server's."""
    specification, container = pod(found), server(found)
    grace = specification["terminationGracePeriodSeconds"]
    assert stop_seconds(values) + 5 <= grace, "a stop is killed"
    assert values["DRAIN"] > 3, "endpoints may be removed 3 s late"
    assert "preStop" not in container.get("lifecycle", {}), "DRAIN is enough"
    start, live, ready = (
        container[f"{kind}Probe"] for kind in ("startup", "liveness", "readiness")
    )
    assert start["httpGet"]["path"] == live["httpGet"]["path"] == "/livez"
    assert ready["httpGet"]["path"] == "/readyz"
    assert start["periodSeconds"] * start["failureThreshold"] > values["START_TIMEOUT"] + 5
    # gunicorn looks once a second, and the new worker needs its time.
    timeout = max(values["WORKER_TIMEOUT"], 2 * values["GRACEFUL_TIMEOUT"])
    assert live["periodSeconds"] * (live["failureThreshold"] - 1) > timeout + 5
    assert ready["timeoutSeconds"] > 1, "the service's own limit is .9 s"
    deadline = found["Deployment"]["spec"]["progressDeadlineSeconds"]
    assert deadline >= values["START_TIMEOUT"] + 120


@OVERLAYS
@DATABASES
def test_the_times_fit_the_server_s(overlay: str, database: str, bake: Bake) -> None:
    service = bake_it(bake, database)
    check_times(objects(service, overlay), settings(service, overlay))


def test_postgresql_has_connections_for_all_pods(bake: Bake) -> None:
    """Pods that stop are no replicas any more, and still hold their connections."""
    service = bake_it(bake)
    found, values = objects(service), settings(service)
    replicas = found["HorizontalPodAutoscaler"]["spec"]["maxReplicas"]
    specification = found["Deployment"]["spec"]
    surge = specification["strategy"]["rollingUpdate"]["maxSurge"]
    stopping = math.ceil(stop_seconds(values) / specification["minReadySeconds"])
    pods = replicas + surge + stopping
    each = values["WORKERS"] * (values["DATABASE_POOL_SIZE"] + 1)
    assert pods * each + 2 <= CONNECTIONS
    told = re.search(
        r"\((\d+) \+ (\d+) \+ (\d+)\) pods \S (\d+) worker \S (\d+) connections \+ 2 = (\d+)",
        service.read("KUBERNETES.md"),
    )
    assert told
    assert [*map(int, told.groups())] == [
        replicas, surge, stopping, values["WORKERS"], values["DATABASE_POOL_SIZE"] + 1, pods * each + 2
    ]  # fmt: skip


@OVERLAYS
def test_the_autoscaler_alone_sets_the_replicas(overlay: str, bake: Bake) -> None:
    found = objects(bake_it(bake), overlay)
    assert "replicas" not in found["Deployment"]["spec"]
    scaler = found["HorizontalPodAutoscaler"]["spec"]
    assert 2 <= scaler["minReplicas"] < scaler["maxReplicas"]
    assert found["Deployment"]["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert found["PodDisruptionBudget"]["spec"]["maxUnavailable"] < scaler["minReplicas"]
    # docs/scaling.md plans with 60 % of a CPU for each pod.
    (metric,) = scaler["metrics"]
    share = metric["resource"]["target"]["averageUtilization"]
    millis = int(server(found)["resources"]["requests"]["cpu"].removesuffix("m"))
    assert share * millis == 60 * 1000


@pytest.mark.parametrize("kind", ["Deployment", "Job"])
def test_a_pod_has_a_small_folder_and_no_variables_of_other_services(kind: str, bake: Bake) -> None:
    """checkov checks the security context, the token and the limit of memory."""
    specification = pod(objects(bake_it(bake)), kind)
    assert specification["enableServiceLinks"] is False
    for container in specification["containers"]:
        assert container["volumeMounts"] == [{"name": "tmp", "mountPath": "/tmp"}]
        assert "ephemeral-storage" in container["resources"]["limits"]
    (volume,) = specification["volumes"]
    assert volume["emptyDir"]["sizeLimit"] == "256Mi"


@OVERLAYS
@DATABASES
def test_selectors_select_the_right_pods(overlay: str, database: str, bake: Bake) -> None:
    found = objects(bake_it(bake, database), overlay)
    labels = found["Deployment"]["spec"]["template"]["metadata"]["labels"]

    def selects(selector: dict[str, str], of: dict[str, str] = labels) -> bool:
        return selector.items() <= of.items()

    spread = pod(found)["topologySpreadConstraints"]
    assert selects(found["Service"]["spec"]["selector"])
    assert selects(found["Deployment"]["spec"]["selector"]["matchLabels"])
    assert selects(found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"])
    assert all(selects(each["labelSelector"]["matchLabels"]) for each in spread)
    assert selects(found["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"])
    if database == "postgresql":
        migration = found["Job"]["spec"]["template"]["metadata"]["labels"]
        assert not selects(found["Service"]["spec"]["selector"], migration)
        assert not selects(
            found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"], migration
        )
        assert selects(found["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"], migration)


def test_a_pod_may_reach_dns_and_postgresql_and_be_reached_at_its_port(bake: Bake) -> None:
    for database, ports in ("postgresql", {53, 5432}), ("none", {53}):
        service = bake_it(bake, database, port=9000)
        policy = objects(service)["NetworkPolicy"]["spec"]
        assert policy["policyTypes"] == ["Ingress", "Egress"]
        assert {p["port"] for rule in policy["egress"] for p in rule["ports"]} == ports
        assert [p["port"] for rule in policy["ingress"] for p in rule["ports"]] == ["http"]
        assert server(objects(service))["ports"] == [{"name": "http", "containerPort": 9000}]
        assert "PORT=9000" in service.read("Dockerfile")


def test_each_version_has_a_migration_of_its_own(bake: Bake, tmp_path: Path) -> None:
    service = bake_it(bake)
    assert objects(service)["Job"]["metadata"]["name"] == "my-service-migrate-0.1.0"
    copy = tmp_path / "kubernetes"
    shutil.copytree(service.path / "kubernetes", copy)
    file = copy / "staging/kustomization.yaml"
    changed = file.read_text().replace("registry.example.com/", "localhost:5000/")
    file.write_text(changed.replace('"0.1.0"', '"1.2.3-rc.1"'))
    documents = {each["kind"]: each for each in yaml.safe_load_all(rendered(copy / "staging"))}
    assert documents["Job"]["metadata"]["name"] == "my-service-migrate-1.2.3-rc.1"
    image = "localhost:5000/team/my-service:1.2.3-rc.1"
    for kind in "Deployment", "Job":
        assert pod(documents, kind)["containers"][0]["image"] == image
    # The migration's pod depends on nothing that may change without a new version.
    assert "configMapRef" not in json.dumps(documents["Job"])


# --- make

KUBECTL = """#!/bin/sh
# Answers as a cluster would, and records the requests.
printf '%s\\n' "$*" >>"$FAKE/calls"
case "$*" in
    kustomize*) exec "$REAL" "$@";;
    *'get job'*) cat "$FAKE/job" 2>/dev/null; exit 0;;
    *'delete job'*) rm "$FAKE/job";;
    *'apply -k'*'--selector'*) [ -f "$FAKE/job" ] || printf '%s' "$MIGRATION" >"$FAKE/job";;
    *'logs'*) echo 'cannot migrate: no such column';;
    *'rollout status'*) exit "$ROLL_OUT";;
esac
"""


@pytest.fixture
def make(bake: Bake, tmp_path: Path) -> Any:
    """Return `make(*arguments)`, with a stand-in for kubectl's cluster: status, output, calls."""
    service = bake_it(bake).copy(tmp_path / "service")
    rendered(service.path / "kubernetes/staging")
    fake = tmp_path / "fake"
    fake.mkdir()
    (fake / "kubectl").write_text(KUBECTL)
    (fake / "kubectl").chmod(0o755)

    def run(
        *arguments: str, migration: str = "SuccessCriteriaMet Complete", roll_out: int = 0
    ) -> tuple[int, str, list[str]]:
        (fake / "calls").unlink(missing_ok=True)
        variables = {
            "FAKE": str(fake),
            "REAL": str(shutil.which("kubectl")),
            "MIGRATION": migration,
            "ROLL_OUT": str(roll_out),
            "PATH": f"{fake}:{os.environ['PATH']}",
        }
        env = {k: v for k, v in os.environ.items() if k != "TAG"} | variables
        status, output = outcome("make", *arguments, cwd=service.path, env=env, timeout=60)
        calls = (fake / "calls").read_text().splitlines() if (fake / "calls").exists() else []
        text = service.read("kubernetes/staging/kustomization.yaml")
        return status, output + text, [c for c in calls if "kustomize" not in c[:10]]

    return run


APPLY = "apply -k kubernetes/staging"


def test_make_deploy_migrates_then_rolls_out(make: Any) -> None:
    status, output, calls = make("deploy", "OVERLAY=staging", "TAG=2.0.0")
    assert status == 0, output
    assert 'newTag: "2.0.0"' in output
    assert [call for call in calls if "get job" not in call] == [
        f"{APPLY} --selector app.kubernetes.io/component!=server",
        APPLY,
        "--namespace my-service-staging rollout status deployment/my-service",
    ]
    assert any("get job my-service-migrate-2.0.0" in call for call in calls)


def test_make_deploy_rolls_nothing_out_when_the_migration_fails(make: Any) -> None:
    status, output, calls = make("deploy", "OVERLAY=staging", migration="FailureTarget Failed")
    assert status != 0
    assert 'newTag: "0.1.0"' in output
    assert "no such column" in output
    assert "nothing was rolled out, and the previous version still serves" in output
    assert APPLY not in calls
    # Again, once the cause is gone: the failed Job is replaced.
    status, output, calls = make("deploy", "OVERLAY=staging")
    assert status == 0, output
    assert "--namespace my-service-staging delete job my-service-migrate-0.1.0" in calls
    assert APPLY in calls


def test_make_deploy_says_what_to_do_when_the_roll_out_fails(make: Any) -> None:
    status, output, _ = make("deploy", "OVERLAY=staging", roll_out=1)
    assert status != 0
    assert "the pods of the previous version still serve" in output
    assert "make rollback OVERLAY=staging" in output


def test_make_rollback_and_logs_name_the_overlay(make: Any) -> None:
    status, output, calls = make("rollback", "OVERLAY=production")
    assert status == 0, output
    assert calls[0] == "--namespace my-service rollout undo deployment/my-service"
    assert "set newTag in kubernetes/production/kustomization.yaml" in output
    status, output, calls = make("logs-k8s", "OVERLAY=staging")
    assert status == 0, output
    assert "logs --follow" in calls[0]
