"""Every numeric setting of every algorithm and environment: what is no such number is refused."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest

from rllib_seqmarl import registry
from rllib_seqmarl.errors import UserError
from rllib_seqmarl.learning.base.config import check_setting
from rllib_seqmarl.learning.base.rllib_settings import RLlibSettings
from rllib_seqmarl.settings import Setting, settings_of

#: No setting takes these.
NEVER: list[Any] = [
    math.nan, math.inf, -math.inf, True, "3", "", 10**400, [], {}, {"a": 1}, 3j,
    [[0, math.nan], [1, 0.1]], [[0, 0.1], [5, -math.inf]], [[0, 0.1], [10**400, 0.1]],
]  # fmt: skip
#: A whole number is neither of these.
NEVER_WHOLE: list[Any] = [2.5, 1e30, 2**63, 1e400]
#: What may be below 0: none but a reward.
NEGATIVE = {"won_battle_bonus", "min_gap"}
#: What may be 0, where 0 says something: off, none, no bound, the first, or no weight.
ZERO = {
    "agent_obsk", "alpha1", "alpha2", "area", "clip_growth", "critic_lr", "entropy_coeff",
    "epsilon", "episode_length", "evaluation_num_env_runners", "first_agent", "gamma", "lambda_",
    "local_ratio", "lr", "max_episode_steps", "max_travel", "min_gap", "min_travel", "num_actions",
    "num_agents", "num_cpus_for_main_process", "num_cpus_per_env_runner", "num_cpus_per_learner",
    "num_env_runners", "num_gpus_per_env_runner", "num_gpus_per_learner", "num_learners",
    "num_neighbours", "obstacles", "order_entropy_coeff", "ranking_coeff", "replay_capacity",
    "seed", "value_norm_beta", "vf_loss_coeff", "w_collision", "w_goal", "w_nominal", "w_progress",
    "w_step", "won_battle_bonus",
}  # fmt: skip


def is_numeric(setting: Setting) -> bool:
    return any(name in str(setting.kind) for name in ("int", "float"))


def refused(setting: Setting, value: object) -> bool:
    try:
        setting.check(value, "config key")
    except UserError as error:
        line = str(error)
        assert repr(setting.name) in line
        assert "\n" not in line
        assert len(line) < 700
        return True
    return False


def settings() -> Iterator[tuple[str, Setting]]:
    owners = {name: registry.config_class(name) for name in registry.ALGORITHMS}
    owners |= {
        name: registry.import_target(entry.config, "environment")
        for name, entry in registry.ENVIRONMENTS.items()
    }
    for owner, cls in {**owners, "RLlib": RLlibSettings}.items():
        for setting in settings_of(cls).values():
            if is_numeric(setting):
                yield owner, setting


def test_what_is_no_such_number_is_refused() -> None:
    checked, taken = 0, []
    for owner, setting in settings():
        listed = any(word in setting.type_words for word in ("list", "mapping"))
        whole = "int" in str(setting.kind) and "float" not in str(setting.kind)
        values = NEVER + (NEVER_WHOLE if whole else [])
        values += [] if setting.name in NEGATIVE else [-1, -0.5, -1e-300, -(2**63)]
        values += [] if setting.name in ZERO else [0]
        for value in values:
            if listed and isinstance(value, list | dict):
                continue
            checked += 1
            if not refused(setting, value):
                taken.append((owner, setting.name, value))
    assert taken == []
    assert checked > 4_000


def test_what_a_number_may_be_is_taken() -> None:
    """The table above says no more than is true: each name in it takes its 0."""
    at_zero = {
        setting.name for _, setting in settings() if not refused(setting, 0) and "list" not in
        setting.type_words
    }  # fmt: skip
    assert at_zero == ZERO


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("env_runner_health_probe_timeout_s", -1, "must lie between 0 and"),
        ("env_runner_restore_timeout_s", 1e30, "must lie between 0 and"),
        ("max_requests_in_flight_per_env_runner", 0, "must be above 0"),
        ("num_consecutive_env_runner_failures_tolerance", -1, "must not be negative"),
        ("max_num_env_runner_restarts", 2.5, "must be a whole number"),
        ("min_train_timesteps_per_iteration", -1, "must not be negative"),
        ("embed_dim", 10**6, "must be above 0 and at most 16,384"),
        ("num_blocks", 10**6, "must be above 0 and at most 1000"),
        ("num_epochs", 2**40, "must be at most 2,147,483,647"),
        ("sample_timeout_s", 1e30, "must be above 0 and at most"),
        ("num_threads_per_learner", 10**6, "must be above 0 and at most 4096"),
        ("lr", list(range(1_000)), "and so on"),
    ],
)
def test_numbers_of_rllib_and_sizes(name: str, value: object, message: str) -> None:
    with pytest.raises(UserError) as caught:
        check_setting(registry.config_class("MAT")(), name, value, "config key")
    assert str(caught.value).startswith(f"config key {name!r} ")
    assert message in str(caught.value)
    assert len(str(caught.value)) < 400
