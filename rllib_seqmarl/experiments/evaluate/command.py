"""``rllib evaluate`` and ``rllib export``: what is done with a trained policy.

Evaluating plays with it, and with scripted controllers beside it, and reports.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.experiments.checkpoints import find as checkpoints
from rllib_seqmarl.experiments.evaluate.video import Film
from rllib_seqmarl.experiments.train import ray_session as cluster

#: How files of shared policies end.
SHARED = ".safetensors"


def evaluate(
    checkpoint: str,
    *,
    episodes: int,
    env_config: Mapping[str, Any],
    explore: bool,
    seed: int,
    controllers: str,
    out: str | None,
    render: str | None,
    render_every: int,
    trust_imports: bool = False,
) -> int:
    """Evaluates a policy and prints a table.

    Args:
        checkpoint: a checkpoint's folder, or that of a trial or experiment; or a file of
            `export_policy`.
        episodes: how many to play.
        env_config: settings of the environment that replace those of the training.
        explore: sample actions; otherwise each agent takes the most probable one.
        seed: of environment and actions.
        controllers: scripted controllers that play the same worlds: ``all``, ``none``, or names
            with commas between them.
        out: file for the figures of every episode, as JSON.
        render: file for pictures of the first episode, .gif or .png.
        render_every: steps between two pictures.
        trust_imports: a file may name the environment by an import path.

    Returns:
        The exit status.

    Raises:
        UserError: no sound checkpoint, wrong settings, or a file that cannot be written.
    """
    if episodes < 1:
        raise UserError(f"--episodes must be at least 1, got {episodes}.")
    for option, file in (("--out", out), ("--render", render)):
        if file is not None and not Path(file).absolute().parent.is_dir():
            raise UserError(f"{option}: the folder of {file} does not exist.")
    film = None if render is None else Film(Path(render), render_every)
    console = Console(highlight=False)
    shared = checkpoint.endswith(SHARED)
    if not shared:
        path = checkpoints.find(checkpoint, partial(console.print, markup=False, soft_wrap=True))
    cluster.prepare(cluster.RunOptions())
    from rllib_seqmarl.experiments.evaluate.evaluation import (
        CheckpointPolicy,
        SavedPolicy,
        evaluate_policy,
    )
    from rllib_seqmarl.experiments.share.policy_file import SharedPolicy

    cluster.set_log_levels(verbose=False)
    policy: SavedPolicy
    if shared:
        policy = SharedPolicy(Path(checkpoint).expanduser(), trust_imports=trust_imports)
    else:
        console.print(checkpoints.TRUST, markup=False, soft_wrap=True)
        checkpoints.check(path)
        if path != Path(checkpoint).expanduser().absolute():
            console.print(f"Latest checkpoint there: {path}", markup=False, soft_wrap=True)
        policy = CheckpointPolicy(str(path))
    result = evaluate_policy(
        policy,
        episodes=episodes,
        explore=explore,
        env_config=dict(env_config),
        seed=seed,
        controllers=_names(controllers),
        watch=None if film is None else film.watch,
    )
    console.print(_title(result), markup=False, soft_wrap=True)
    console.print(_table(result))
    if out is not None:
        text = json.dumps(result, indent=2, default=str) + "\n"
        _write("--out", out, text.encode(), console)
    if film is not None:
        _write("--render", str(render), film.encode(), console)
    return 0


def export_policy(checkpoint: str, file: str) -> int:
    """Writes the policy of a checkpoint to a file that is safe to share; see :mod:`sharing`.

    Args:
        checkpoint: a checkpoint's folder, or that of a trial or experiment.
        file: the new file, ``*.safetensors``.

    Returns:
        The exit status.

    Raises:
        UserError: no sound checkpoint, or nothing that can be written to such a file.
    """
    target = Path(file).expanduser()
    if target.suffix != SHARED:
        raise UserError(f"{file}: the name of the file must end with {SHARED}.")
    if target.exists():
        raise UserError(f"{file} exists already: give the name of a new file.")
    if not target.absolute().parent.is_dir():
        raise UserError(f"the folder of {file} does not exist.")
    console = Console(highlight=False)
    path = checkpoints.find(checkpoint, partial(console.print, markup=False, soft_wrap=True))
    cluster.prepare(cluster.RunOptions())
    from rllib_seqmarl.experiments.share import policy_file as sharing

    cluster.set_log_levels(verbose=False)
    console.print(checkpoints.TRUST, markup=False, soft_wrap=True)
    checkpoints.check(path)
    sharing.export(path, target)
    console.print(
        f"Written: {file}\nWhoever has it plays with it, without any risk from the file:\n"
        f"  rllib evaluate {shlex.quote(file)}",
        markup=False,
        soft_wrap=True,
    )
    return 0


def _names(controllers: str) -> list[str] | None:
    """The names that are meant; None for all."""
    if controllers == "all":
        return None
    return [] if controllers == "none" else [name.strip() for name in controllers.split(",")]


def _title(result: Mapping[str, Any]) -> str:
    env_config = result["env_config"]
    details = [str(env_config[key]) for key in ("map_name",) if key in env_config]
    simulator = result.get("simulator")
    if simulator and simulator != result["env"]:
        details.append(f"simulated by {simulator}")
    where = f"{result['env']} ({', '.join(details)})" if details else result["env"]
    actions = "sampled actions" if result["explore"] else "greedy actions"
    return f"{result['algorithm']} on {where}: {result['episodes']} episodes, {actions}"


def _table(result: Mapping[str, Any]) -> Table:
    scripted = result["controllers"]
    caption = "On the right: means of scripted controllers in the same worlds."
    table = Table(caption=caption if scripted else None, pad_edge=False)
    table.add_column("metric", no_wrap=True)
    for title in ("mean", "least", "most", *scripted):
        # Narrow terminals break names and numbers, but lose nothing of them.
        table.add_column(title.replace("_", "_\n"), justify="right", overflow="fold")
    for name, mean in result["metrics"].items():
        values = result["per_episode"][name]
        others = (played["metrics"][name] for played in scripted.values())
        table.add_row(name, *(f"{v:.4g}" for v in (mean, min(values), max(values), *others)))
    return table


def _write(option: str, file: str, content: bytes, console: Console) -> None:
    path = Path(file)
    new = path.with_name(f"{path.name}.new")
    try:
        new.write_bytes(content)
        os.replace(new, path)
    except OSError as error:
        raise UserError(f"{option}: cannot write {file}: {error.strerror}.") from None
    console.print(f"Written: {file}", markup=False, soft_wrap=True)
