"""The files of docker/, read: what the tests compare."""

from __future__ import annotations

import gzip
import json
import re
import shlex
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
DOCKER = REPOSITORY / "docker"
CLUSTERS = ("raycluster.yaml", "rayjob.yaml")


def text(name: str) -> str:
    """A file of docker/."""
    return (DOCKER / name).read_text(encoding="utf-8")


@cache
def _json(name: str) -> str:
    return json.dumps(list(yaml.safe_load_all(text(name))))


def documents(name: str) -> dict[str, dict[str, Any]]:
    """The documents of a YAML file of docker/, by kind. What an alias repeats is separate here."""
    found = json.loads(_json(name))
    assert len({each["kind"] for each in found}) == len(found)
    return {each["kind"]: each for each in found}


def compose() -> dict[str, Any]:
    """docker/compose.yaml."""
    (content,) = json.loads(_json("compose.yaml"))
    return dict(content)


def cluster_spec(name: str) -> dict[str, Any]:
    """The specification of the cluster in raycluster.yaml or rayjob.yaml."""
    ((kind, resource),) = documents(name).items()
    spec: dict[str, Any] = resource["spec"]
    return spec if kind == "RayCluster" else spec["rayClusterSpec"]


def pod_templates(name: str) -> dict[str, dict[str, Any]]:
    """The pod templates of raycluster.yaml or rayjob.yaml, by what they are for."""
    spec = cluster_spec(name)
    templates = {"head": spec["headGroupSpec"]["template"]}
    templates |= {group["groupName"]: group["template"] for group in spec["workerGroupSpecs"]}
    if "RayJob" in documents(name):
        templates["submitter"] = documents(name)["RayJob"]["spec"]["submitterPodTemplate"]
    return templates


# --- the Dockerfile ------------------------------------------------------------------------------


def instructions(dockerfile: str) -> list[tuple[str, str]]:
    """(instruction, arguments) of a Dockerfile, continued lines joined, without comments."""
    lines = [line for line in dockerfile.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [
        (name.upper(), arguments)
        for name, arguments in (line.split(maxsplit=1) for line in joined.splitlines() if line)
    ]


def arguments_of(dockerfile: str) -> dict[str, str | None]:
    """The build arguments of a Dockerfile with their default values."""
    found: dict[str, str | None] = {}
    for name, arguments in instructions(dockerfile):
        if name == "ARG":
            key, has_default, default = arguments.partition("=")
            found[key] = default if has_default else None
    return found


def copied(dockerfile: str) -> list[str]:
    """What a Dockerfile copies from its context."""
    found = []
    for name, arguments in instructions(dockerfile):
        words = arguments.split()
        if name in ("COPY", "ADD") and not words[0].startswith("--from="):
            found += words[:-1]
    return found


def in_context(path: str, ignore: str) -> bool:
    """Whether a .dockerignore lets a path through: the last line that fits it decides."""
    allowed = True
    for line in ignore.splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!").removeprefix("**/")
        whole = [path, *map(str, Path(path).parents)][:-1]
        names = Path(path).parts if "**/" in line else whole
        if any(fnmatch(name, pattern) for name in names):
            allowed = line.startswith("!")
    return allowed


# --- commands ------------------------------------------------------------------------------------


def after_submit(command: str) -> list[str]:
    """The words of the command that ``ray job submit`` submits."""
    words = shlex.split(command)
    assert words[:3] == ["ray", "job", "submit"], command
    return words[words.index("--") + 1 :]


def rllib_commands() -> dict[str, list[list[str]]]:
    """Every `rllib` command of docker/, by file: its words."""
    script = re.sub(r"\\\n\s*", " ", text("build_without_docker.sh"))
    return {
        "compose.yaml": [after_submit(compose()["services"]["job"]["command"])],
        "rayjob.yaml": [shlex.split(documents("rayjob.yaml")["RayJob"]["spec"]["entrypoint"])],
        "raycluster.yaml": [
            after_submit(line.removeprefix("#").strip())
            for line in text("raycluster.yaml").splitlines()
            if "ray job submit" in line
        ],
        "build_without_docker.sh": [
            shlex.split(line)[1:] for line in script.splitlines() if line.startswith("run rllib")
        ],
    }


# --- KubeRay -------------------------------------------------------------------------------------


def refused(resource: Any, kind: str, *path: str) -> list[str]:
    """What KubeRay's definitions (see make_schema.py) refuse about a resource, or a part of one.

    Args:
        resource: the resource, or the part.
        kind: the kind whose definition is meant.
        path: the part's place in it: the names of fields; "[]" for what a list holds.
    """
    packed = (REPOSITORY / "tests" / "docker" / "kuberay_schema.json.gz").read_bytes()
    definitions = json.loads(gzip.decompress(packed))["$defs"]
    part = definitions[kind]
    for name in path:
        part = part["items"] if name == "[]" else part["properties"][name]
        while "$ref" in part:
            part = definitions[part["$ref"].rpartition("/")[2]]
    validator = jsonschema.Draft202012Validator({**part, "$defs": definitions})
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(resource)]
