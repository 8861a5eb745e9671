"""``rllib evaluate``: plays with a checkpoint and reports."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.experiments import checkpoints, cluster


def evaluate(
    checkpoint: str,
    *,
    episodes: int,
    env_config: Mapping[str, Any],
    explore: bool,
    seed: int,
    out: str | None,
) -> int:
    """Evaluates a checkpoint and prints a table.

    Args:
        checkpoint: a checkpoint's folder, or that of a trial or experiment.
        episodes: how many to play.
        env_config: settings of the environment that replace those of the training.
        explore: sample actions; otherwise each agent takes the most probable one.
        seed: of environment and actions.
        out: file for the figures of every episode, as JSON.

    Returns:
        The exit status.

    Raises:
        UserError: no sound checkpoint, wrong settings, or ``out`` cannot be written.
    """
    if episodes < 1:
        raise UserError(f"--episodes must be at least 1, got {episodes}.")
    if out is not None and not Path(out).absolute().parent.is_dir():
        raise UserError(f"--out: the folder of {out} does not exist.")
    console = Console(highlight=False)
    path = checkpoints.find(checkpoint)
    cluster.quieten(verbose=False)
    from rllib_seqmarl.rollout.evaluation import evaluate_checkpoint

    cluster.set_log_levels(verbose=False)
    checkpoints.check(path)
    if path != Path(checkpoint).expanduser().absolute():
        console.print(f"Latest checkpoint there: {path}", markup=False, soft_wrap=True)
    result = evaluate_checkpoint(
        str(path), episodes=episodes, explore=explore, env_config=dict(env_config), seed=seed
    )
    console.print(_title(result), markup=False, soft_wrap=True)
    console.print(_table(result))
    if out is not None:
        _write(Path(out), result)
        console.print(f"Written: {out}", markup=False, soft_wrap=True)
    return 0


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
    table = Table()
    table.add_column("metric")
    for title in ("mean", "least", "most"):
        table.add_column(title, justify="right")
    for name, mean in result["metrics"].items():
        values = result["per_episode"].get(name, [])
        ends = (min(values), max(values)) if values else ("", "")
        table.add_row(name, *(f"{v:.4g}" if v != "" else "" for v in (mean, *ends)))
    return table


def _write(path: Path, result: Mapping[str, Any]) -> None:
    new = path.with_name(f"{path.name}.new")
    try:
        new.write_text(json.dumps(result, indent=2, default=str) + "\n", encoding="utf-8")
        os.replace(new, path)
    except OSError as error:
        raise UserError(f"--out: cannot write {path}: {error.strerror}.") from None
