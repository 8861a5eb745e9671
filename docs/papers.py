"""Compares the runs in benchmarks/papers/results, for the page of results.

`python docs/papers.py` draws docs/assets/papers/ROW.png of every row that has results; the tables
are made when the pages are built (see hooks.py). What `rllib compare` is asked for besides is in
benchmarks/papers/ROW/compare.json, by the names of its options.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from rllib_seqmarl.experiments.compare import comparison as comparing
from rllib_seqmarl.experiments.compare import runs, summary

ROOT = Path(__file__).parent.parent
PAPERS = ROOT / "benchmarks" / "papers"
PICTURES = Path(__file__).parent / "assets" / "papers"


def rows() -> list[str]:
    """The comparisons of which runs are finished."""
    return sorted({path.parents[1].name for path in PAPERS.glob("results/*/*/run.json")})


def compare(row: str) -> comparing.Comparison:
    """The finished runs of a row."""
    options = PAPERS / row / "compare.json"
    asked = json.loads(options.read_text(encoding="utf-8")) if options.exists() else {}
    found = runs.read_all([str(PAPERS / "results" / row)], lambda note: None)
    keys = asked.get("group", "algorithm,env").split(",")
    settings = {f"config/{name}" for run in found for name in run.config}
    return comparing.compare(
        found,
        runs.choose_metric(found, asked.get("metric")),
        # A setting of one algorithm only, of which no run is finished yet, sets nothing apart.
        [key for key in keys if key in settings or not key.startswith("config/")],
        asked.get("aggregate", "mean"),
        asked.get("threshold"),
    )


def tables(row: str) -> str:
    """Its tables in Markdown, and what a reader should know of them.

    Raises:
        ValueError: its runs are of several environments.
    """
    comparison = compare(row)
    if len(comparison.environments) != 1:
        found = [environment.label for environment in comparison.environments]
        raise ValueError(f"{row}: one environment is compared at a time, found {found}.")
    _, *parts = summary.sections(comparison.environments[0])
    return "\n\n".join([*parts, *(f"- {note}" for note in comparison.notes)])


def evaluations(row: str) -> tuple[list[str], list[list[str]]]:
    """What its runs' last checkpoints reached in the environments of its evaluate.json.

    Header and lines of a table: a column for each environment; a cell has the means over the seeds
    of the metrics that compare.json names under ``evaluated``.
    """
    asked = json.loads((PAPERS / row / "compare.json").read_text(encoding="utf-8"))["evaluated"]
    found: dict[str, list[list[dict[str, Any]]]] = {}
    for file in sorted((PAPERS / "results" / row).glob("*/evaluations.json")):
        name = file.parent.name.rpartition("_seed")[0]
        found.setdefault(name, []).append(json.loads(file.read_text(encoding="utf-8")))
    environments = [entry["env_config"] for entry in next(iter(found.values()))[0]]
    header = [", ".join(f"{key}: {x}" for key, x in env.items()) for env in environments]
    lines = []
    for name, seeds in found.items():
        cells = []
        for entries in zip(*seeds, strict=True):
            means = [statistics.fmean(e["metrics"][metric] for e in entries) for metric in asked]
            cells.append(" / ".join(f"{mean:.2f}" for mean in means))
        lines.append([f"`{name}`", str(len(seeds)), *cells])
    return ["", "seeds", *header], lines


if __name__ == "__main__":
    from rllib_seqmarl.experiments.compare import pictures

    PICTURES.mkdir(parents=True, exist_ok=True)
    for row in rows():
        (PICTURES / f"{row}.png").write_bytes(pictures.draw_curves(compare(row)))
