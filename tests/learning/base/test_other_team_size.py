"""Training that goes on with another team, or in another environment, from a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.experiments.spec.check import check
from rllib_seqmarl.experiments.spec.experiment import ExperimentSpec
from rllib_seqmarl.experiments.train.run import _check_restore

STEPS = "num_env_steps_sampled_lifetime"


@pytest.fixture
def trained(small: Any, tmp_path: Path) -> Any:
    """Trains twice and saves; gives the algorithm and the path of its checkpoint."""
    algorithms = []

    def trained(name: str, env: str, env_config: dict[str, Any], **settings: Any) -> Any:
        config = small(name, **settings).environment(env, env_config=env_config)
        algorithm = config.build_algo()
        algorithms.append(algorithm)
        for _ in range(2):
            algorithm.train()
        return algorithm, algorithm.save_to_path(str(tmp_path / "checkpoint"))

    yield trained
    for algorithm in algorithms:
        algorithm.stop()


def goes_on(small: Any, path: str, name: str, env: str, env_config: Any, **settings: Any) -> Any:
    algorithm = small(name, **settings).environment(env, env_config=env_config).build_algo()
    algorithm.restore_from_path(path)
    return algorithm


def weights(algorithm: Any) -> dict[str, Any]:
    state = algorithm.learner_group.get_state()["learner"]["rl_module"]["default_policy"]
    return {name: np.asarray(value) for name, value in state.items()}


def moments(algorithm: Any) -> list[Any]:
    optimizers = algorithm.learner_group.get_state()["learner"]["optimizer"].values()
    return [state for one in optimizers for state in one["state"]["state"].values()]


@pytest.mark.parametrize(
    ("name", "settings"),
    [("MAT", {}), ("SrSv", {}), ("PMAT", {}), ("AOADMAT", {"next_agent_head": "pointer"})],
)
def test_cars_go_on_as_more_cars(
    name: str, settings: dict[str, Any], small: Any, trained: Any
) -> None:
    before, path = trained(name, "dubins_car", {"num_agents": 3}, **settings)
    after = goes_on(small, path, name, "dubins_car", {"num_agents": 5}, **settings)

    expected, found = weights(before), weights(after)
    assert expected.keys() == found.keys()
    assert all(np.array_equal(value, found[key]) for key, value in expected.items())
    assert len(moments(before)) == len(moments(after)) > 0
    result = after.train()
    after.stop()
    assert "num_agents was 3 and is 5: new episodes start." in result["notice"]
    assert "left out" not in result["notice"]
    assert result["training_iteration"] == 3
    assert result[STEPS] == 240
    assert not after.train()["notice"]


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("AOADMAT", {}),
        ("MAPPO", {}),
        ("COMA", {}),
        ("RIIT", {"replay_capacity": 20, "replay_batch_size": 4}),
    ],
)
def test_weights_of_another_shape_are_named_and_begin_anew(
    name: str, settings: dict[str, Any], small: Any, trained: Any
) -> None:
    game = {"num_actions": 5, "episode_length": 3}
    before, path = trained(name, "distinct_actions", {**game, "num_agents": 3}, **settings)
    after = goes_on(small, path, name, "distinct_actions", {**game, "num_agents": 4}, **settings)

    expected, found = weights(before), weights(after)
    kept = {key for key in expected if expected[key].shape == found[key].shape}
    assert 0 < len(kept) < len(expected)
    assert all(np.array_equal(expected[key], found[key]) for key in kept)
    assert len(moments(after)) < len(moments(before))
    notice = after.train()["notice"]
    after.stop()
    assert "num_agents was 3 and is 4" in notice
    assert all(key in notice for key in expected.keys() - kept)
    assert not any(f"{key}," in notice for key in kept)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"num_blocks": 1}, {"num_blocks": 2}),
        ({"num_blocks": 2}, {"num_blocks": 1}),
        ({"embed_dim": 16}, {"embed_dim": 32}),
    ],
)
def test_another_network_is_refused(
    before: dict[str, Any], after: dict[str, Any], small: Any, trained: Any
) -> None:
    _, path = trained("MAT", "distinct_actions", {}, **before)
    with pytest.raises(UserError, match="another network"):
        goes_on(small, path, "MAT", "distinct_actions", {}, **after)
    # The command says so before it starts anything.
    settings = {"env": "distinct_actions", "embed_dim": 16}
    for changes in before, after:
        spec = ExperimentSpec("x", "f.yaml", "MAT", {**settings, **changes})
        spec.restore = path
        if changes is before:
            _check_restore(spec, Path(path), check(spec))
            continue
        with pytest.raises(UserError, match=r"f.yaml: restore: .*another network") as caught:
            _check_restore(spec, Path(path), check(spec))
        assert "\n" not in str(caught.value)


def test_runners_take_the_weights_of_a_checkpoint_of_the_same_number(
    small: Any, trained: Any
) -> None:
    """Two runs of equally many updates: their weights have the same number and are others."""
    before, path = trained("MAT", "distinct_actions", {})
    other = small("MAT", seed=8).build_algo()
    for _ in range(2):
        other.train()
    other.restore_from_path(path)
    acting = other.env_runner.module.get_state()
    learned = weights(before)
    other.stop()
    assert acting.keys() <= learned.keys()
    assert all(np.array_equal(value, learned[name]) for name, value in acting.items())


def test_episodes_of_another_shape_do_not_go_on(small: Any, trained: Any) -> None:
    """A checkpoint of a version that did not say what had been played."""
    before, _ = trained("MAT", "dubins_car", {"num_agents": 3})
    state = before.env_runner.get_state()
    del state["envs"]["played"]
    after = small("MAT", env="dubins_car", env_config={"num_agents": 5}).build_algo()
    after.env_runner.set_state({"envs": state["envs"]})
    assert after.env_runner._obs is None
    after.train()
    after.stop()


def test_actors_of_their_own_take_no_other_number(small: Any, trained: Any) -> None:
    _, path = trained("HAPPO", "dubins_car", {"num_agents": 3})
    with pytest.raises(UserError, match="share_parameters"):
        goes_on(small, path, "HAPPO", "dubins_car", {"num_agents": 4})


def test_an_equal_environment_goes_on_in_its_episodes(small: Any, trained: Any) -> None:
    before, path = trained("MAT", "dubins_car", {"num_agents": 3})
    after = goes_on(small, path, "MAT", "dubins_car", {"num_agents": 3})
    results = [one.train() for one in (before, after)]
    after.stop()
    assert not results[1]["notice"]
    losses = [result["learners"]["default_policy"]["total_loss"] for result in results]
    assert losses[0] == losses[1]
