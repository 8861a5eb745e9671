"""Draws the learning curves of the pages: docs/data/*.csv -> docs/assets/curves/*.svg.

`python docs/curves.py` writes them all. A table has the environment steps in its first column and a
run in each of the others; columns that differ in their last word only ("MAT 1", "MAT 2") are
seeds of one algorithm, drawn in one colour.
"""

from __future__ import annotations

import csv
import math
from pathlib import Path

HERE = Path(__file__).parent
DATA, CURVES = HERE / "data", HERE / "assets" / "curves"

#: File -> title, label of the y axis.
TITLES = {
    "smac_3s5z": ("SMAX 3s5z, two seeds", "greedy win rate"),
    "smac_2s3z": ("SMAX 2s3z, one seed", "greedy win rate"),
    "smac_2s3z_seca": ("SeCA on SMAX 2s3z, two seeds", "greedy win rate"),
    "mamujoco_halfcheetah": ("HalfCheetah 6x1, one seed", "greedy return"),
    "mpe_cooperative_navigation": ("Cooperative navigation (MPE), one seed", "greedy return"),
    "dubins_car_freeze": ("DubinsCar, 8 cars, a collision stops a car, one seed", "success ratio"),
}
#: Readable on white and apart for colour-blind eyes (Okabe & Ito 2008).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 360, 80, 170, 36, 48


def read(name: str) -> tuple[list[float], dict[str, list[float | None]]]:
    """Steps and runs of a table; None where a run has no entry."""
    with (DATA / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    steps = [float(row["env_steps"]) for row in rows]
    runs = [column for column in rows[0] if column != "env_steps"]
    return steps, {run: [float(row[run]) if row[run] else None for row in rows] for run in runs}


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers that cover [low, high]."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if rough <= power * factor)
    first = math.floor(low / step)
    return [step * k for k in range(first, math.ceil(high / step - 1e-9) + 1)]


def number(value: float) -> str:
    """As short as it can be said."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if abs(value) >= 1e4 else f"{value:,g}"


def draw(name: str) -> str:
    """The figure as SVG."""
    title, label = TITLES[name]
    steps, runs = read(name)
    values = [value for run in runs.values() for value in run if value is not None]
    # Shares are drawn from 0 to 1, returns over the range that they had.
    whole = min(values) >= 0 and max(values) <= 1
    x_ticks, y_ticks = (
        ticks(0, max(steps)),
        ticks(*((0, 1) if whole else (min(values), max(values)))),
    )

    def x(step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * step / x_ticks[-1]

    def y(value: float) -> float:
        share = (value - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="13">',
        f"<title>{title}: {label} by environment steps</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="22" font-size="15" fill="#222">{title}</text>',
    ]
    for tick in y_ticks:
        parts.append(
            f'<path d="M{LEFT} {y(tick):.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>'
            f'<text x="{LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end" fill="#444">'
            f"{number(tick)}</text>"
        )
    for tick in x_ticks:
        parts.append(
            f'<text x="{x(tick):.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle" '
            f'fill="#444">{number(tick)}</text>'
        )
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle" '
        'fill="#444">environment steps</text>'
        f'<text transform="translate(16 {middle}) rotate(-90)" text-anchor="middle" '
        f'fill="#444">{label}</text>'
    )
    seeds = all(run.rpartition(" ")[2].isdigit() and run.rpartition(" ")[0] for run in runs)
    names = [run.rpartition(" ")[0] if seeds and "seed" not in run else run for run in runs]
    families = list(dict.fromkeys(names))
    for run, family in zip(runs.values(), names, strict=True):
        colour = COLOURS[families.index(family)]
        points = [(x(s), y(v)) for s, v in zip(steps, run, strict=True) if v is not None]
        line = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{colour}"/>' for a, b in points]
    for place, family in enumerate(families):
        height = TOP + 10 + 22 * place
        parts.append(
            f'<path d="M{WIDTH - RIGHT + 14} {height}h22" stroke="{COLOURS[place]}" '
            f'stroke-width="3"/><text x="{WIDTH - RIGHT + 42}" y="{height + 4}" fill="#222">'
            f"{family}</text>"
        )
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    CURVES.mkdir(parents=True, exist_ok=True)
    for name in TITLES:
        (CURVES / f"{name}.svg").write_text(draw(name), encoding="utf-8")
