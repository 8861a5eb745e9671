"""Everything that a GPU is for, checked and timed by one command, in under eight minutes.

    python benchmarks/gpu.py                               # on a machine with a GPU
    python benchmarks/gpu.py --wheels FOLDER               # without a network: wheels from a folder
    python benchmarks/gpu.py --device cpu --short          # the dry run of the same script

Needs a copy of the working tree, Python with pip, and one NVIDIA GPU. In this order:

1. What is missing is installed from wheels into a virtual environment (``--environment``) that sees
   what the machine has. Where that is impossible, one line says what is missing, and the parts that
   need it are left out.
2. ``pytest -m gpu``: values, gradients, log-probs, decoded actions, updates and checkpoints, device
   against CPU.
3. Iterations of MAT and SrSv on SMAX 3s5z with 32, 256 and 2,048 envs, without Ray
   (`bare_loop.BareLoop`): envs by JAX on the GPU, handed over by DLPack, where JAX has a GPU; by
   JAX on the CPU and through NumPy otherwise. Where Ray is installed, the algorithms on it as well.
4. Decoding and gradient steps of 8 to 4,096 agents, with attention to all and to neighbours.

At the end one table, and all of it as JSON (``--json``). A part runs in a process of its own; what
fails or is not reached in time is a row that says so.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
import re
import site
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

#: Modules -> the package that brings them: what nothing runs without, and what parts need.
PACKAGES = {
    "annotated_types": "annotated-types",
    "cloudpickle": "cloudpickle",
    "gymnasium": "gymnasium",
    "jax": "jax",
    "jaxmarl": "jaxmarl",
    "numpy": "numpy",
    "pydantic": "pydantic",
    "pytest": "pytest",
    "pytest_timeout": "pytest-timeout",
    "ray": "ray[rllib]",
    "rich": "rich",
    "safetensors": "safetensors",
    "scipy": "scipy",
    "torch": "torch",
    "yaml": "pyyaml",
}
#: Part -> modules without which it is left out, beside those that all need.
NEEDS = {
    "tests": ("pytest",),
    "iterations": ("jax", "jaxmarl"),
    "ray": ("jax", "jaxmarl", "ray"),
    "agents": (),
}
ALL_NEED = ("annotated_types", "gymnasium", "numpy", "pydantic", "torch")

#: 3s5z, as the tuned examples play it.
MAP, STEPS, EPOCHS = "3s5z", 100, 10
ENVS = (32, 256, 2048)
SHORT_CASES = ((4, "MAT", False), (4, "SrSv", True))
AGENTS = (8, 64, 256, 1024, 4096)
NEIGHBOURS = 8
#: Decisions of one call in part 4, and env steps of one forward and backward pass in part 3.
DECISIONS = 32_768
#: Above this many agents SrSv is timed with neighbours only: over all, it costs N^2 positions.
ALL_VALUES = 256
MICRO_BATCH = {"cpu": 400, "cuda": 16_384}

Row = dict[str, Any]


# -- 1. what is installed -------------------------------------------------------------------------


def missing(python: str) -> list[str]:
    """Of `PACKAGES`, the modules that this interpreter does not find."""
    code = (
        "import importlib.util as u, sys; print(*(m for m in sys.argv[1:] if not u.find_spec(m)))"
    )
    done = subprocess.run([python, "-c", code, *PACKAGES], stdout=subprocess.PIPE, text=True)
    return done.stdout.split()


def probe(python: str) -> Row:
    """Versions, and whether torch and JAX see a GPU."""
    code = (
        "import json\n"
        "row = {'python': __import__('platform').python_version()}\n"
        "try:\n"
        "    import torch\n"
        "    row |= {'torch': torch.__version__, 'cuda': torch.version.cuda}\n"
        "    row['card'] = torch.cuda.get_device_name() if torch.cuda.is_available() else None\n"
        "except ImportError: row['torch'] = row['card'] = row['cuda'] = None\n"
        "try:\n"
        "    import jax\n"
        "    row |= {'jax': jax.__version__, 'jax_device': jax.default_backend()}\n"
        "except (ImportError, RuntimeError): row['jax'] = row['jax_device'] = None\n"
        "print(json.dumps(row))\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "JAX_PLATFORMS"}
    environment["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    done = subprocess.run(
        [python, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def install(options: argparse.Namespace) -> str:
    """The interpreter to use: this one, or that of a virtual environment with what was missing."""
    wanted, gpu = missing(sys.executable), options.device == "cuda"
    found = probe(sys.executable)
    packages = [PACKAGES[module] for module in wanted]
    if gpu and "torch" not in wanted and found["card"] is None:
        packages.append("torch")  # a build for the CPU only: the GPU's has the same version
    cuda = (found["cuda"] or "13").partition(".")[0]
    if gpu and found["jax_device"] not in ("gpu", "cuda"):
        packages.append(f"jax[cuda{cuda}]")
    if not packages:
        return sys.executable
    if options.no_install:
        print(f"not installed: {', '.join(packages)}; using what is there.", flush=True)
        return sys.executable
    print(f"installing {', '.join(packages)} into {options.environment}", flush=True)
    try:
        python = make_environment(options.environment)
    except (OSError, subprocess.CalledProcessError) as error:
        print(
            f"not installed: {', '.join(packages)} (no environment: {error}); using what is there."
        )
        return sys.executable
    # The versions that the tests ran with, of what is installed now; the rest stays as it is.
    names = {re.split(r"[\[=<>]", package)[0] for package in packages} - {"torch", "jax"}
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as constraints:
        constraints.write("\n".join(x for x in lines if x.partition("==")[0] in names))
        constraints.flush()
        command = [python, "-m", "pip", "install", "-q", "-c", constraints.name, *packages]
        if "torch" in packages:
            command.append("--ignore-installed")  # over a build for the CPU of the same version
        if options.wheels is not None:
            command += ["--no-index", "--find-links", str(options.wheels)]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
        print(f"not installed: {', '.join(packages)} ({reason}); using what is there.", flush=True)
        return sys.executable
    return python


def make_environment(folder: Path) -> str:
    """A virtual environment that sees the packages of this interpreter; its own interpreter.

    This one may be that of a virtual environment itself, whose packages another does not inherit.
    """
    venv.create(folder, with_pip=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    seen = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()}
    (packages / "inherited.pth").write_text("\n".join(sorted(seen)) + "\n")
    return str(folder / "bin" / "python")


# -- 2. the tests ---------------------------------------------------------------------------------


def part_tests(options: argparse.Namespace) -> Iterator[Row]:
    """``pytest -m gpu``, without the plugins that the whole suite uses."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-o", "addopts="]
    command += ["--no-header", "-p", "no:cacheprovider", "tests/test_gpu.py"]
    if options.short:
        command += ["-k", "noise or (decoded and MAT-discrete-greedy)"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "SEQMARL_TEST_DEVICE": options.device},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines = done.stdout.strip().splitlines()
    for line in lines:
        if line.startswith(("FAILED", "ERROR")):
            yield {"case": line.split(" - ")[0], "note": line.partition(" - ")[2][:200]}
    yield {"case": "pytest -m gpu", "note": lines[-1].strip("= ")}


# -- 3. iterations --------------------------------------------------------------------------------


def part_iterations(options: argparse.Namespace) -> Iterator[Row]:
    """MAT and SrSv on 3s5z: seconds of an iteration by part, after one that compiles."""
    let_jax_use_the_gpu(options)
    import jax
    from bare_loop import BareLoop

    together = jax.default_backend() == ("gpu" if options.device == "cuda" else "cpu")
    sizes = {"steps": 4, "epochs": 1} if options.short else {"steps": STEPS, "epochs": EPOCHS}
    cases = list(itertools.product(ENVS, ("MAT", "SrSv"), (True, False) if together else (False,)))
    for envs, algorithm, on_device in SHORT_CASES if options.short else cases:
        loop = BareLoop(
            algorithm,
            "3m" if options.short else MAP,
            envs=envs,
            micro_batch=MICRO_BATCH[options.device],
            device=options.device,
            on_device=on_device,
            **sizes,
        )
        loop.iterate()
        loop.timer.seconds.clear()
        seconds = loop.iterate()
        yield {
            "case": f"{algorithm}, {envs} envs, {'DLPack' if on_device else 'NumPy'}",
            "env_steps_per_s": envs * loop.steps / seconds,
            "seconds": seconds,
            "split": dict(loop.timer.seconds),
            "memory_gib": peak_memory(options.device),
        }


def part_ray(options: argparse.Namespace) -> Iterator[Row]:
    """The algorithms as they are trained, learner and runner on the device."""
    let_jax_use_the_gpu(options)
    import logging

    import ray

    from rllib_seqmarl import registry

    logging.getLogger("ray").setLevel(logging.ERROR)
    gpus = {"num_gpus_per_learner": 1, "num_gpus_per_env_runner": 1}
    ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    for envs in (4,) if options.short else ENVS:
        for algorithm in ("MAT",) if options.short else ("MAT", "SrSv"):
            config = registry.config_class(algorithm)()
            config.environment("smac", env_config={"map_name": "3m" if options.short else MAP})
            config.update_from_dict(
                {
                    "num_envs_per_env_runner": envs,
                    "rollout_fragment_length": 4 if options.short else STEPS,
                    "num_epochs": 1 if options.short else EPOCHS,
                    "micro_batch_size": MICRO_BATCH[options.device],
                    **(gpus if options.device == "cuda" else {}),
                }
            )
            running = config.build_algo()
            running.train()
            begin = time.perf_counter()
            split = running.train()["time_split"]
            seconds = time.perf_counter() - begin
            running.stop()
            yield {
                "case": f"{algorithm} on Ray, {envs} envs",
                "env_steps_per_s": envs * config.rollout_fragment_length / seconds,
                "seconds": seconds,
                "split": {name: float(value) for name, value in split.items()},
                "memory_gib": peak_memory(options.device),
            }


# -- 4. many agents -------------------------------------------------------------------------------


def part_agents(options: argparse.Namespace) -> Iterator[Row]:
    """Milliseconds of a joint decision and of a gradient step, by number of agents."""
    import torch

    from rllib_seqmarl.nets.sequential_policy import SequentialPolicy
    from rllib_seqmarl.nets.transformer.model import ActionSpec

    device = torch.device(options.device)
    for agents in (8, 12) if options.short else AGENTS:
        batch = 2 if options.short else max(1, min(256, DECISIONS // agents))
        for algorithm, value in (("MAT", "encoder"), ("SrSv", "sequential")):
            for near in (True,) if value != "encoder" and agents > ALL_VALUES else (False, True):
                torch.manual_seed(0)
                policy = SequentialPolicy(
                    obs_dim=32, action=ActionSpec(2, discrete=False), num_agents=agents, value=value
                ).to(device)
                obs = torch.randn(batch, agents, 32, device=device)
                neighbours = nearest(agents, device).expand(batch, -1, -1) if near else None
                name = f"{algorithm}{', neighbours' if near else ''}, N = {agents}, B = {batch}"
                row: Row = {"case": name}
                try:
                    measure_policy(policy, obs, neighbours, algorithm, options, row)
                except torch.OutOfMemoryError as error:
                    row["note"] = str(error).split(".")[0]
                row["memory_gib"] = peak_memory(options.device)
                del policy, obs, neighbours
                yield row


def measure_policy(
    policy: Any, obs: Any, neighbours: Any, algorithm: str, options: argparse.Namespace, row: Row
) -> None:
    """Adds milliseconds to ``row``: ways to decode, the value's inputs, forward and backward."""
    of = {"neighbours": neighbours}
    for method in ("cached", "parallel", "auto") if algorithm == "MAT" else ("auto",):
        policy.decode.method = method
        warm = 14 if method == "auto" else 2  # `auto` tries its candidates first
        taken = policy.act(obs, None, deterministic=False, **of)
        milliseconds = timed(
            lambda: policy.act(obs, None, deterministic=False, **of), options, warm
        )
        row[f"{method}_ms"] = milliseconds
    prepared = policy.prepare_value(obs, None, taken.actions, **of)
    row["prepare_ms"] = timed(lambda: policy.prepare_value(obs, None, taken.actions, **of), options)

    def update() -> None:
        policy.zero_grad(set_to_none=True)
        out = policy.evaluate(obs, None, taken.actions, None, prepared, **of)
        (out.values.square().mean() + out.log_prob.mean()).backward()

    row["update_ms"] = timed(update, options)


def nearest(agents: int, device: Any) -> Any:
    """The slots next to one's own, int [1, N, K]: the agents stand in a line."""
    import torch

    around = [offset for step in range(1, NEIGHBOURS // 2 + 1) for offset in (-step, step)]
    slots = torch.arange(agents, device=device).unsqueeze(1) + torch.tensor(around, device=device)
    return torch.where((slots >= 0) & (slots < agents), slots, -1).int().unsqueeze(0)


def timed(call: Callable[[], object], options: argparse.Namespace, warm: int = 2) -> float:
    """Milliseconds of a call: the lower quartile of some, after ``warm`` of them."""
    import torch
    from bare_loop import wait

    device = torch.device(options.device)

    def once() -> float:
        wait(device)
        begin = time.perf_counter()
        call()
        wait(device)
        return 1e3 * (time.perf_counter() - begin)

    slow = 3000.0  # what takes seconds is timed once, without a warm-up
    if options.short or (first := once()) > slow:
        return once() if options.short else first
    for _ in range(warm - 1):
        call()
    end, times = time.perf_counter() + 0.5, [once() for _ in range(5)]
    while time.perf_counter() < end and len(times) < 50:
        times.append(once())
    return sorted(times)[len(times) // 4]


def peak_memory(device: str) -> float | None:
    """GiB that torch held on the GPU since the last time this was asked."""
    import torch

    if device != "cuda":
        return None
    peak = torch.cuda.max_memory_allocated() / 1024**3
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return peak


def let_jax_use_the_gpu(options: argparse.Namespace) -> None:
    """Before JAX is imported: the package asks for the CPU where nothing is said."""
    plugins = [f"jax_cuda{version}_plugin" for version in (12, 13)]
    if options.device == "cuda" and any(map(importlib.util.find_spec, plugins)):
        os.environ["JAX_PLATFORMS"] = "cuda,cpu"
        os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # torch needs memory, too


# -- the command ----------------------------------------------------------------------------------

PARTS = {
    "tests": part_tests,
    "iterations": part_iterations,
    "agents": part_agents,
    "ray": part_ray,
}


def run_part(part: str, python: str, options: argparse.Namespace, left: float) -> list[Row]:
    """The rows of a part that runs in a process of its own, printed as they come."""
    command = [python, __file__, "--part", part, "--device", options.device]
    command += ["--short"] if options.short else []
    paths = f"{ROOT}:{ROOT / 'benchmarks'}:{os.environ.get('PYTHONPATH', '')}"
    rows: list[Row] = []
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            ["timeout", str(int(max(left, 1))), *command],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, "PYTHONPATH": paths},
        )
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("row "):
                rows.append({"part": part, **json.loads(line[4:])})
                print(line_of(rows[-1]), flush=True)
        if process.wait():
            errors.seek(0)
            reason = "out of time" if process.returncode == 124 else last_line(errors.read())
            rows.append({"part": part, "case": part, "note": f"stopped: {reason}"})
            print(line_of(rows[-1]), flush=True)
    return rows


def last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[-1][:300]


def line_of(row: Row) -> str:
    """A line of the table."""
    line = f"{row['part']:10} {row['case']:34}"
    if "env_steps_per_s" in row:
        shares = " ".join(f"{k} {v / row['seconds']:.0%}" for k, v in row["split"].items())
        line += f" {row['env_steps_per_s']:10,.0f} steps/s {row['seconds']:7.2f} s  {shares}"
    times = {k.removesuffix("_ms"): v for k, v in row.items() if k.endswith("_ms")}
    line += " ".join(f"{name} {value:9.2f} ms " for name, value in times.items())
    if row.get("memory_gib") is not None:
        line += f"  {row['memory_gib']:.2f} GiB"
    return f"{line}  {row.get('note', '')}".rstrip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument(
        "--short", action="store_true", help="sizes of seconds, to see that it runs"
    )
    parser.add_argument("--minutes", type=float, default=8.0, help="after which nothing is begun")
    parser.add_argument("--json", type=Path, help="file that takes all rows")
    parser.add_argument("--wheels", type=Path, help="folder to install from, without a network")
    parser.add_argument("--no-install", action="store_true", help="use what is there")
    parser.add_argument("--environment", type=Path, default=ROOT / "build" / "gpu-environment")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        for row in PARTS[options.part](options):
            print("row " + json.dumps(row), flush=True)
        return
    begin = time.perf_counter()
    python = install(options)
    found, absent = probe(python), set(missing(python))
    if lacking := sorted(absent.intersection(ALL_NEED)):
        sys.exit(f"nothing can run without {', '.join(PACKAGES[module] for module in lacking)}.")
    if options.device == "cuda" and found["card"] is None:
        sys.exit("torch sees no GPU here: `--device cpu --short` is the dry run.")
    print(
        f"{found['card'] or 'CPU, a dry run'}; " + ", ".join(f"{k} {v}" for k, v in found.items())
    )
    rows: list[Row] = []
    for part in options.parts:
        left = 60 * options.minutes - (time.perf_counter() - begin)
        without = sorted(absent.intersection(NEEDS[part]))
        if without or left <= 0:
            note = f"left out: needs {', '.join(without)}" if without else "not reached in time"
            rows.append({"part": part, "case": part, "note": note})
            print(line_of(rows[-1]), flush=True)
            continue
        rows += run_part(part, python, options, left)
    whole = time.perf_counter() - begin
    print(f"{whole:.0f} s in all, {sum('note' in row for row in rows)} rows with a note")
    if options.json is not None:
        content = {"machine": found, "short": options.short, "seconds": whole, "rows": rows}
        options.json.write_text(json.dumps(content, indent=1) + "\n")
    failed = any(str(row.get("note", "")).startswith("stopped") for row in rows)
    failed |= any(" failed" in str(row.get("note", "")) for row in rows)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
