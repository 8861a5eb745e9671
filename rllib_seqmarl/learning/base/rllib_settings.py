"""RLlib's own settings: those that matter here, and those that mean nothing to a team."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from rllib_seqmarl.settings import Doc, Ge, Gt, Le, OldName, Setting, settings


@settings
class RLlibSettings:
    """RLlib's settings outside of ``training()`` that a user may want to change.

    Each is given to the method of RLlib's config that takes it, or as a key of a YAML file.
    """

    rollout_fragment_length: Annotated[int, Gt(0), Doc("steps T of every env per iteration.")] = 100
    num_envs_per_env_runner: Annotated[
        int,
        Gt(0),
        OldName("num_envs_per_worker"),
        Doc("""envs E per runner. One iteration trains on T x E x max(1, num_env_runners)
        environment steps."""),
    ] = 32
    num_env_runners: Annotated[
        int,
        Ge(0),
        Le(100_000),
        OldName("num_workers"),
        OldName("num_rollout_workers"),
        Doc("processes that sample; 0: the trial's own."),
    ] = 0
    num_cpus_per_env_runner: Annotated[
        float, Ge(0), OldName("num_cpus_per_worker"), Doc("CPUs that Ray reserves for each.")
    ] = 1
    num_gpus_per_env_runner: Annotated[
        float,
        Ge(0),
        OldName("num_gpus_per_worker"),
        Doc("""GPUs of each; above 0, the policy acts on the GPU. With ``num_env_runners: 0`` that
        is the GPU of the learner in the same process."""),
    ] = 0
    sample_timeout_s: Annotated[
        float | None,
        Gt(0),
        Le(1e9),
        Doc("""seconds after which a runner in another process is taken to hang. It is named, ended
        and restarted, and the iteration trains on what the others sampled. An environment that
        hangs in the trial's own process (``num_env_runners: 0``) hangs the trial: no other process
        could notice. null: wait for ever."""),
    ] = 600.0
    restart_failed_env_runners: Annotated[
        bool, Doc("a runner whose process ended is started again.")
    ] = True
    num_learners: Annotated[
        int,
        Ge(0),
        Le(100_000),
        OldName("num_learner_workers"),
        Doc("processes that train, each on its share of every rollout; 0: the trial's own."),
    ] = 0
    num_cpus_per_learner: Annotated[
        float | Literal["auto"], Ge(0), Doc("CPUs that Ray reserves for each.")
    ] = "auto"
    num_gpus_per_learner: Annotated[
        float, Ge(0), Doc("GPUs of each; with 1 or more, training is on the GPU.")
    ] = 0
    num_cpus_for_main_process: Annotated[
        float, Ge(0), Doc("CPUs that Ray reserves for the trial's own process.")
    ] = 1
    seed: Annotated[
        int | None,
        Ge(0),
        Le(2**31 - 1),
        Doc("of everything that is drawn; null: another one in every run."),
    ] = None
    explore: Annotated[bool, Doc("actions are drawn; false: the most likely ones.")] = True
    evaluation_interval: Annotated[
        int | None, Gt(0), Doc("iterations from one evaluation to the next; null: none.")
    ] = None
    evaluation_duration: Annotated[
        int | Literal["auto"],
        Gt(0),
        Doc("""episodes (or steps) of each; "auto": as many as training leaves time for, with
        evaluation_parallel_to_training."""),
    ] = 10
    evaluation_duration_unit: Annotated[
        Literal["episodes", "timesteps"], Doc("what evaluation_duration counts.")
    ] = "episodes"
    evaluation_num_env_runners: Annotated[
        int,
        Ge(0),
        Le(100_000),
        OldName("evaluation_num_workers"),
        Doc("processes that evaluate; 0: the trial's own."),
    ] = 0
    evaluation_parallel_to_training: Annotated[
        bool, Doc("evaluate while the next iteration trains.")
    ] = False
    evaluation_sample_timeout_s: Annotated[
        float | None,
        Gt(0),
        Le(1e9),
        Doc("as sample_timeout_s, of runners that evaluate; the others play on in their place."),
    ] = 1200.0
    evaluation_config: Annotated[
        Mapping[str, Any] | None,
        Doc("settings that are different in evaluation, such as ``explore`` and ``env_config``."),
    ] = None
    metrics_num_episodes_for_smoothing: Annotated[
        int, Gt(0), Doc("the newest episodes over which an episode's metrics are averaged.")
    ] = 100


#: What settings may be that are declared nowhere and whose default does not tell.
_KINDS: dict[str, Any] = {
    "log_level": Literal["DEBUG", "INFO", "WARN", "WARNING", "ERROR"],
    "placement_strategy": Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"],
    "min_time_s_per_iteration": float | None,
}


def undeclared(name: str, default: object) -> Setting:
    """A setting of RLlib that is declared nowhere, by the type of its default.

    None of RLlib's numbers has a meaning below 0 where its default has none.
    """
    kind: Any = _KINDS.get(name, Any)
    bounds: list[object] = []
    if name in _KINDS:
        pass
    elif isinstance(default, bool):
        kind = bool
    elif isinstance(default, int):
        # Parts of a CPU or a GPU may be asked for, whatever the default.
        kind = float if name.startswith(("num_cpus", "num_gpus")) else int
    elif isinstance(default, float):
        kind = float
    elif isinstance(default, str):
        kind = str
    elif isinstance(default, Mapping):
        kind = Mapping[str, Any] | None
    if kind in (int, float) and isinstance(default, int | float) and default >= 0:
        bounds.append(Gt(0) if name.startswith("max_requests_in_flight") else Ge(0))
    if name.endswith("_s"):
        bounds.append(Le(1e9))  # seconds: no timer takes more
    return Setting(name, kind, default, tuple(bounds), object)


#: Keys that Ray itself puts into a config dict, beside those that begin with "__".
RAY_KEYS = {"class", "_enable_new_api_stack", "multiagent"}

_NEW_STACK = "only RLlib's new API stack is supported; leave it at true"
ONE_TEAM = "the team is one agent with one policy; leave multi_agent() out"
_CONNECTORS = "blocks of columns pass through no connectors; change the environment instead"
NETWORK = "the network has settings of its own, e.g. embed_dim and num_blocks"
_OFFLINE = "learning is from the runners only; use on_sample_end to keep blocks"

#: RLlib's settings that a columnar runner or learner does not look at -> what to do instead.
WITHOUT_MEANING: dict[str, str] = {
    "enable_rl_module_and_learner": _NEW_STACK,
    "enable_env_runner_and_connector_v2": _NEW_STACK,
    "framework_str": "everything here is torch",
    "observation_filter": "scale observations in the environment",
    "normalize_actions": "continuous actions lie in [-1, 1]; the environment scales them",
    "clip_actions": "continuous actions lie in [-1, 1]; the environment scales them",
    "clip_rewards": "clip rewards in the environment",
    "compress_observations": "blocks are sent as they are; leave it out",
    "remote_worker_envs": "environments are stepped as one; use num_env_runners",
    "use_env_runner_state_server": "leave it out",
    "shuffle_batch_per_epoch": "every epoch is shuffled; leave it out",
    "torch_skip_nan_gradients": "use grad_clip and a smaller lr",
    "num_aggregator_actors_per_learner": "blocks go straight to the learners; use num_learners",
    "num_gpus": "use num_learners and num_gpus_per_learner",
    "model": NETWORK,
    "_model_config": NETWORK,
    "optimizer": "it is Adam; use lr, adam_epsilon and grad_clip",
    "exploration_config": "use entropy_coeff, and explore in evaluation_config",
    "input_": _OFFLINE,
    "output": _OFFLINE,
    "policy_mapping_fn": ONE_TEAM,
    "policies_to_train": ONE_TEAM,
    "count_steps_by": "steps are those of the environment; leave it out",
    "_env_to_module_connector": _CONNECTORS,
    "_module_to_env_connector": _CONNECTORS,
    "_learner_connector": _CONNECTORS,
}
