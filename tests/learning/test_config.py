"""Settings: what is refused, and what a config becomes."""

from __future__ import annotations

from typing import Any

import pytest
from ray.rllib.callbacks.callbacks import RLlibCallback

from rllib_seqmarl import registry
from rllib_seqmarl.errors import UserError


def config(**settings: Any) -> Any:
    built = registry.config_class("MAT")()
    built.environment("distinct_actions")
    return built.update_from_dict(settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_epoch": 5}, "unknown config key 'num_epoch'. Did you mean 'num_epochs'?"),
        ({"trian_batch_size": 5}, "unknown config key 'trian_batch_size'"),
        ({"clip_param": "large"}, "config key 'clip_param' must be a number, got 'large'"),
        ({"num_epochs": "10"}, "config key 'num_epochs' must be a whole number, got '10'"),
        ({"lr": "5e-4"}, "config key 'lr' must be a number, got '5e-4'"),
        ({"use_value_active_mask": "yes"}, "must be true or false, got 'yes'"),
        ({"order": "sideways"}, "config key 'order' must be one of index, "),
        ({"value": "encodre"}, "config key 'value' must be one of encoder, "),
        ({"decode": "fast"}, "config key 'decode' must be one of auto, "),
        ({"time_limit": "ignore"}, "config key 'time_limit' must be one of bootstrap, "),
        ({"num_epochs": 0}, "config key 'num_epochs' must be above 0"),
        ({"num_epochs": 2.5}, "config key 'num_epochs' must be a whole number, got 2.5"),
        ({"gamma": 1.5}, "config key 'gamma' must lie between 0 and 1"),
        ({"embed_dim": 30, "num_heads": 4}, "embed_dim 30 is not divisible by num_heads 4"),
        ({"rollout_fragment_length": "auto"}, "must be a whole number, got 'auto'"),
        ({"batch_mode": "complete_episodes"}, "leave batch_mode at 'truncate_episodes'"),
        ({"train_batch_size": 4000}, "leave train_batch_size out"),
        ({"train_batch_size_per_learner": 4000}, "leave train_batch_size out"),
        ({"env_config": {"num_agnets": 3}}, "num_agents"),
    ],
)
def test_refused_with_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        config(**settings).validate()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_keys_of_the_builder() -> None:
    with pytest.raises(UserError, match="Did you mean 'clip_param'"):
        config().training(clip_parm=0.1)


def test_builder_sets_own_and_rllibs_settings() -> None:
    built = config().training(clip_param=0.1, lr=1e-3, gamma=0.9)
    assert (built.clip_param, built.lr, built.gamma) == (0.1, 1e-3, 0.9)


def test_callbacks_for_every_step_are_refused() -> None:
    class EveryStep(RLlibCallback):
        def on_episode_step(self, **kwargs: Any) -> None:
            pass

    with pytest.raises(UserError, match="on_episode_step"):
        config().callbacks(EveryStep).validate()
    with pytest.raises(UserError, match="on_episode_start"):
        config().callbacks(on_episode_start=lambda **kwargs: None).validate()


def test_environment_settings_are_completed() -> None:
    built = config(env_config={"num_agents": 3})
    built.validate()
    assert built.env_config["num_agents"] == 3
    assert built.env_config["episode_length"] == 1


def test_simulator_is_named() -> None:
    built = registry.config_class("SrSv")().environment("smac", env_config={"map_name": "3m"})
    built.validate()
    assert built.simulator == "smax"
    assert built.env_config["simulator"] == "smax"


def test_evaluation_is_greedy_unless_told_otherwise() -> None:
    assert config().get_evaluation_config_object().explore is False
    explore = config(evaluation_config={"explore": True})
    assert explore.get_evaluation_config_object().explore is True


def test_own_environment_by_import_path() -> None:
    built = registry.config_class("MAT")().environment("rllib_seqmarl.envs.distinct_actions:make")
    built.validate()
    missing = registry.config_class("MAT")().environment("no.such.module:make")
    with pytest.raises(UserError, match="cannot be imported"):
        missing.validate()


def test_no_environment() -> None:
    with pytest.raises(UserError, match="no environment is set"):
        registry.config_class("MAT")().validate()


def test_a_seed_fixes_the_way_of_decoding() -> None:
    """What `auto` finds out with a clock cannot be repeated."""
    spec = config(seed=1).get_default_rl_module_spec()
    assert spec.model_config["decoding"] == "parallel"
    assert config().get_default_rl_module_spec().model_config["decoding"] == "auto"
    fixed = config(seed=1, decode="cached").get_default_rl_module_spec()
    assert fixed.model_config["decoding"] == "cached"


def test_srsv_without_its_value_is_refused() -> None:
    built = registry.config_class("SrSv")().environment("distinct_actions")
    with pytest.raises(UserError, match="run MAT"):
        built.update_from_dict({"value": "encoder"}).validate()
