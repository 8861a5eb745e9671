"""A video of an episode, as an animated GIF, or a PNG of its last frame.

Frames are kept as PNG files in memory, a tenth of their size, and share one palette, so that a GIF
stores of each frame only what has moved.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from rllib_seqmarl.envs.core.rendering import check_pillow
from rllib_seqmarl.errors import UserError
from rllib_seqmarl.experiments.evaluate.watcher import Player, Watcher

if TYPE_CHECKING:
    from PIL.Image import Image

    from rllib_seqmarl.envs.core.contract import TeamVectorEnv
    from rllib_seqmarl.envs.core.rendering import Frame
    from rllib_seqmarl.rollout.rollout_batch import Columns

SUFFIXES = (".gif", ".png")

#: Steps per second where the environment's metadata have no ``render_fps``.
STEPS_PER_SECOND = 20.0
#: How long the last frame stands before a GIF starts again, in milliseconds.
LAST_FRAME_MS = 2000
#: From so many frames, evenly spaced, the colours of all are chosen.
PALETTE_FRAMES = 8


class Video(Watcher):
    """Renders env 0 before every ``every``-th step, and makes a file of the frames.

    The end of the episode is the last frame, where the environment keeps it.
    """

    def __init__(self, path: Path, every: int) -> None:
        """Checks what can be checked before anything is played.

        Args:
            path: of the file, which ends with .gif or .png; a PNG holds the last frame alone.
            every: how many steps lie between two frames.

        Raises:
            UserError: another suffix, no sensible ``every``, or Pillow missing.
        """
        if path.suffix.lower() not in SUFFIXES:
            raise UserError(f"--render: {path} must end with {' or '.join(SUFFIXES)}.")
        if every < 1:
            raise UserError(f"--render-every must be at least 1, got {every}.")
        check_pillow("--render")
        self._every = every
        self._still = path.suffix.lower() == ".png"
        self._steps = 0
        self._frames: list[bytes] = []
        self._steps_per_second = STEPS_PER_SECOND

    def add_frame(self, env: TeamVectorEnv) -> None:
        """To be called before each step of the episode.

        Raises:
            UserError: the environment cannot be drawn.
        """
        if self._still or self._steps % self._every == 0:
            self._add(env.render_frame(0))
        self._steps += 1
        self._steps_per_second = env.metadata.get("render_fps", STEPS_PER_SECOND)

    def add_final_frame(self, env: TeamVectorEnv) -> None:
        """To be called after the last step of the episode."""
        frame = env.render_final_frame(0)
        if frame is not None:
            self._add(frame)

    def on_step(self, player: Player, decided: Columns) -> None:
        """See `Watcher.on_step`."""
        assert player.env is not None
        self.add_frame(player.env)

    def on_episode_end(self, player: Player) -> None:
        """See `Watcher.on_episode_end`."""
        assert player.env is not None
        if player.is_cut:
            self._add(player.env.render_frame(0))
        else:
            self.add_final_frame(player.env)

    def _add(self, frame: Frame) -> None:
        from PIL import Image

        if self._still:
            self._frames.clear()
        stream = io.BytesIO()
        Image.fromarray(frame).save(stream, "PNG", compress_level=1)
        self._frames.append(stream.getvalue())

    def encode(self) -> bytes:
        """The content of the file."""
        if self._still:
            return self._frames[-1]
        from PIL.Image import Dither

        palette = self._palette()
        first, *others = (
            self._frame(number).quantize(palette=palette, dither=Dither.NONE)
            for number in range(len(self._frames))
        )
        # GIF counts in hundredths of a second, and viewers slow down what is faster than two.
        milliseconds = max(2, round(100 * self._every / self._steps_per_second)) * 10
        stream = io.BytesIO()
        first.save(
            stream,
            "GIF",
            save_all=True,
            append_images=others,
            duration=[milliseconds] * len(others) + [LAST_FRAME_MS],
            loop=0,
        )
        return stream.getvalue()

    def _palette(self) -> Image:
        """The 256 colours that suit some frames from the whole episode."""
        from PIL import Image

        step = -(-len(self._frames) // PALETTE_FRAMES)
        chosen = [self._frame(number) for number in range(0, len(self._frames), step)]
        width, height = chosen[0].size
        strip = Image.new("RGB", (width, height * len(chosen)))
        for number, frame in enumerate(chosen):
            strip.paste(frame, (0, number * height))
        return strip.quantize(256)

    def _frame(self, number: int) -> Image:
        from PIL import Image

        return Image.open(io.BytesIO(self._frames[number]))
