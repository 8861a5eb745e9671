"""A picture of what a policy does in an episode: who decides when, what is worth what, who attends.

One panel for the order of each step, one for every value or credit of the agents, and a matrix per
kind of attention. What an algorithm does not have is told in a line in its place.
"""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rllib_seqmarl.envs.core.rendering import AGENT_COLOURS
from rllib_seqmarl.errors import UserError
from rllib_seqmarl.experiments.evaluate.watcher import Player, Watcher

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

    from rllib_seqmarl.learning.base.explanation import Attention, Explanation, Quantity
    from rllib_seqmarl.rollout.rollout_batch import Columns

#: With more agents than these, values are colours and not lines, and numbers in cells are left out.
FEW_AGENTS = len(AGENT_COLOURS)
#: Width of the picture and height of a panel over the steps, in inches; dots per inch.
WIDTH, PANEL_HEIGHT, MATRIX_HEIGHT, DPI = 9.0, 2.3, 3.2, 110


class EpisodeExplanation(Watcher):
    """Notes the policy's first episode in env 0, and explains it."""

    def __init__(self, path: Path) -> None:
        """Checks what can be checked before anything is played.

        Args:
            path: of the file, which ends with .png.

        Raises:
            UserError: another suffix, or matplotlib missing.
        """
        if path.suffix.lower() != ".png":
            raise UserError(f"--explain: {path} must end with .png.")
        if importlib.util.find_spec("matplotlib") is None:
            raise UserError("--explain needs matplotlib; run: pip install 'rllib-seqmarl[plot]'")
        self._rows: list[Columns] = []
        self._said: Explanation

    def on_step(self, player: Player, decided: Columns) -> None:
        """See `Watcher.on_step`."""
        columns = {**player.observation, **decided}
        self._rows.append({name: np.array(column[0]) for name, column in columns.items()})

    def on_episode_end(self, player: Player) -> None:
        """See `Watcher.on_episode_end`; builds the policy once more, with its critic."""
        import torch

        columns = {
            name: torch.from_numpy(column).to(player.device)
            for name, column in self.columns().items()
        }
        self._said = player.config.explain(player.full_module(), columns)

    def explanation(self) -> Explanation:
        """What the algorithm says of the episode."""
        return self._said

    def columns(self) -> Columns:
        """What was seen and done, each [T, ...]."""
        return {name: np.stack([row[name] for row in self._rows]) for name in self._rows[0]}

    def encode(self, title: str) -> bytes:
        """The content of the file, under a title."""
        figure = draw(self.explanation(), self.columns()["alive"], title)
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=DPI)
        return stream.getvalue()


def draw(said: Explanation, alive: NDArray[np.bool_], title: str) -> Figure:
    """The panels, from top to bottom: order, values and credits, attention, what is missing.

    Args:
        said: of T steps.
        alive: which agents are, [T, N]; the others are left white.
        title: of the picture.
    """
    from matplotlib.figure import Figure

    panels = len(said.quantities) + (said.order is not None)
    heights = [PANEL_HEIGHT] * panels + [MATRIX_HEIGHT] * bool(said.attention)
    if said.missing:
        heights.append(0.4 + 0.18 * len(said.missing))
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.4), layout="constrained")
    figure.suptitle(title, fontsize=12)
    # What explains the colours stands in a narrow column, so that steps stand below each other.
    grid = figure.add_gridspec(len(heights), 2, height_ratios=heights, width_ratios=(45, 1))
    rows = iter(range(len(heights)))
    if said.order is not None:
        row = next(rows)
        axes, beside = (figure.add_subplot(grid[row, column]) for column in (0, 1))
        _draw_order(axes, beside, said, alive)
    for quantity in said.quantities:
        row = next(rows)
        axes, beside = (figure.add_subplot(grid[row, column]) for column in (0, 1))
        _draw_quantity(axes, beside, quantity, alive)
    if said.attention:
        matrices = grid[next(rows), :].subgridspec(1, len(said.attention))
        for column, one in enumerate(said.attention):
            _draw_attention(figure.add_subplot(matrices[0, column]), one)
    if said.missing:
        axes = figure.add_subplot(grid[next(rows), :])
        axes.set_axis_off()
        text = "Not shown\n" + "\n".join(f"- {line}" for line in said.missing)
        axes.text(0.0, 1.0, text, fontsize=9, va="top", color="0.35", transform=axes.transAxes)
    return figure


def _draw_order(axes: Axes, beside: Axes, said: Explanation, alive: NDArray[np.bool_]) -> None:
    """A cell per agent and step: when the agent decides."""
    assert said.order is not None
    positions = np.argsort(said.order.cpu().numpy(), axis=1) + 1  # [T, N]
    agents = positions.shape[1]
    axes.set_title(f"{said.order_title}: who is 1st, 2nd, ...", fontsize=10, loc="left")
    image = _heat_map(axes, np.where(alive, positions, np.nan), "viridis_r")
    image.set_clim(1, agents)
    axes.figure.colorbar(image, cax=beside, ticks=_ticks(agents) + 1)


def _draw_quantity(axes: Axes, beside: Axes, quantity: Quantity, alive: NDArray[np.bool_]) -> None:
    """Lines of few agents or of the team, colours of many; credits are colours around 0."""
    values = quantity.values.cpu().numpy().astype(float)  # [T, N], or [T, 1]
    axes.set_title(quantity.title, fontsize=10, loc="left")
    of_agents = values.shape[1] == alive.shape[1]
    if of_agents:
        values = np.where(alive, values, np.nan)
    if quantity.signed or values.shape[1] > FEW_AGENTS:
        image = _heat_map(axes, values, "RdBu" if quantity.signed else "viridis")
        if quantity.signed:
            most = float(np.nanmax(np.abs(values))) or 1.0
            image.set_clim(-most, most)
        axes.figure.colorbar(image, cax=beside)
        return
    beside.set_axis_off()
    for agent in range(values.shape[1]):
        colour = tuple(part / 255 for part in AGENT_COLOURS[agent])
        axes.plot(values[:, agent], color=colour, label=str(agent), linewidth=1.4)
    axes.set_xlim(-0.5, len(values) - 0.5)
    axes.set_xlabel("step", fontsize=9)
    axes.grid(alpha=0.3)
    if of_agents:
        handles, labels = axes.get_legend_handles_labels()
        beside.legend(handles, labels, fontsize=8, loc="center", frameon=False, handlelength=1.0)


def _draw_attention(axes: Axes, attention: Attention) -> None:
    """A matrix of one kind of layer; rows attend to columns, numbers are per cent."""
    weights = attention.weights.cpu().numpy()
    image = axes.imshow(weights, cmap="Blues", vmin=0.0, vmax=max(weights.max(), 1e-9))
    axes.set_title(attention.title, fontsize=9)
    rows, columns = _ticks(len(weights)), _ticks(len(attention.columns))
    axes.set_yticks(rows, [str(row) for row in rows], fontsize=8)
    axes.set_xticks(columns, [attention.columns[column] for column in columns], fontsize=8)
    axes.set_ylabel("agent that attends", fontsize=9)
    axes.set_xlabel("to what, per cent", fontsize=9)
    if len(weights) > FEW_AGENTS:
        axes.set_xlabel("to what", fontsize=9)
        axes.figure.colorbar(image, ax=axes, shrink=0.75, pad=0.02)
        return
    for row, column in np.ndindex(*weights.shape):
        weight = float(weights[row, column])
        colour = "white" if weight > 0.6 * weights.max() else "0.25"
        if weight > 0.0:
            axes.text(
                column, row, f"{100 * weight:.0f}", ha="center", va="center",
                fontsize=8, color=colour,
            )  # fmt: skip


def _heat_map(axes: Axes, values: NDArray[np.floating], colours: str) -> AxesImage:
    """A cell per agent and step, from numbers [T, N]; NaN is white."""
    image = axes.imshow(
        np.ma.masked_invalid(values.T), aspect="auto", interpolation="none", cmap=colours
    )
    agents = _ticks(values.shape[1])
    axes.set_yticks(agents, [str(agent) for agent in agents], fontsize=8)
    axes.set_ylabel("agent", fontsize=9)
    axes.set_xlabel("step", fontsize=9)
    return image


def _ticks(count: int) -> NDArray[np.int64]:
    """Up to twelve of the numbers below ``count``, evenly spaced."""
    return np.arange(0, count, max(1, -(-count // 12)))
