"""``rllib evaluate`` and ``rllib export``: what is done with a trained policy.

Evaluating plays with it, and with scripted policies beside it, and reports.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.experiments.checkpoints import find as checkpoints
from rllib_seqmarl.experiments.checkpoints import trust
from rllib_seqmarl.experiments.evaluate.explain import EpisodeExplanation
from rllib_seqmarl.experiments.evaluate.video import Video
from rllib_seqmarl.experiments.train import ray_session
from rllib_seqmarl.files import check_writable, user_path, write
from rllib_seqmarl.names import PROGRAMS, SHARED

if TYPE_CHECKING:
    from rllib_seqmarl.experiments.evaluate.evaluation import Evaluation


def evaluate(
    checkpoint: str,
    *,
    episodes: int,
    env_config: Mapping[str, Any],
    explore: bool,
    seed: int,
    scripted_policies: str,
    out: str | None,
    render: str | None,
    render_every: int,
    explain: str | None = None,
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
        scripted_policies: those that play the same episodes: ``all``, ``none``, or names with
            commas between them.
        out: file for the metrics of every episode, as JSON.
        render: file for a video of the first episode, .gif, or its last frame, .png.
        render_every: steps between two frames.
        explain: file for a picture of orders, values and attention in that episode, .png.
        trust_imports: a file may name the environment by an import path.

    Returns:
        The exit status.

    Raises:
        UserError: no sound checkpoint, wrong settings, or a file that cannot be written.
    """
    if episodes < 1:
        raise UserError(f"--episodes must be at least 1, got {episodes}.")
    targets: dict[str, Path] = {}
    for option, file in (("--out", out), ("--render", render), ("--explain", explain)):
        if file is not None:
            targets[option] = user_path(file, option)
            check_writable(targets[option], option)
    if len({path.resolve() for path in targets.values()}) < len(targets):
        raise UserError(f"{' and '.join(targets)} must name different files.")
    video = None if render is None else Video(targets["--render"], render_every)
    explanation = None if explain is None else EpisodeExplanation(targets["--explain"])
    console = Console(highlight=False)
    shared = checkpoint.endswith(SHARED)
    path = user_path(checkpoint)
    if not shared:
        path = _find(checkpoint, console)
    ray_session.prepare(ray_session.RunOptions())
    from rllib_seqmarl.experiments.evaluate.evaluation import CheckpointPolicy, evaluate_policy
    from rllib_seqmarl.experiments.evaluate.progress import PlayProgress
    from rllib_seqmarl.experiments.share.policy_file import SharedPolicy

    ray_session.set_log_levels(verbose=False)
    if not shared:
        _check(path, console)
    with PlayProgress(console) as progress:
        result = evaluate_policy(
            SharedPolicy(path, trust_imports=trust_imports)
            if shared
            else CheckpointPolicy(str(path)),
            episodes=episodes,
            explore=explore,
            env_config=dict(env_config),
            seed=seed,
            scripted_policies=_names(scripted_policies),
            watchers=[watcher for watcher in (video, explanation) if watcher is not None],
            progress=progress,
        )
    _say(console, _title(result))
    console.print(_table(result))
    if result["notice"]:
        _say(console, f"note: {result['notice']}")
    contents: dict[str, bytes] = {}
    if out is not None:
        text = json.dumps(result, indent=2, default=str) + "\n"
        contents["--out"] = text.encode()
    if video is not None:
        contents["--render"] = video.encode()
    if explanation is not None:
        contents["--explain"] = explanation.encode(_title(result).split(": ")[0])
    for option, content in contents.items():
        write(targets[option], content, option)
        _say(console, f"Written: {targets[option]}")
    return 0


def export_policy(
    checkpoint: str, file: str, *, stochastic: bool = False, trust_imports: bool = False
) -> int:
    """Writes the policy of a checkpoint to a file of its own.

    Args:
        checkpoint: a checkpoint's folder, or that of a trial or experiment; for a program also a
            ``.safetensors`` file.
        file: the new file: ``*.safetensors``, which is safe to share (see `policies.file`), or a
            program of one step, ``*.pt2`` or ``*.onnx`` (see `policies.export`).
        stochastic: the program draws actions, from noise that is one of its inputs.
        trust_imports: a file may name parts of the network by import paths.

    Returns:
        The exit status.

    Raises:
        UserError: no sound checkpoint, or nothing that can be written to such a file.
    """
    target = user_path(file, "FILE")
    program = target.suffix in PROGRAMS
    if target.suffix not in (SHARED, *PROGRAMS):
        raise UserError(
            f"{file}: the name of the file must end with {SHARED}, {' or '.join(PROGRAMS)}."
        )
    if stochastic and not program:
        raise UserError(
            f"--stochastic belongs to {' and '.join(PROGRAMS)}: {file} holds the whole policy, "
            "which acts either way."
        )
    if target.exists():
        raise UserError(f"{file} exists already: give the name of a new file.")
    check_writable(target, "FILE")
    console = Console(highlight=False)
    if program and checkpoint.endswith(SHARED):
        from rllib_seqmarl.experiments.share.load import stored_policy

        stored, trusted = stored_policy(checkpoint, trust_imports=trust_imports)
    else:
        path = _find(checkpoint, console)
        ray_session.prepare(ray_session.RunOptions())
        from rllib_seqmarl.experiments.share import policy_file

        ray_session.set_log_levels(verbose=False)
        _check(path, console)
        if not program:
            policy_file.export(path, target)
            _say(
                console,
                f"Written: {file}\nWhoever has it plays with it, without any risk from the file:\n"
                f"  rllib evaluate {shlex.quote(file)}",
            )
            return 0
        stored, trusted = policy_file.from_checkpoint(path), True
    from rllib_seqmarl.policies.export import write_program

    policy = stored.policy(trust_imports=trusted)
    lines = write_program(policy, target, stored.metadata, stochastic=stochastic)
    _say(console, "\n".join([f"Written: {file}, one step of a team:", *lines]))
    return 0


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, soft_wrap=True)


def _find(checkpoint: str, console: Console) -> Path:
    return checkpoints.find(checkpoint, partial(_say, console))


def _check(path: Path, console: Console) -> None:
    """Reads a checkpoint through once, after a word on what one of others can do."""
    note = trust.note(path)
    if note is not None:
        _say(console, note)
    checkpoints.check(path)


def _names(scripted_policies: str) -> list[str] | None:
    """The names that are meant; None for all."""
    if scripted_policies in ("all", "none"):
        return None if scripted_policies == "all" else []
    return [name.strip() for name in scripted_policies.split(",")]


def _title(result: Evaluation) -> str:
    env_config = result["env_config"]
    details = [str(env_config[key]) for key in ("map_name",) if key in env_config]
    simulator = result.get("simulator")
    if simulator and simulator != result["env"]:
        details.append(f"simulated by {simulator}")
    where = f"{result['env']} ({', '.join(details)})" if details else result["env"]
    actions = "sampled actions" if result["explore"] else "greedy actions"
    return f"{result['algorithm']} on {where}: {result['episodes']} episodes, {actions}"


def _table(result: Evaluation) -> Table:
    scripted = result["controllers"]
    caption = "On the right: means of scripted policies in the same episodes."
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
