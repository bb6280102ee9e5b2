"""cluster/: the KubeRay manifest against the CRD's schema, and what the schema cannot say."""

from __future__ import annotations

import shlex
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from msm_ray import cli

ROOT = Path(__file__).resolve().parent.parent
CRDS = ROOT.parent / "shared" / "data" / "kuberay"
DOCUMENTS = list(yaml.safe_load_all((ROOT / "cluster" / "rayjob.yaml").read_text()))
# The schema says only "object" about the top level's metadata; the API server checks its fields.
METADATA = {"name", "namespace", "labels", "annotations"}


def rayjob() -> dict[str, Any]:
    (job,) = [document for document in DOCUMENTS if document["kind"] == "RayJob"]
    return job


def pod_specs(job: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    """The openAPIV3Schema of ray.io/v1 RayJob."""
    path = CRDS / "ray.io_rayjobs.yaml"
    if not path.exists():
        pytest.skip("KubeRay's CRDs are not here: ../shared/data/kuberay/ray.io_rayjobs.yaml")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    crd = yaml.load(path.read_text(), Loader=loader)
    (version,) = [v for v in crd["spec"]["versions"] if v["name"] == "v1"]
    assert version["served"]
    found: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    return found


def unknown_fields(value: Any, schema: dict[str, Any], path: str = "") -> list[str]:
    """Paths that the API server would prune: named in the manifest, not in the schema."""
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        return []
    if isinstance(value, list):
        found = [unknown_fields(v, schema.get("items", {}), f"{path}[]") for v in value]
        return [name for names in found for name in names]
    if not isinstance(value, dict):
        return []
    properties = schema.get("properties", {})
    extra = schema.get("additionalProperties")
    names = []
    for key, inner in value.items():
        if key in properties:
            names += unknown_fields(inner, properties[key], f"{path}.{key}")
        elif isinstance(extra, dict):
            names += unknown_fields(inner, extra, f"{path}.{key}")
        elif not (path == ".metadata" and key in METADATA):
            names.append(f"{path}.{key}")
    return names


def errors(manifest: dict[str, Any], schema: dict[str, Any]) -> list[str]:
    """Everything the API server would refuse or drop."""
    # Keywords of Kubernetes (x-kubernetes-...) and formats such as int32 are no part of JSON
    # Schema and are passed over; controller-gen writes int-or-string as an anyOf beside them.
    validator = jsonschema.Draft202012Validator(schema)
    broken = [f"{e.json_path}: {e.message}" for e in validator.iter_errors(manifest)]
    return broken + [f"unknown field {name}" for name in unknown_fields(manifest, schema)]


def test_rayjob_is_valid_against_the_crd(schema: dict[str, Any]) -> None:
    assert errors(rayjob(), schema) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.update(backofLimit=1), "unknown field .spec.backofLimit"),
        (lambda s: s.update(backoffLimit="two"), "$.spec.backoffLimit"),
        (lambda s: s["rayClusterSpec"].pop("headGroupSpec"), "'headGroupSpec' is a required"),
        (lambda s: s["rayClusterSpec"]["authOptions"].update(mode="tokens"), "'tokens' is not one"),
        (
            lambda s: s["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][
                0
            ].update(imagePull="x"),
            "containers[].imagePull",
        ),
    ],
)
def test_the_check_finds_mistakes(schema: dict[str, Any], change: Any, said: str) -> None:
    manifest = yaml.safe_load(yaml.safe_dump(rayjob()))
    change(manifest["spec"])
    assert any(said in error for error in errors(manifest, schema))


def test_the_entrypoint_is_a_command_of_msm() -> None:
    words = shlex.split(rayjob()["spec"]["entrypoint"])
    assert words[0] == "msm"
    parsed = cli._parser().parse_args(words[1:])
    assert parsed.command == "run"
    assert (ROOT / "jobs" / Path(parsed.job).name).exists()
    mounts = {
        m["mountPath"]
        for spec in pod_specs(rayjob())
        for c in spec["containers"]
        for m in c["volumeMounts"]
    }
    assert parsed.store in mounts


def test_ray_has_the_pinned_version_and_asks_for_a_token() -> None:
    cluster = rayjob()["spec"]["rayClusterSpec"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"=={cluster['rayVersion']}" in next(
        r for r in project["dependencies"] if r.startswith("ray[")
    )
    assert cluster["authOptions"] == {"mode": "token", "secretName": "msm-ray-token"}


def test_pods_agree_with_each_other() -> None:
    specs = pod_specs(rayjob())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    images = {c["image"] for spec in specs for c in spec["containers"]}
    assert images == {f"msm-ray:{project['version']}"}
    claims = {d["metadata"]["name"] for d in DOCUMENTS if d["kind"] == "PersistentVolumeClaim"}
    for spec in specs:
        assert spec["securityContext"]["runAsNonRoot"]
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        for container in spec["containers"]:
            assert {m["name"] for m in container["volumeMounts"]} <= set(volumes)
            assert set(container["resources"]) == {"requests", "limits"}
        used = {volume["persistentVolumeClaim"]["claimName"] for volume in volumes.values()}
        assert used <= claims
