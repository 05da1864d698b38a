"""Print what is wrong with a cluster's files, one problem a line; runs in the environment that `make clusters` makes.

    python check_files.py raycluster.yaml sky.yaml

A SkyPilot task is read by SkyPilot itself. Of a RayCluster, each pod template is held against Kubernetes' own schema,
strictly; KubeRay's is in no package, so the few fields around the templates are listed here.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import sky
import yaml

KUBERNETES = "1.31"
REQUIRED, OPTIONAL = True, False
# https://github.com/ray-project/kuberay/blob/master/ray-operator/apis/ray/v1/raycluster_types.go
HEAD = {"rayStartParams": OPTIONAL, "template": REQUIRED, "serviceType": OPTIONAL}
WORKERS = {
    "groupName": REQUIRED, "replicas": OPTIONAL, "minReplicas": REQUIRED, "maxReplicas": REQUIRED,
    "rayStartParams": OPTIONAL, "template": REQUIRED,
}  # fmt: skip
SPEC = {"rayVersion": OPTIONAL, "headGroupSpec": REQUIRED, "workerGroupSpecs": OPTIONAL}
CLUSTER = {"apiVersion": REQUIRED, "kind": REQUIRED, "metadata": REQUIRED, "spec": REQUIRED}


def wrong_in_raycluster(file: Path) -> list[str]:
    """Return what KubeRay or Kubernetes would refuse, or would drop in silence."""
    cluster = yaml.safe_load(file.read_text())
    if (found := (cluster.get("apiVersion"), cluster.get("kind"))) != ("ray.io/v1", "RayCluster"):
        return [f"it is {found}; expected ('ray.io/v1', 'RayCluster')"]
    spec = cluster.get("spec", {})
    groups = [("headGroupSpec", HEAD, spec.get("headGroupSpec", {}))]
    groups += [(f"workerGroupSpecs[{k}]", WORKERS, group) for k, group in enumerate(spec.get("workerGroupSpecs", []))]
    wrong = [*_fields("", CLUSTER, cluster), *_fields("spec", SPEC, spec)]
    for where, known, group in groups:
        wrong += _fields(where, known, group)
        wrong += [
            f"{where}.rayStartParams.{name} is {value!r}; expected a string"
            for name, value in group.get("rayStartParams", {}).items()
            if not isinstance(value, str)
        ]
        wrong += [f"{where}.template: {problem}" for problem in _wrong_in_template(group.get("template"))]
    return wrong


def wrong_in_sky(file: Path) -> list[str]:
    """Return what SkyPilot refuses."""
    try:
        sky.Task.from_yaml(str(file))
    except (ValueError, TypeError, AssertionError, sky.exceptions.InvalidSkyPilotConfigError) as error:
        return [" ".join(str(error).split())]
    return []


def _fields(where: str, known: dict[str, bool], found: dict[str, Any]) -> list[str]:
    unknown = [f"{where}: there is no field {name!r}" for name in found if name not in known]
    return unknown + [f"{where}: {name!r} is missing" for name, must in known.items() if must and name not in found]


def _wrong_in_template(template: Any) -> list[str]:
    pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "pod"}, "template": template}
    try:
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{'.'.join(map(str, error.path))}: {error.message}"]
    return []


if __name__ == "__main__":
    raycluster, task = map(Path, sys.argv[1:])
    for name, problems in ((raycluster.name, wrong_in_raycluster(raycluster)), (task.name, wrong_in_sky(task))):
        for problem in problems:
            print(f"{name}: {problem}")
