"""``rllib compare`` and ``rllib plot``."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.experiments.compare import runs as results
from rllib_seqmarl.files import check_writable, remove, shown, user_path, write

_PACKAGES = ("matplotlib", "rliable")


def compare(
    folders: Sequence[str],
    *,
    out: str,
    metric: str | None = None,
    group: str = "algorithm,env",
    aggregate: str = "mean",
    threshold: float | None = None,
) -> int:
    """Compares runs: pictures, a page and a table.

    Args:
        folders: trials, experiments, or what holds experiments.
        out: folder of what is written.
        metric: what is compared; by default the first of `DEFAULT_METRICS` that all runs have.
        group: what makes a group, with commas between: ``algorithm``, ``env``, ``config/SETTING``.
        aggregate: ``mean`` or ``iqm``.
        threshold: value that counts as 100 %; by default the best final value of a group.

    Returns:
        The exit status.

    Raises:
        UserError: no results, a metric or a key that is not there, a threshold that is none, or
            nowhere to write.
    """
    _check_installed("compare")
    target = user_path(out, "--out")
    if target.exists() and not target.is_dir():
        raise UserError(f"--out: {out} is a file; give a folder.")
    if threshold is not None and not math.isfinite(threshold):
        raise UserError(f"--threshold must be a finite number, got {threshold}.")
    notes: list[str] = []
    found = results.read_all(folders, notes.append)
    chosen = results.choose_metric(found, metric)
    keys = [key.strip() for key in group.split(",") if key.strip()]

    # Only now: matplotlib takes a second.
    from rllib_seqmarl.experiments.compare import comparison as comparing
    from rllib_seqmarl.experiments.compare import pictures, summary

    comparison = comparing.compare(found, chosen, keys, aggregate, threshold, notes)
    page, table = summary.markdown(comparison), summary.table(comparison)
    contents = {"curves.png": pictures.draw_curves(comparison)}
    if comparison.scores():
        contents["profile.png"] = pictures.draw_profile(comparison)
    contents |= {"summary.md": page.encode(), "summary.csv": table.encode()}
    made = [folder for folder in (target, *target.parents) if not folder.exists()]
    written: list[Path] = []
    try:
        target.mkdir(parents=True, exist_ok=True)
        if "profile.png" not in contents:  # that of an earlier comparison
            (target / "profile.png").unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"--out: cannot write {shown(target)}: {error.strerror}.") from None
    try:
        for name, content in contents.items():
            written.append(target / name)
            write(target / name, content, "--out")
    except UserError:
        remove(written if made else (), made)
        raise

    say = _say(Console(highlight=False))
    for note in comparison.notes:
        say(f"note: {note}")
    say(f"{chosen} at the end of {len(found)} runs ({aggregate}, 95 % interval):")
    for env in comparison.environments:
        for entry in env.groups:
            value = summary.interval(entry.final)
            runs = "1 run" if len(entry.curves) == 1 else f"{len(entry.curves)} runs"
            say(f"  {env.label}: {entry.label} {value}, {runs}")
    say(f"Written to {target}: {', '.join(contents)}")
    return 0


def plot(path: str, out: str | None) -> int:
    """Draws one run.

    Args:
        path: of a trial, of a checkpoint in it, or of an experiment with one trial.
        out: the picture; by default ``TRIAL.png`` in the present folder.

    Returns:
        The exit status.

    Raises:
        UserError: no results, several trials, or nowhere to write.
    """
    _check_installed("plot")
    say = _say(Console(highlight=False))
    folders = results.trial_folders(path)
    if len(folders) > 1:
        raise UserError(
            f"{path} holds {len(folders)} trials; name one of them, e.g. {folders[-1]}, or see "
            "them together with rllib compare."
        )
    run = results.read(folders[0], lambda line: say(f"note: {line}"))
    if run is None:
        raise UserError(f"{folders[0]} has no results yet.")
    file = Path(f"{run.path.name}.png") if out is None else user_path(out, "--out")
    if file.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise UserError(f"--out: {file} must end with .png, .pdf or .svg.")
    check_writable(file, "--out")
    from rllib_seqmarl.experiments.compare import pictures

    write(file, pictures.draw_run(run, file.suffix), "--out")
    say(f"Written: {file}")
    return 0


def _check_installed(command: str) -> None:
    for package in _PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise UserError(
                f"rllib {command}: the package {package} is not installed: python -m pip install "
                "'rllib-seqmarl[plot]'"
            )


def _say(console: Console) -> Callable[[str], None]:
    return lambda line: console.print(line, markup=False, soft_wrap=True)
