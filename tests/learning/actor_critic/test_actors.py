"""Rows, values and modules of actors with a central critic: MAPPO, HAPPO, A2PO."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.learners import learner_of

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.experiments.evaluate.evaluation import evaluate_checkpoint, evaluate_policy
from rllib_seqmarl.experiments.share.policy_file import SharedPolicy, export
from rllib_seqmarl.learning.actor_critic.module import ACTOR_HIDDEN, CRITIC_HIDDEN
from rllib_seqmarl.nets.agents.stacked import RecurrentState
from rllib_seqmarl.rollout.rollout_batch import (
    ACTION_MASK,
    ACTIONS,
    IS_FIRST,
    LOG_PROB,
    OBS,
    STATE,
    TERMINATED,
    TRUNCATED,
)

#: Agents that see different things; rollouts of ten steps hold ends in mid-chunk, and chunks begin
#: in mid-episode.
GAMES: dict[str, Any] = {
    "discrete": {
        "env": "mpe",
        "env_config": {"episode_length": 3, "state": True, "rules": "mpe2"},
    },
    "continuous": {
        "env": "dubins_car",
        "env_config": {"num_agents": 3, "episode_length": 3, "obstacles": 0, "state": True},
    },
}
T, E, L = 10, 3, 2
SIZES = {"num_envs_per_env_runner": E, "rollout_fragment_length": T, "chunk_length": L}


def build(small: Any, name: str = "MAPPO", game: str = "discrete", **settings: Any) -> Any:
    """An algorithm and its learner."""
    algorithm = small(name, **GAMES[game], **SIZES | settings).build_algo()
    return algorithm, learner_of(algorithm)


@pytest.mark.parametrize("recurrent", [False, True], ids=["feed-forward", "recurrent"])
@pytest.mark.parametrize("share", [True, False], ids=["shared", "separate"])
@pytest.mark.parametrize("game", GAMES)
def test_rows_say_what_the_rollout_did(game: str, share: bool, recurrent: bool, small: Any) -> None:
    """Before the first step log-probs and values are those of the acting; so are bootstraps."""
    state = "environment" if share else "environment_and_observation"
    algorithm, learner = build(
        small,
        game=game,
        share_parameters=share,
        share_critic=share,
        recurrent=recurrent,
        state=state,
        lr=1e-2,
        critic_lr=1e-2,
    )
    algorithm.train()  # weights away from the initialisation, envs in mid-episode
    rollout, following = (algorithm.env_runner.sample()[0] for _ in range(2))
    rows, later = learner.build_train_batch(rollout), learner.build_train_batch(following)
    core = learner.core
    out = core.forward_train(rows)
    assert rows.log_prob.std() > 1e-3
    torch.testing.assert_close(out.log_prob, rows.log_prob, atol=1e-5, rtol=0)
    torch.testing.assert_close(core.values(rows), rows.old_values, atol=1e-5, rtol=0)
    assert rows.old_values.std() > 1e-3
    assert not any(column.requires_grad for _, column in rows.columns())

    for flat in (rows.old_values, rows.log_prob):  # to rows and back
        column = learner.from_rows(flat, E)
        torch.testing.assert_close(learner.to_rows(column), flat, atol=0, rtol=0)
        assert column.shape[:2] == (T, E)
    np.testing.assert_array_equal(learner.from_rows(rows.log_prob, E), rollout.columns[LOG_PROB])

    # What follows the last row is the first row of the next rollout, of which memory is a part.
    columns = {name: torch.as_tensor(column) for name, column in rollout.columns.items()}
    inputs = core.actor_input(columns)[:T], core.critic_input(columns)
    old, after, _ = learner.rollout_values(rollout, columns, *inputs)
    next_old = learner.from_rows(later.old_values, E)
    ends = rollout.columns[TERMINATED] | rollout.columns[TRUNCATED]
    assert ends.any()
    assert not ends[-1].all()
    goes_on = torch.as_tensor(~ends)
    torch.testing.assert_close(after[:-1][goes_on[:-1]], old[1:][goes_on[:-1]])
    torch.testing.assert_close(after[-1][goes_on[-1]], next_old[0][goes_on[-1]], atol=1e-5, rtol=0)
    algorithm.stop()


def test_chunks_are_truncated_backpropagation_through_time(small: Any) -> None:
    """Against one step after another, whose state is cut from its past at every L-th step."""
    algorithm, learner = build(small, recurrent=True, share_parameters=False)
    algorithm.train()
    rollout = algorithm.env_runner.sample()[0]
    rows, core = learner.build_train_batch(rollout), learner.core
    weight = torch.randn(T, E, 3)

    def gradients(log_prob: torch.Tensor) -> list[torch.Tensor]:
        return list(torch.autograd.grad((log_prob * weight).sum(), list(core.actor.parameters())))

    found = gradients(learner.from_rows(core.evaluate(rows).log_prob, E)[..., 0])
    c = {name: torch.as_tensor(column) for name, column in rollout.columns.items()}
    hidden = torch.as_tensor(rollout.recurrent_state[ACTOR_HIDDEN])
    obs = core.actor_input(c)
    log_probs = []
    for t in range(T):
        if t % L == 0:
            hidden = hidden.detach()
        out = core.actor(obs[t].unsqueeze(1), RecurrentState(hidden, c[IS_FIRST][t].unsqueeze(1)))
        hidden = out.hidden[:, 0]
        mask, actions = c[ACTION_MASK][t], c[ACTIONS][t]
        log_probs.append(core.categorical.log_prob(out.values[:, 0], mask, actions)[..., 0])
    expected = gradients(torch.stack(log_probs))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-3)
    algorithm.stop()


@pytest.mark.parametrize("recurrent", [False, True], ids=["feed-forward", "recurrent"])
@pytest.mark.parametrize(
    ("state", "share_critic"),
    [("environment", True), ("environment", False), ("environment_and_observation", False)],
)
def test_rows_of_some_agents_are_their_columns(
    state: str, share_critic: bool, recurrent: bool, small: Any
) -> None:
    algorithm, learner = build(
        small,
        recurrent=recurrent,
        share_parameters=False,
        state=state,
        share_critic=share_critic,
    )
    algorithm.train()
    rows, core = learner.build_train_batch(algorithm.env_runner.sample()[0]), learner.core
    everybody = core.evaluate(rows)
    agents = [2, 0]
    own = learner.of_agents(rows, agents)
    some = core.evaluate(own, agents)
    torch.testing.assert_close(some.log_prob, everybody.log_prob[..., agents, :])
    torch.testing.assert_close(core.values(own, agents), core.values(rows)[..., agents])
    torch.testing.assert_close(own.advantages, rows.advantages[..., agents])
    if recurrent:
        torch.testing.assert_close(own.is_first, rows.is_first)
    algorithm.stop()


@pytest.mark.parametrize("state", ["observation", "observations", "environment"])
@pytest.mark.parametrize("recurrent", [False, True], ids=["feed-forward", "recurrent"])
def test_what_a_value_depends_on(state: str, recurrent: bool, small: Any) -> None:
    """IPPO's on the agent's observation alone, a team's value on all of them or on the state."""
    algorithm, learner = build(small, state=state, recurrent=recurrent)
    algorithm.train()
    rollout = algorithm.env_runner.sample()[0]
    before = learner.build_train_batch(rollout).old_values
    generator = np.random.default_rng(0)
    rollout.columns[OBS][..., 0, :] += generator.normal(size=rollout.columns[OBS][..., 0, :].shape)
    change = (
        (learner.build_train_batch(rollout).old_values - before).abs().flatten(0, -2).amax(0)
    )  # [N]
    of_all = state != "observation"
    assert (change[0] > 1e-4) == (state != "environment")
    assert bool((change[1:] > 1e-4).all()) == (state == "observations")
    assert bool((change[1:] == 0).all()) == (state != "observations")
    assert bool((before == before[..., :1]).all()) == of_all
    if state == "environment":
        rollout.columns[STATE][:] += generator.normal(size=rollout.columns[STATE].shape)
        assert ((learner.build_train_batch(rollout).old_values - before).abs() > 1e-4).any()
    algorithm.stop()


def test_a_critic_of_state_and_observation_reads_both(small: Any) -> None:
    algorithm, learner = build(small, state="environment_and_observation", feature_norm=False)
    rollout = algorithm.env_runner.sample()[0]
    read = learner.from_rows(learner.build_train_batch(rollout).critic_input, E)
    c = rollout.columns
    for agent in range(3):
        both = np.concatenate((c[STATE][:T], c[OBS][:T, :, agent]), axis=-1)
        np.testing.assert_array_equal(read[:, :, agent], both)
    algorithm.stop()


@pytest.mark.parametrize("recurrent", [False, True], ids=["feed-forward", "recurrent"])
def test_a_rollout_has_no_critic_that_it_does_not_need(recurrent: bool, small: Any) -> None:
    algorithm, learner = build(small, recurrent=recurrent, state="environment")
    runner = algorithm.env_runner.module
    assert hasattr(runner, "critic") == recurrent
    assert not hasattr(runner, "value_norm")
    sent = learner.core.get_state(inference_only=True)
    assert any(name.startswith("critic.") for name in sent) == recurrent
    assert runner.state_dict().keys() == sent.keys()
    assert set(runner.get_initial_state()) == (
        {ACTOR_HIDDEN, CRITIC_HIDDEN} if recurrent else set()
    )
    algorithm.stop()


@pytest.mark.parametrize("recurrent", [False, True], ids=["feed-forward", "recurrent"])
def test_shared_actors_play_with_any_number_of_agents(
    recurrent: bool, small: Any, tmp_path: Path
) -> None:
    """Also where the critic, which an evaluation does without, is of that number."""
    algorithm, _ = build(small, game="continuous", recurrent=recurrent, state="environment")
    path = algorithm.save_to_path(str(tmp_path / "checkpoint"))
    algorithm.stop()
    settings: dict[str, Any] = {"episodes": 2, "seed": 0}
    settings |= {"env_config": {"num_agents": 5, "state": False}}
    played = evaluate_checkpoint(path, **settings)
    assert played["episodes"] == 2
    export(Path(path), tmp_path / "policy.safetensors")
    policy = SharedPolicy(tmp_path / "policy.safetensors")
    assert evaluate_policy(policy, **settings)["per_episode"] == played["per_episode"]


@pytest.mark.parametrize("agents", [2, 5])
def test_actors_of_their_own_do_not(agents: int, small: Any, tmp_path: Path) -> None:
    algorithm, _ = build(small, game="continuous", share_parameters=False)
    path = algorithm.save_to_path(str(tmp_path / "checkpoint"))
    algorithm.stop()
    with pytest.raises(UserError, match=r"does not fit.*3 actors, one for each") as caught:
        evaluate_checkpoint(path, episodes=2, env_config={"num_agents": agents})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "settings"),
    [("MAPPO", {}), ("HAPPO", {"recurrent": True}), ("A2PO", {"share_parameters": True})],
)
@pytest.mark.parametrize("continuous", [False, True])
def test_agents_may_differ_in_observations_and_actions(
    name: str,
    settings: dict[str, Any],
    continuous: bool,
    small: Any,
) -> None:
    """What an agent lacks has no probability and no entropy."""
    game = {"continuous": continuous, "actions": (1, 2, 3), "limit": 4}
    config = small(
        name,
        env="pettingzoo",
        env_config={"env": "helpers.small_games:Herd", "kwargs": game},
        **SIZES | settings,
    )
    algorithm = config.build_algo()
    result = algorithm.train()["learners"]["default_policy"]
    assert np.isfinite(result["total_loss"])
    learner = learner_of(algorithm)
    rows = learner.build_train_batch(algorithm.env_runner.sample()[0])
    out = learner.core.evaluate(rows)
    torch.testing.assert_close(out.log_prob, rows.log_prob, atol=1e-5, rtol=0)
    if continuous:
        exists = torch.ones(3, 3, dtype=torch.bool).tril()
        assert (rows.action_mask == exists).all()
        assert (out.log_prob[..., ~exists] == 0).all()
        assert (rows.actions[..., ~exists] == 0).all()
        entropy = out.entropy.flatten(0, -2)
        assert (entropy[:, 2] != entropy[:, 0]).all()
    else:  # the first agent has one action, and no choice
        assert (out.log_prob[..., 0, :] == 0).all()
        assert (out.entropy[..., 0] == 0).all()
        assert (out.entropy[..., 1:] > 0.1).all()
    algorithm.stop()


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"hidden_sizes": []}, "'hidden_sizes' must list the widths"),
        ({"hidden_sizes": [16, 0]}, "'hidden_sizes' must list the widths"),
        ({"hidden_sizes": [16, True]}, "'hidden_sizes' must list the widths"),
        ({"hidden_sizes": 64}, "'hidden_sizes' must list the widths"),
        ({"activation": "gelu"}, "'activation' must be one of relu, tanh"),
        ({"state": "everything"}, "'state' must be one of environment, "),
        ({"state": "environment"}, "the critic reads the environment's state"),
        ({"state": "environment_and_observation"}, "the critic reads the environment's state"),
        ({"recurrent": True, "chunk_length": 4}, r"'chunk_length' \(4\) must divide"),
        (
            {"recurrent": True, "chunk_length": 5, "minibatch_size": 4},
            "'minibatch_size' .4. holds no whole chunk",
        ),
        ({"chunk_length": 2.5}, "'chunk_length' must be a whole number"),
        ({"critic_lr": -1.0}, "'critic_lr' must not be negative"),
        ({"lambda_": 1.5}, "'lambda_' must lie between 0 and 1"),
        ({"feature_norm": 1}, "'feature_norm' must be true or false"),
    ],
)
def test_what_cannot_be_meant_is_refused(settings: dict[str, Any], line: str, small: Any) -> None:
    with pytest.raises(UserError, match=line) as caught:
        small("MAPPO", **settings).validate()
    assert "\n" not in str(caught.value)


def test_an_environment_of_ones_own_without_a_state_is_refused(small: Any) -> None:
    env = "rllib_seqmarl.envs.toy.distinct_actions:make"
    with pytest.raises(UserError, match="the critic reads the environment's state"):
        small("MAPPO", env=env, state="environment").build_algo()
