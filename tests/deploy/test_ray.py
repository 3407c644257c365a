"""Bulk on Kubernetes: manifests that are taken, and commands that our own parser takes."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest
import yaml

from bundle.cli.ending import NOT_DONE
from tests.deploy.chart import ROOT, Manifest, check, conform
from tests.docs.arguments import refusals
from tests.docs.commands import Command

JOB: Manifest = yaml.safe_load((ROOT / "deploy" / "ray" / "job.yaml").read_text())
RAY: Manifest = yaml.safe_load((ROOT / "deploy" / "ray" / "rayjob.yaml").read_text())
CLUSTER: dict[str, Any] = RAY["spec"]["rayClusterSpec"]
PODS: dict[str, Manifest] = {
    "job": JOB["spec"]["template"]["spec"],
    "head": CLUSTER["headGroupSpec"]["template"]["spec"],
    **{group["groupName"]: group["template"]["spec"] for group in CLUSTER["workerGroupSpecs"]},
}
COMMANDS = (shlex.join(PODS["job"]["containers"][0]["args"]), RAY["spec"]["entrypoint"])


def _object(required: str, optional: str = "", **properties: Any) -> dict[str, Any]:
    """Of these keys and no others; what is not said of one is anything."""
    known = {key: properties.get(key, True) for key in (required + " " + optional).split()}
    return {"type": "object", "additionalProperties": False, "required": required.split(), "properties": known}


_COUNT = {"type": "integer", "minimum": 0}
_FLAGS = {
    "type": "object",
    "additionalProperties": {"type": "string"},
}  # numbers too: KubeRay's is a map of texts
_TEMPLATE = _object("spec", "metadata")
# The parts of a RayJob that are used here, by KubeRay's API reference.
RAY_JOB = _object(
    "apiVersion kind metadata spec",
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=_object("name"),
    spec=_object(
        "entrypoint rayClusterSpec", "submissionMode backoffLimit shutdownAfterJobFinishes ttlSecondsAfterFinished",
        entrypoint={"type": "string"}, submissionMode={"enum": ["K8sJobMode", "HTTPMode"]}, backoffLimit=_COUNT,
        shutdownAfterJobFinishes={"type": "boolean"}, ttlSecondsAfterFinished=_COUNT,
        rayClusterSpec=_object(
            "rayVersion authOptions headGroupSpec workerGroupSpecs", rayVersion={"type": "string"},
            authOptions=_object("mode", mode={"const": "token"}),
            headGroupSpec=_object("rayStartParams template", rayStartParams=_FLAGS, template=_TEMPLATE),
            workerGroupSpecs={"type": "array", "minItems": 1, "items": _object(
                "groupName replicas minReplicas maxReplicas rayStartParams template", groupName={"type": "string"},
                replicas=_COUNT, minReplicas=_COUNT, maxReplicas=_COUNT, rayStartParams=_FLAGS, template=_TEMPLATE,
            )},
        ),
    ),
)  # fmt: skip


def test_kubernetes_takes_the_job_and_the_pods_of_the_cluster() -> None:
    check(JOB, "1.29")  # schemas before it ask for onPodConditions beside onExitCodes, which the API server never did
    conform(RAY, RAY_JOB)
    for name, spec in PODS.items():
        check({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})


@pytest.mark.parametrize("name", PODS)
def test_the_pods_are_confined_and_may_write_where_ray_does(name: str) -> None:
    pod = PODS[name]
    [container] = pod["containers"]
    assert (pod["securityContext"]["runAsNonRoot"], pod["securityContext"]["runAsUser"]) == (True, 10001)
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
    assert mounts["/dev/shm"]["emptyDir"]["medium"] == "Memory"  # noqa: S108
    assert "emptyDir" in mounts["/tmp"]  # noqa: S108
    assert container["resources"]["limits"] == container["resources"]["requests"]


def test_the_commands_are_taken_by_our_own_parser() -> None:
    words = [shlex.split(command) for command in COMMANDS]
    assert [each[:3] for each in words] == [["python", "-m", "bulk.embed"]] * 2
    assert refusals([Command(tuple(each)) for each in words]) == [None, None]
    assert refusals([Command((*words[0], "--no-such-flag"))]) != [None]


def test_a_fault_of_the_arguments_is_not_tried_again() -> None:
    rules = {rule["action"]: rule for rule in JOB["spec"]["podFailurePolicy"]["rules"]}
    assert rules["FailJob"]["onExitCodes"]["values"] == [NOT_DONE]
    assert rules["FailJob"]["onExitCodes"]["containerName"] == PODS["job"]["containers"][0]["name"]
    assert PODS["job"]["restartPolicy"] == "Never"  # which a policy for failures asks for


def test_the_head_does_not_embed_and_ray_is_the_one_of_the_image() -> None:
    assert CLUSTER["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    [version] = re.findall(r"^ray==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert CLUSTER["rayVersion"] == version


@pytest.mark.parametrize("group", [CLUSTER["headGroupSpec"], *CLUSTER["workerGroupSpecs"]])
def test_rays_object_store_fits_its_volume(group: dict[str, Any]) -> None:
    [volume] = [each for each in group["template"]["spec"]["volumes"] if each["name"] == "shm"]
    assert volume["emptyDir"]["sizeLimit"] == "1Gi"
    assert 0 < int(group["rayStartParams"]["object-store-memory"]) < 2**30
