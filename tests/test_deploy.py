"""The deployment files follow their schemas and match the settings and routes of the server."""

import re
import shutil
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from compose_spec import PyCompose

from penchant.service.api.routes import ops
from penchant.service.settings import Settings

ROOT = Path(__file__).parent.parent
MANIFESTS = sorted((ROOT / "deploy/kubernetes").glob("*.yaml"))
KUBERNETES = "1.34.0"


def documents(path):
    return list(yaml.safe_load_all(path.read_text("utf-8")))


@pytest.fixture
def compose():
    return documents(ROOT / "deploy/compose.yaml")[0]


@pytest.fixture
def pod():
    return documents(ROOT / "deploy/kubernetes/deployment.yaml")[0]["spec"]["template"]["spec"]


@pytest.fixture
def paths():
    """Paths of all routes for operators."""
    return {route.path for route in ops.router.routes}


def settings_named(names):
    return {name.removeprefix("PENCHANT_").lower() for name in names if name.startswith("PENCHANT_")}


@pytest.mark.parametrize(
    "path", [p for p in MANIFESTS if p.stem != "kustomization"], ids=lambda path: path.stem
)
def test_manifests_follow_kubernetes_schema(path):
    for document in documents(path):
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_an_invalid_manifest_is_detected():
    [document] = documents(ROOT / "deploy/kubernetes/deployment.yaml")
    document["spec"]["template"]["spec"]["containers"][0]["readinessProbes"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_the_kustomization_names_every_manifest_but_the_example():
    [kustomization] = documents(ROOT / "deploy/kubernetes/kustomization.yaml")
    left_out = {"kustomization.yaml", "secret.example.yaml"}
    assert set(kustomization["resources"]) == {path.name for path in MANIFESTS} - left_out


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl here")
def test_kubectl_builds_the_kustomization():
    done = subprocess.run(
        ["kubectl", "kustomize", str(ROOT / "deploy/kubernetes")], capture_output=True, text=True, check=True
    )
    kinds = [document["kind"] for document in yaml.safe_load_all(done.stdout)]
    assert sorted(kinds) == ["Deployment", "NetworkPolicy", "PodDisruptionBudget", "Service"]


def test_the_pod_matches_the_server(pod, paths):
    [container] = pod["containers"]
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    [secret] = documents(ROOT / "deploy/kubernetes/secret.example.yaml")
    assert settings_named(environment) | settings_named(secret["stringData"]) <= set(Settings.model_fields)
    assert container["envFrom"][0]["secretRef"]["name"] == secret["metadata"]["name"]
    probes = {
        container[kind]["httpGet"]["path"] for kind in ("startupProbe", "readinessProbe", "livenessProbe")
    }
    assert probes == {"/readyz", "/healthz"} <= paths
    assert container["ports"][0]["containerPort"] == Settings.model_fields["port"].default
    drain = float(environment["PENCHANT_DRAIN_SECONDS"])
    stop = float(environment["PENCHANT_SHUTDOWN_TIMEOUT_SECONDS"])
    readiness = container["readinessProbe"]
    assert drain > readiness["periodSeconds"] * readiness["failureThreshold"]
    assert pod["terminationGracePeriodSeconds"] >= drain + stop + 5


def test_the_pod_has_few_privileges(pod):
    [container] = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    user = re.search(r"--uid (\d+)", (ROOT / "Dockerfile").read_text("utf-8"))
    assert pod["securityContext"]["runAsUser"] == int(user[1])


def filled_in(reference):
    """Return the value to substitute for `${NAME:-default}` or `${NAME:?needed}`."""
    return reference[2] if reference[1] == "-" else "secret"


def test_the_compose_file_follows_its_specification():
    text = re.sub(
        r"\$\{[A-Z_]+:([-?])([^}]*)\}", filled_in, (ROOT / "deploy/compose.yaml").read_text("utf-8")
    )
    assert set(PyCompose.from_yaml(text).to_dict()["services"]) == {"balancer", "penchant", "postgres"}
    with pytest.raises(ValueError, match="replicas"):
        PyCompose.from_yaml(text.replace("replicas: 2", "replicas: two"))


def test_the_compose_file_matches_the_server(compose, paths):
    penchant = compose["services"]["penchant"]
    environment = penchant["environment"]
    assert settings_named(environment) <= set(Settings.model_fields)
    assert penchant["deploy"]["replicas"] == 2
    grace = int(penchant["stop_grace_period"].removesuffix("s"))
    drain = int(environment["PENCHANT_DRAIN_SECONDS"])
    assert grace >= drain + int(environment["PENCHANT_SHUTDOWN_TIMEOUT_SECONDS"]) + 5
    for service in compose["services"].values():
        for name in service.get("depends_on", {}):
            other = compose["services"][name]
            assert "healthcheck" in other or "build" in other  # the Dockerfile declares its own
    balancer = (ROOT / "deploy/haproxy.cfg").read_text("utf-8")
    assert "GET /readyz" in balancer
    assert "/readyz" in paths
    assert f"penchant:{Settings.model_fields['port'].default}" in balancer


def test_no_secret_is_written_down(compose):
    """Every secret is a reference without a default."""
    environment = (
        compose["services"]["penchant"]["environment"] | compose["services"]["postgres"]["environment"]
    )
    for name in ("PENCHANT_STORE_URL", "PENCHANT_API_KEY", "POSTGRES_PASSWORD"):
        assert re.search(r"\$\{[A-Z_]+:\?", environment[name])


@pytest.mark.skipif(shutil.which("haproxy") is None, reason="no haproxy here")
def test_haproxy_reads_its_configuration():
    done = subprocess.run(
        ["haproxy", "-c", "-f", str(ROOT / "deploy/haproxy.cfg")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_image_has_what_the_compose_file_needs():
    """The image cannot be built here. The Dockerfile installs the extras, does not run as root and checks its health."""
    lines = (ROOT / "Dockerfile").read_text("utf-8")
    assert "server,cpu,openvino,postgres,otel" in lines
    assert re.search(r"^USER penchant$", lines, re.MULTILINE)
    assert re.search(r"^HEALTHCHECK ", lines, re.MULTILINE)
    for copied in re.findall(r"^COPY (?!--from)(.+) \S+$", lines, re.MULTILINE):
        for source in copied.split():
            assert (ROOT / source).exists()
