"""Compares the runs in benchmarks/papers/results, for the page of results.

`python docs/papers.py` draws docs/assets/papers/ROW.png of every row that has results; the tables
are made when the pages are built (see hooks.py). What `rllib compare` is asked for besides is in
benchmarks/papers/ROW/compare.json, by the names of its options.
"""

from __future__ import annotations

import json
from pathlib import Path

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
    return comparing.compare(
        found,
        runs.choose_metric(found, asked.get("metric")),
        asked.get("group", "algorithm,env").split(","),
        asked.get("aggregate", "mean"),
        asked.get("threshold"),
    )


def tables(row: str) -> str:
    """Its tables in Markdown."""
    (environment,) = compare(row).environments
    _, *parts = summary.sections(environment)
    return "\n\n".join(parts)


if __name__ == "__main__":
    from rllib_seqmarl.experiments.compare import pictures

    PICTURES.mkdir(parents=True, exist_ok=True)
    for row in rows():
        (PICTURES / f"{row}.png").write_bytes(pictures.draw_curves(compare(row)))
