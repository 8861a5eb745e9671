"""Settings: what is refused, and what a config becomes."""

from __future__ import annotations

import math
from typing import Annotated, Any

import pytest
from ray import tune
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from rllib_seqmarl import registry, settings
from rllib_seqmarl.algorithms.mat import MAT, MATLearner
from rllib_seqmarl.envs.toy.distinct_actions import make
from rllib_seqmarl.errors import UserError
from rllib_seqmarl.learning.base.config import TeamConfig, TeamSettings
from rllib_seqmarl.learning.sequential.module import SequentialModule


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
        ({"env_config": [3]}, "config key 'env_config' must be a mapping, got [3]"),
        ({"lr": -1e-4}, "config key 'lr' must not be negative, got -0.0001"),
        ({"vf_loss_coeff": -1.0}, "config key 'vf_loss_coeff' must not be negative"),
        ({"entropy_coeff": -0.1}, "config key 'entropy_coeff' must not be negative"),
        ({"grad_clip": 0.0}, "config key 'grad_clip' must be above 0"),
        ({"grad_clip_by": "norms"}, "'grad_clip_by' must be one of value, norm, global_norm"),
        ({"clip_param": math.nan}, "config key 'clip_param' must be a finite number, got nan"),
        ({"lr": math.inf}, "config key 'lr' must be a finite number, got inf"),
        ({"min_time_s_per_iteration": math.inf}, "must be a finite number, got inf"),
        ({"num_env_runners": -1}, "config key 'num_env_runners' must lie between 0 and"),
        ({"num_learners": -1}, "config key 'num_learners' must lie between 0 and"),
        ({"metrics_num_episodes_for_smoothing": 0}, "_for_smoothing' must be above 0"),
        ({"seed": -1}, "config key 'seed' must lie between 0 and 2,147,483,647, got -1"),
        ({"seed": 2**32}, "config key 'seed' must lie between 0 and"),
        ({"num_gpus_per_learner": -1}, "config key 'num_gpus_per_learner' must not be negative"),
        ({"num_cpus_per_env_runner": -1}, "'num_cpus_per_env_runner' must not be negative"),
        ({"minibatch_size": 3201}, "an iteration trains on 3200 environment steps"),
        ({"seed": 1.5}, "config key 'seed' must be a whole number or null, got 1.5"),
        ({"evaluation_interval": 0}, "config key 'evaluation_interval' must be above 0"),
        (
            {"evaluation_interval": "2"},
            "'evaluation_interval' must be a whole number or null, got '2'",
        ),
        ({"evaluation_duration": 0}, "config key 'evaluation_duration' must be above 0"),
        ({"evaluation_duration": "all"}, "must be a whole number or 'auto', got 'all'"),
        ({"evaluation_duration_unit": "steps"}, "must be one of episodes, timesteps"),
        ({"lr": [[0, 1e-3]]}, "config key 'lr' is not a schedule"),
        ({"lr": [0.1, 0.2]}, "config key 'lr' is not a schedule"),
        ({"lr": [[5, 1e-3], [9, 0.0]]}, "config key 'lr' is not a schedule"),
        ({"lr": [[0, 1e-3], [9, -1.0]]}, "config key 'lr' is not a schedule"),
        ({"entropy_coeff": [[0, 0.1], [9, 0.0], [5, 0.0]]}, "'entropy_coeff' is not a schedule"),
        ({"entropy_coeff": [[0, 0.1], [9, "low"]]}, "'entropy_coeff' is not a schedule"),
        ({"env": "smacc"}, "unknown environment 'smacc'. Did you mean 'smac'?"),
    ],
)
def test_refused_with_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        config(**settings).validate()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"observation_filter": "MeanStdFilter"}, "in the environment"),
        ({"normalize_actions": False}, "the environment scales them"),
        ({"clip_actions": True}, "the environment scales them"),
        ({"clip_rewards": True}, "clip rewards in the environment"),
        ({"shuffle_batch_per_epoch": True}, "every epoch is shuffled"),
        ({"torch_skip_nan_gradients": True}, "use grad_clip"),
        ({"model": {"fcnet_hiddens": [8]}}, "embed_dim"),
        ({"model_config": {"embed_dim": 8}}, "embed_dim"),
        ({"rl_module_spec": RLModuleSpec(model_config={"embed_dim": 8})}, "embed_dim"),
        ({"optimizer": {"type": "sgd"}}, "adam_epsilon"),
        ({"exploration_config": {"type": "Random"}}, "entropy_coeff"),
        ({"remote_worker_envs": True}, "num_env_runners"),
        ({"input": "/tmp/recorded"}, "on_sample_end"),
        ({"output": "/tmp/recorded"}, "on_sample_end"),
        ({"policies": {"one", "other"}}, "one policy"),
        ({"policy_mapping_fn": lambda *args, **kwargs: "one"}, "one policy"),
        ({"policies_to_train": []}, "one policy"),
        ({"count_steps_by": "agent_steps"}, "steps are those of the environment"),
        ({"num_aggregator_actors_per_learner": 1}, "num_learners"),
        ({"compress_observations": True}, "leave it out"),
        ({"num_gpus": 1}, "num_gpus_per_learner"),
        ({"framework": "tf2"}, "torch"),
        ({"_env_to_module_connector": lambda *args: None}, "connectors"),
        ({"_module_to_env_connector": lambda *args: None}, "connectors"),
        ({"_learner_connector": lambda *args: None}, "connectors"),
        ({"enable_rl_module_and_learner": False}, "new API stack"),
        ({"use_env_runner_state_server": True}, "leave it out"),
    ],
)
def test_settings_without_meaning_are_refused(settings: dict[str, Any], message: str) -> None:
    (name,) = settings
    with pytest.raises(UserError, match=name.lstrip("_")) as caught:
        config(**settings).validate()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    evaluation = config(**settings)
    evaluation.in_evaluation = True
    with pytest.raises(UserError, match=name.lstrip("_")):
        evaluation.validate()


def test_a_runner_in_the_process_of_the_trial_acts_on_the_gpu_of_its_learner() -> None:
    with pytest.raises(UserError, match="set num_gpus_per_learner") as caught:
        config(num_gpus_per_env_runner=1).validate()
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="set num_gpus_per_learner"):
        config(num_gpus_per_env_runner=1, num_learners=1, num_gpus_per_learner=1).validate()
    config(num_gpus_per_env_runner=1, num_gpus_per_learner=1).check()
    config(num_gpus_per_env_runner=0.5, num_env_runners=2).check()


@pytest.mark.parametrize(
    "settings",
    [
        {"evaluation_duration": "auto", "evaluation_parallel_to_training": True}
        | {"evaluation_num_env_runners": 1, "evaluation_interval": 1},
        {"sample_timeout_s": None},
        {"num_threads_per_learner": None},
        {"grad_clip": None, "minibatch_size": None, "micro_batch_size": None, "seed": None},
        {"lr": [[0, 1e-3], [1000, 0.0]], "entropy_coeff": ((0, 0.1), (10, 0.1))},
        {"lr": 0},
        {"env_config": None},
        {"rl_module_spec": RLModuleSpec(module_class=SequentialModule)},
        {"model": {}, "exploration_config": {}, "optimizer": {}, "num_gpus": None},
        {"framework": "torch"},
    ],
)
def test_accepted(settings: dict[str, Any]) -> None:
    built = config(**settings)
    built.validate()
    built.validate()  # what RLlib changes in the first round is not held against the user
    evaluation = built.get_evaluation_config_object()
    evaluation.validate()
    type(built).from_state(built.get_state()).validate()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clip_parm": 0.1}, "Did you mean 'clip_param'"),
        ({"num_env_runners": 1}, r"'num_env_runners' is not .*give it to env_runners\(\)"),
        ({"num_learners": 1}, r"'num_learners' is not .*give it to learners\(\)"),
        ({"evaluation_interval": 1}, r"give it to evaluation\(\)"),
        ({"seed": 1}, r"give it to debugging\(\)"),
    ],
)
def test_not_training_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config().training(**settings)


def test_the_old_runners_are_refused() -> None:
    built = config().api_stack(enable_env_runner_and_connector_v2=False)
    with pytest.raises(UserError, match="'enable_env_runner_and_connector_v2'"):
        built.validate()


def test_an_own_learner_class() -> None:
    class Own(MATLearner):
        pass

    assert config().training(learner_class=Own).learner_class is Own
    built = config(learner_class=Own)
    built.validate()
    assert built.learner_class is Own


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


def test_settings_of_other_algorithms_are_named() -> None:
    with pytest.raises(UserError, match="'ranking_coeff' belongs to PMAT: run that"):
        config(ranking_coeff=0.1)
    with pytest.raises(UserError, match="learned by the loss of PMAT: write `run: PMAT`"):
        config(order="plackett_luce").validate()


def test_old_names_and_old_pickles() -> None:
    built = config(sample_ahead=True, num_env_runners=1)
    assert built.async_sampling is True
    state = dict(vars(built))
    state["sample_ahead"] = state.pop("async_sampling")
    state |= {"successors": "greedy", "ranking_coeff": 1e-4}  # other algorithms' settings
    del state["adam_epsilon"]
    old = type(built).__new__(type(built))
    old.__setstate__(state)
    assert (old.async_sampling, old.adam_epsilon) == (True, 1e-5)
    assert vars(old).keys() == vars(built).keys()
    restored = type(built).from_state({**state, "class": type(built)})
    assert restored.async_sampling is True


def test_an_own_algorithm_needs_no_entropy_and_may_have_schedules() -> None:
    @settings.settings
    class OwnSettings(TeamSettings):
        temperature: Annotated[settings.Schedulable, settings.Gt(0)] = 1.0

    class OwnConfig(TeamConfig, OwnSettings):
        pass

    own = OwnConfig(MAT).environment("distinct_actions")
    own.training(temperature=[[0, 1.0], [100, 0.1]]).validate()
    with pytest.raises(UserError, match="config key 'temperature' must be above 0"):
        own.training(temperature=-1.0).validate()


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
    built = registry.config_class("MAT")().environment(
        "rllib_seqmarl.envs.toy.distinct_actions:make"
    )
    built.validate()
    missing = registry.config_class("MAT")().environment("no.such.module:make")
    with pytest.raises(UserError, match="cannot be imported"):
        missing.validate()


def test_names_of_environments(ray_session: None) -> None:
    """Aliases become names, which are registered; the user's own names stay."""
    built = registry.config_class("MAT")().environment("smax", env_config={"map_name": "3m"})
    built.validate()
    assert built.env == "smac"

    tune.registry._global_registry.unregister(tune.registry.ENV_CREATOR, "distinct_actions")
    config().validate()
    creator = tune.registry._global_registry.get(tune.registry.ENV_CREATOR, "distinct_actions")
    assert creator({"num_envs": 2}).num_envs == 2

    own = config(env="own_game", env_config={"size": 3})
    with pytest.raises(UserError, match="unknown environment 'own_game'"):
        own.validate()
    tune.register_env("own_game", lambda context: make(context["num_envs"]))
    own.validate()
    assert (own.env, own.env_config) == ("own_game", {"size": 3})


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
