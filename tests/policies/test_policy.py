"""What a policy is asked about: the form of observations, and episodes that begin."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.layout import Layout
from rllib_seqmarl.nets.acting.base import TeamInputs
from rllib_seqmarl.nets.acting.build import build_actor
from rllib_seqmarl.nets.transformer.model import ActionSpec
from rllib_seqmarl.policies.policy import Policy

N, D, A = 3, 4, 5


def make_policy(kind: str, obs_bytes: bool = False, **settings: object) -> Policy:
    shapes = {"obs": (N, D), "alive": (N,), "action_mask": (N, A)}
    inputs = TeamInputs(shapes, Layout.vector(D), obs_bytes, ActionSpec(A, discrete=True), N)
    settings = {"observation_encoder": None, **settings}
    actor = build_actor(kind, inputs, settings)
    return Policy(actor, inputs, algorithm="MAT", env="none", env_config={})


@pytest.fixture
def recurrent() -> Policy:
    return make_policy("recurrent", hidden_dim=8, epsilon=None, greedy=False)


def seen(envs: int | None = None) -> dict[str, Any]:
    leading = () if envs is None else (envs,)
    return {
        "obs": np.ones((*leading, N, D), np.float32),
        "alive": np.ones((*leading, N), np.bool_),
        "action_mask": np.ones((*leading, N, A), np.bool_),
    }


WRONG: dict[str, tuple[Any, str]] = {
    "no mapping": (np.zeros((N, D)), "must be a mapping.*ndarray"),
    "missing": ({"action_mask": seen()["action_mask"]}, r"lack 'obs'.*\[3, 4\]"),
    "no mask": ({"obs": seen()["obs"]}, r"lack 'action_mask'.*\[3, 5\]"),
    "unknown": (seen() | {"observation": 1}, "unknown observation 'observation'"),
    "width": (seen() | {"obs": np.zeros((N, D + 1))}, r"'obs' must have shape \[3, 4\].*\[3, 5\]"),
    "batch": (seen(2) | {"action_mask": seen()["action_mask"]}, r"\[2, 3, 5\].*got \[3, 5\]"),
    "nobody": (seen(0), "no team at all"),
    "type": (seen() | {"obs": np.zeros((N, D), complex)}, "real numbers, got complex128"),
    "mask's type": (seen() | {"action_mask": np.ones((N, A))}, "booleans, got float64"),
    "not finite": (seen() | {"obs": np.full((N, D), np.nan)}, "not finite"),
    "nothing to do": (
        seen() | {"action_mask": np.arange(N)[:, None].repeat(A, 1) != 1},
        "leaves agent 1 without any action",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_observations_of_another_form_give_one_line(case: str, recurrent: Policy) -> None:
    observations, expected = WRONG[case]
    with pytest.raises(UserError, match=expected) as caught:
        recurrent.act(observations)
    assert "\n" not in str(caught.value)


def test_episodes_begin_where_they_are_said_to(recurrent: Policy) -> None:
    first = recurrent.act(seen(2)).log_prob
    second = recurrent.act(seen(2)).log_prob
    assert (first != second).all()
    for began in ([1], np.array([1]), np.array([False, True])):
        recurrent.reset()
        recurrent.act(seen(2))
        recurrent.reset(began)
        third = recurrent.act(seen(2)).log_prob
        np.testing.assert_array_equal(third, [second[0], first[0]])
    recurrent.reset([])
    assert (recurrent.act(seen(2)).log_prob[1] == second[1]).all()
    recurrent.reset()
    np.testing.assert_array_equal(recurrent.act(seen()).log_prob, first[0])


def test_environments_that_are_not_there_give_one_line(recurrent: Policy) -> None:
    with pytest.raises(UserError, match="no environment is under way"):
        recurrent.reset([0])
    recurrent.act(seen(2))
    for wrong in ([2], [-1], [0.5], np.ones(3, np.bool_)):
        with pytest.raises(UserError, match="numbers below 2, or booleans"):
            recurrent.reset(wrong)
    with pytest.raises(UserError, match="observations of 3 environments, and of 2"):
        recurrent.act(seen(3))


def test_a_device_that_is_not_there_gives_one_line(recurrent: Policy) -> None:
    with pytest.raises(UserError, match="device 'cpuu' cannot be used"):
        Policy(
            recurrent.actor,
            recurrent.inputs,
            algorithm="MAT",
            env="none",
            env_config={},
            device="cpuu",
        )


def test_a_policy_trained_on_bytes_reads_bytes() -> None:
    policy = make_policy("sequential", obs_bytes=True, embed_dim=8, value=None)
    bytes_ = seen() | {"obs": np.full((N, D), 255, np.uint8)}
    ones = make_policy("sequential", embed_dim=8, value=None)
    ones.actor.load_state_dict(policy.actor.state_dict())
    np.testing.assert_array_equal(policy.act(bytes_).log_prob, ones.act(seen()).log_prob)
    with pytest.raises(UserError, match=r"bytes .uint8., as in training, got float32"):
        policy.act(seen())


def test_results_belong_to_the_caller() -> None:
    policy = make_policy("sequential", embed_dim=8, order="random", value=None)
    decision = policy.act(seen(2), deterministic=False)
    assert decision.actions.dtype == decision.order.dtype == np.int64
    assert decision.log_prob.dtype == np.float32
    np.testing.assert_array_equal(np.sort(decision.order), [[0, 1, 2]] * 2)
    for part in decision:
        part[:] = 0  # writable
