"""What docker/ says, against this repository, Ray's pinned version and KubeRay's definitions."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tomllib
import yaml
from helpers.manifests import (
    CLUSTERS,
    DOCKER,
    REPOSITORY,
    arguments_of,
    cluster_spec,
    compose,
    copied,
    documents,
    in_context,
    instructions,
    pod_templates,
    refused,
    rllib_commands,
    text,
)

from rllib_seqmarl import __version__, cli, registry

PINNED = dict(
    line.split("==") for line in (REPOSITORY / "constraints.txt").read_text().splitlines()[1:]
)
RESULTS = "/results"
EXPERIMENT = "/etc/rllib-seqmarl/experiment.yaml"

# --- KubeRay's definitions -----------------------------------------------------------------------


@pytest.mark.parametrize("name", CLUSTERS)
def test_the_manifest_is_what_kuberay_defines(name: str) -> None:
    ((kind, resource),) = documents(name).items()
    assert resource["apiVersion"] == "ray.io/v1"
    assert refused(resource, kind) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("authOptions", "mode"), "tokens"),
        (("enableInTreeAutoscaling",), "yes"),
        (("headGroupSpec", "rayStartParams", "num-cpus"), 0),
        (("headGroupSpec", "template", "spec", "containers", 0, "livenessProb"), {}),
        (("headGroupSpec", "template", "spec", "securityContext", "runAsNonRoot"), "true"),
        (("workerGroupSpecs", 0, "maxReplica"), 4),
        (("workerGroupSpecs", 1, "template", "spec", "containers", 0, "resources", "limits"), 1),
    ],
)
def test_the_definitions_refuse_mistakes(path: tuple[str | int, ...], value: Any) -> None:
    resource = documents("raycluster.yaml")["RayCluster"]
    place = resource["spec"]
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    assert len(refused(resource, "RayCluster")) == 1


def test_the_volume_claim_and_the_policy_are_what_kubernetes_defines() -> None:
    # KubeRay's definitions hold those of Kubernetes for a claim and for rules of ingress.
    shared = documents("shared.yaml")
    claim = ("headGroupSpec", "template", "spec", "volumes", "[]", "ephemeral")
    spec = shared["PersistentVolumeClaim"]["spec"]
    assert refused(spec, "RayCluster", "spec", *claim, "volumeClaimTemplate", "spec") == []
    assert spec["accessModes"] == ["ReadWriteMany"]
    rules = shared["NetworkPolicy"]["spec"]["ingress"]
    assert refused(rules, "RayCluster", "spec", "networkPolicy", "head", "ingressRules") == []


def test_the_job_has_the_cluster_of_the_cluster_manifest() -> None:
    assert cluster_spec("rayjob.yaml") == cluster_spec("raycluster.yaml")


# --- versions, images, paths ---------------------------------------------------------------------


def test_ray_is_the_pinned_one_everywhere() -> None:
    base = arguments_of(text("Dockerfile"))["BASE_IMAGE"]
    assert base == f"rayproject/ray:{PINNED['ray']}-py311-cpu"
    for name in CLUSTERS:
        assert cluster_spec(name)["rayVersion"] == PINNED["ray"]


def test_all_files_name_one_image_of_this_version() -> None:
    image = f"rllib-seqmarl:{__version__}"
    assert {service["image"] for service in compose()["services"].values()} == {image}
    for name in CLUSTERS:
        for template in pod_templates(name).values():
            assert [c["image"] for c in template["spec"]["containers"]] == [image]
    assert f"-t {image} " in text("Dockerfile")


def test_every_node_has_the_results_at_one_path() -> None:
    claim = documents("shared.yaml")["PersistentVolumeClaim"]["metadata"]["name"]
    for name in CLUSTERS:
        for what, template in pod_templates(name).items():
            if what == "submitter":
                continue
            (volume,) = (v for v in template["spec"]["volumes"] if v["name"] == "results")
            assert volume["persistentVolumeClaim"]["claimName"] == claim
            mounts = {m["name"]: m for m in template["spec"]["containers"][0]["volumeMounts"]}
            assert mounts["results"]["mountPath"] == RESULTS
            volumes = {v["name"] for v in template["spec"]["volumes"]}
            assert set(mounts) == volumes
    assert "results" in compose()["volumes"]
    for service in compose()["services"].values():
        assert service["volumes"] == [f"results:{RESULTS}"]
    assert f"-m 2775 {RESULTS}" in text("Dockerfile")


def test_the_head_has_the_experiment_of_the_config_map() -> None:
    config = documents("shared.yaml")["ConfigMap"]
    folder, _, file = EXPERIMENT.rpartition("/")
    assert set(config["data"]) == {file}
    head = pod_templates("raycluster.yaml")["head"]["spec"]
    (volume,) = (v for v in head["volumes"] if "configMap" in v)
    assert volume["configMap"]["name"] == config["metadata"]["name"]
    (mount,) = (m for m in head["containers"][0]["volumeMounts"] if m["name"] == volume["name"])
    assert mount["mountPath"] == folder


# --- the Dockerfile ------------------------------------------------------------------------------


def test_what_the_dockerfile_copies_is_there_and_nothing_else_is_sent() -> None:
    ignore = text("Dockerfile.dockerignore")
    paths = copied(text("Dockerfile"))
    assert paths
    for path in paths:
        assert (REPOSITORY / path).exists(), path
        assert in_context(path, ignore), path
    assert in_context("rllib_seqmarl/nets/attention.py", ignore)
    for path in (".git", "tests", "docker/compose.yaml", "results", "a/__pycache__/b.pyc"):
        assert not in_context(path, ignore), path
    assert not in_context("rllib_seqmarl/__pycache__/cli.cpython-311.pyc", ignore)


def test_the_dockerfile_installs_what_the_package_needs() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    known = set(project["optional-dependencies"])
    script = text("build_without_docker.sh")
    (in_script,) = re.findall(r"\$\{EXTRAS:-([\w,]+)\}", script)
    extras = arguments_of(text("Dockerfile"))["EXTRAS"]
    assert extras == in_script
    assert {"cluster", "smax"} <= set(extras.split(",")) <= known
    for extra in ("football", "starcraft2"):
        assert f"requirements.py {extra} " in text("Dockerfile")
        assert extra in known
    dockerfile = text("Dockerfile")
    needed = ("pyproject.toml", project["readme"], *project["license-files"])
    assert {*needed, "rllib_seqmarl", "tuned_examples", "constraints.txt"} <= set(
        copied(dockerfile)
    )
    for command in re.findall(r"pip install (?!--no-deps)[^&;]*", dockerfile):
        assert "-c constraints.txt" in command or "--no-deps" in command, command


def test_requirements_are_those_of_the_extras() -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(DOCKER / "requirements.py"), *words]
        return subprocess.run(command, capture_output=True, text=True)

    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    expected = [*project["dependencies"], *extras["smax"], *extras["cluster"]]
    assert run("smax,cluster").stdout.split("\n") == [*expected, ""]
    wrong = run("smax,clusters")
    assert wrong.returncode == 1
    assert wrong.stderr.count("\n") == 1
    assert "no extra clusters" in wrong.stderr


def test_football_is_compiled_with_what_its_page_names() -> None:
    page = REPOSITORY / "docs" / "environments" / "football.md"
    (line,) = re.findall(r"apt-get install .*", page.read_text())
    wanted = {word for word in line.split()[3:] if not word.startswith("-")}
    builds = [a for name, a in instructions(text("Dockerfile")) if name == "RUN" and "cmake" in a]
    (installed,) = re.findall(r"apt-get install ([^&]*)", builds[0])
    assert {word for word in installed.split() if not word.startswith("-")} == wanted


def test_starcraft_needs_the_licence_accepted() -> None:
    arguments = arguments_of(text("Dockerfile"))
    assert arguments["STARCRAFT2"] == arguments["STARCRAFT2_EULA"] == arguments["FOOTBALL"] == ""
    (run,) = (a for name, a in instructions(text("Dockerfile")) if "SC2.4.10.zip" in a)
    refusal = run.index('"$STARCRAFT2_EULA" != iagreetotheeula')
    assert refusal < run.index("exit 1", refusal) < run.index("curl -fsSL")


def test_the_image_runs_without_root() -> None:
    final = text("Dockerfile").rpartition("\nFROM ")[2]
    users = [arguments for name, arguments in instructions("FROM " + final) if name == "USER"]
    assert users[-1] == "1000:100"
    assert {service["user"] for service in compose()["services"].values()} == {"1000:100"}


# --- the commands --------------------------------------------------------------------------------


def test_no_command_escapes_the_tests() -> None:
    for path in DOCKER.iterdir():
        if path.is_file():
            mentioned = len(re.findall(r"\brllib (?:train|evaluate|example)\b", path.read_text()))
            assert len(rllib_commands().get(path.name, [])) == mentioned, path.name


@pytest.mark.parametrize(
    ("name", "words"), [(name, words) for name, all_ in rllib_commands().items() for words in all_]
)
def test_the_command_parses_and_its_file_exists(name: str, words: list[str]) -> None:
    assert words[0] == "rllib"
    args = cli._parser().parse_args(words[1:])
    if words[1] != "train":
        return
    # The image's working directory has the examples where the repository has them.
    assert args.file == EXPERIMENT or (REPOSITORY / args.file).is_file()
    dockerfile = dict(instructions(text("Dockerfile")))
    assert dockerfile["WORKDIR"] == "/opt/rllib-seqmarl"
    assert f"COPY tuned_examples {dockerfile['WORKDIR']}/tuned_examples" in text("Dockerfile")
    assert args.storage_path == RESULTS
    assert args.experiment_name
    if args.stop is not None:
        assert json.loads(args.stop)
    if name != "build_without_docker.sh":
        # A restarted job goes on: the name is fixed, and there may be nothing yet.
        assert args.resume_or_start
        assert args.ray_address is None


def test_a_retry_of_the_job_goes_on_and_cleans_up() -> None:
    spec = documents("rayjob.yaml")["RayJob"]["spec"]
    assert spec["backoffLimit"] > 0
    assert spec["shutdownAfterJobFinishes"] is True
    assert rllib_commands()["rayjob.yaml"] == rllib_commands()["raycluster.yaml"]


def test_the_dockerfile_and_compose_start_programs_of_the_image() -> None:
    assert json.loads(dict(instructions(text("Dockerfile")))["CMD"])[0] == "rllib"
    for name in ("head", "worker"):
        command = compose()["services"][name]["command"]
        assert command[:2] == ["ray", "start"]
        assert "--block" in command
        assert compose()["services"][name]["healthcheck"]["test"][:2] == ["CMD", "python"]
    assert "--address=head:6379" in compose()["services"]["worker"]["command"]


def test_the_build_script_says_in_one_line_what_is_missing(tmp_path: Path) -> None:
    for program in ("bash", "dirname"):
        (tmp_path / program).symlink_to(shutil.which(program) or program)
    done = subprocess.run(
        ["bash", str(DOCKER / "build_without_docker.sh")],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 77
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "there is no buildah" in done.stderr


# --- safety --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLUSTERS)
def test_every_pod_runs_without_rights_and_within_limits(name: str) -> None:
    for what, template in pod_templates(name).items():
        pod = template["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert (pod["securityContext"]["runAsUser"], pod["securityContext"]["runAsGroup"]) == (
            1000,
            100,
        )
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        # Autoscaler v2 replaces pods; KubeRay refuses restarted containers with it.
        assert pod["restartPolicy"] == "Never"
        if what != "head":
            assert pod["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert {"cpu", "memory"} <= set(container["resources"]["limits"])
            if what != "submitter":
                assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container)


@pytest.mark.parametrize("name", CLUSTERS)
def test_the_cluster_is_reached_with_its_token_from_inside_only(name: str) -> None:
    spec = cluster_spec(name)
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert spec["headGroupSpec"]["enableIngress"] is False
    policy = documents("shared.yaml")["NetworkPolicy"]["spec"]
    labels = policy["podSelector"]["matchLabels"].items()
    for template in pod_templates(name).values():
        assert labels <= template["metadata"]["labels"].items()
    own, operator = policy["ingress"]
    assert own["from"] == [{"podSelector": policy["podSelector"]}]
    ports = {p["name"]: p["containerPort"] for p in _head(name)["ports"]}
    assert [port["port"] for port in operator["ports"]] == [ports["dashboard"]]
    assert not {"Service", "Ingress", "Secret"} & set(documents(name))


def test_compose_has_a_token_and_publishes_nothing() -> None:
    services = compose()["services"]
    assert set(services) == {"head", "worker", "job"}
    for service in services.values():
        assert "ports" not in service
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        (secret,) = service["secrets"]
        assert service["environment"]["RAY_AUTH_MODE"] == "token"
        assert service["environment"]["RAY_AUTH_TOKEN_PATH"] == f"/run/secrets/{secret}"
        assert compose()["secrets"][secret] == {"environment": "RAY_AUTH_TOKEN"}
        assert service["mem_limit"]
    assert services["worker"]["deploy"]["replicas"] == 2


# --- what fits where -----------------------------------------------------------------------------


def _head(name: str) -> dict[str, Any]:
    container: dict[str, Any] = pod_templates(name)["head"]["spec"]["containers"][0]
    return container


def test_the_heads_take_no_tasks() -> None:
    assert cluster_spec("raycluster.yaml")["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert "--num-cpus=0" in compose()["services"]["head"]["command"]


def test_the_job_of_compose_fits_its_workers() -> None:
    worker = compose()["services"]["worker"]
    (cpus,) = (word.partition("=")[2] for word in worker["command"] if "--num-cpus" in word)
    (words,) = rllib_commands()["compose.yaml"]
    runners = cli._parser().parse_args(words[1:]).num_env_runners
    assert 1 + runners <= int(cpus) * worker["deploy"]["replicas"]
    assert int(cpus) == worker["cpus"]


def test_the_experiment_is_sound_and_fits_the_worker_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rllib_seqmarl import _ray_compat
    from rllib_seqmarl.experiments.spec.check import algorithm_class, check
    from rllib_seqmarl.experiments.spec.experiment import Overrides, load_file

    # The head, which reads it, has no GPU; the cluster that it belongs to has.
    monkeypatch.setattr(_ray_compat, "is_one_machine", lambda: False)
    content = documents("shared.yaml")["ConfigMap"]["data"]["experiment.yaml"]
    file = tmp_path / "experiment.yaml"
    file.write_text(content)
    (spec,) = load_file(str(file), Overrides())
    (config,) = check(spec)
    bundles = algorithm_class(spec).default_resource_request(config).bundles
    groups = {g["groupName"]: g for g in cluster_spec("raycluster.yaml")["workerGroupSpecs"]}
    for group, resource in (("cpu-runners", "CPU"), ("gpu-learner", "GPU")):
        there = int(groups[group]["rayStartParams"][f"num-{resource.lower()}s"])
        limits = groups[group]["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert int(limits["cpu" if resource == "CPU" else "nvidia.com/gpu"]) == there
        needed = sum(bundle.get(resource, 0) for bundle in bundles)
        assert 0 < needed <= there * groups[group]["maxReplicas"]
    # A learner's bundle is one that a node of the learners' group can hold.
    assert {"GPU": 1.0} in bundles
    assert all(set(bundle) in ({"CPU"}, {"GPU"}) for bundle in bundles)


def test_the_experiment_is_the_tuned_example_in_more_processes() -> None:
    content = documents("shared.yaml")["ConfigMap"]["data"]["experiment.yaml"]
    ((name, here),) = yaml.safe_load(content).items()
    example = yaml.safe_load((REPOSITORY / "tuned_examples" / "srsv_smac_5m.yaml").read_text())[
        name
    ]
    batch = 1
    for key in ("num_env_runners", "num_envs_per_env_runner", "rollout_fragment_length"):
        batch *= here["config"].pop(key)
    for key in ("num_learners", "num_gpus_per_learner"):
        assert here["config"].pop(key) == 1
    assert here.pop("max_failures") > 0
    defaults = registry.config_class(example["run"])()
    assert defaults.num_env_runners == 0
    assert batch == defaults.num_envs_per_env_runner * defaults.rollout_fragment_length
    assert here == example
