"""Videos of episodes, read back with Pillow."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from rllib_seqmarl import registry
from rllib_seqmarl.envs.toy.distinct_actions import DistinctActions
from rllib_seqmarl.errors import UserError
from rllib_seqmarl.experiments.evaluate.video import Video

LENGTH = 10
WHITE, RED = (255, 255, 255), (255, 0, 0)


class Drawn(DistinctActions):
    """A white strip on which a red square moves on with every step."""

    final: NDArray[np.uint8] | None = None

    def render_frame(self, e: int = 0) -> NDArray[np.uint8]:
        strip = np.full((20, 20 * LENGTH, 3), WHITE, np.uint8)
        time = int(self._time[e])
        strip[:, 20 * time : 20 * (time + 1)] = RED
        return strip

    def render_final_frame(self, e: int = 0) -> NDArray[np.uint8] | None:
        return self.final


def video_of_an_episode(
    path: str, every: int, final: NDArray[np.uint8] | None = None, **metadata: Any
) -> Image.Image:
    config = {"num_agents": 2, "episode_length": LENGTH}
    env = Drawn(1, registry.environment("distinct_actions").read(config))
    env.metadata |= metadata
    env.final = final
    env.reset(seed=0)
    video = Video(Path(path), every)
    for _ in range(LENGTH):
        video.add_frame(env)
        env.step(np.zeros((1, 2), np.int64))
    video.add_final_frame(env)
    return Image.open(io.BytesIO(video.encode()))


def times(video: Image.Image) -> list[int]:
    """Of each frame: where the square is."""
    found = []
    for number in range(video.n_frames):
        video.seek(number)
        frame = np.array(video.convert("RGB"))
        red = (frame == RED).all(-1)
        assert (red | (frame == WHITE).all(-1)).all()
        found.append(int(red.any(0).argmax()) // 20)
    return found


def durations(video: Image.Image) -> list[float]:
    found = []
    for number in range(video.n_frames):
        video.seek(number)
        found.append(video.info["duration"])
    return found


@pytest.mark.parametrize("cut", [False, True])
def test_an_episode_that_was_cut_short_ends_where_it_was(cut: bool) -> None:
    env = Drawn(
        1,
        registry.environment("distinct_actions").read({"num_agents": 2, "episode_length": LENGTH}),
    )
    env.final = np.zeros((20, 20 * LENGTH, 3), np.uint8)
    env.reset(seed=0)
    for _ in range(3):
        env.step(np.zeros((1, 2), np.int64))
    video = Video(Path("end.png"), 1)
    player: Any = SimpleNamespace(env=env, is_cut=cut)
    video.on_episode_end(player)
    image = Image.open(io.BytesIO(video.encode()))
    if cut:
        assert times(image) == [3]
    else:
        assert not np.array(image.convert("RGB")).any()  # what the env kept of the end


@pytest.mark.parametrize("every", [1, 2, 3, 10])
def test_a_gif_shows_every_nth_step(every: int) -> None:
    video = video_of_an_episode("video.gif", every)
    assert video.format == "GIF"
    assert times(video) == list(range(0, LENGTH, every))


def test_a_gif_runs_at_the_speed_of_the_env() -> None:
    video = video_of_an_episode("video.gif", 2, render_fps=100 / 3)
    assert video.info["loop"] == 0
    assert durations(video) == [60, 60, 60, 60, 2000]
    assert durations(video_of_an_episode("video.gif", 5)) == [250, 2000]
    assert durations(video_of_an_episode("video.GIF", 5, render_fps=1000)) == [20, 2000]


def test_a_png_shows_the_last_step_whatever_lies_between() -> None:
    video = video_of_an_episode("video.png", 4)
    assert video.format == "PNG"
    assert times(video) == [LENGTH - 1]


@pytest.mark.parametrize("path", ["video.gif", "video.png"])
def test_the_end_of_the_episode_is_the_last_frame_where_it_is_kept(path: str) -> None:
    end = np.full((20, 20 * LENGTH, 3), RED, np.uint8)
    video = video_of_an_episode(path, 4, final=end)
    frames = {"video.gif": 4, "video.png": 1}[path]
    assert getattr(video, "n_frames", 1) == frames
    video.seek(frames - 1)
    assert (np.array(video.convert("RGB")) == RED).all()


@pytest.mark.parametrize(
    ("path", "every", "message"),
    [
        ("video.mp4", 2, "--render: video.mp4 must end with .gif or .png"),
        ("video", 2, "--render: video must end with .gif or .png"),
        ("video.gif", 0, "--render-every must be at least 1, got 0"),
    ],
)
def test_what_is_refused(path: str, every: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Video(Path(path), every)


def test_missing_pillow_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "PIL" else find(name)
    )
    with pytest.raises(UserError, match=r"--render .+ pip install 'rllib-seqmarl\[render\]'"):
        Video(Path("video.gif"), 2)
