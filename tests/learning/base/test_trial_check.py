"""What only a trial would find out is told before one begins: networks, environments, GPUs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from ray import tune

from rllib_seqmarl import make_environment
from rllib_seqmarl.errors import UserError
from rllib_seqmarl.experiments.spec import check as configs
from rllib_seqmarl.experiments.spec.experiment import ExperimentSpec
from rllib_seqmarl.learning.base import trial_check

CONTINUOUS = {"env_config": {"continuous": True}}
#: Central critics that need no state of the environment.
OBSERVATIONS = {"state": "observations"}
MIXED = {"env": "helpers.mixed_games:Workshop"}
CUES = {"env": "helpers.own_cues:OwnCues"}
IMAGES = {
    "env": "pettingzoo",
    "env_config": {"env": "helpers.faulty_games:Images", "kwargs": {"form": "dict"}},
}


def evaluated(**settings: Any) -> dict[str, Any]:
    return {"evaluation_interval": 1, "evaluation_config": settings}


def encoder(name: str) -> dict[str, Any]:
    return {"observation_encoder": f"helpers.encoders:{name}"}


def spec(algorithm: str, settings: dict[str, Any]) -> ExperimentSpec:
    return ExperimentSpec("x", "f.yaml", algorithm, {"env": "distinct_actions", **settings})


@pytest.mark.parametrize(
    ("algorithm", "settings", "message"),
    [
        ("COMA", CONTINUOUS | OBSERVATIONS, "actions, and this environment's are continuous"),
        ("LICA", CONTINUOUS | OBSERVATIONS, "actions, and this environment's are continuous"),
        ("RIIT", CONTINUOUS | OBSERVATIONS, "actions, and this environment's are continuous"),
        ("SCC", CONTINUOUS | OBSERVATIONS, "actions, and this environment's are continuous"),
        ("SeCA", CONTINUOUS | OBSERVATIONS, "actions, and this environment's are continuous"),
        ("COMA", MIXED | OBSERVATIONS, "actions, and this environment's have several parts"),
        ("SeCA", MIXED | OBSERVATIONS, "actions, and this environment's have several parts"),
        ("AOAD-MAT", {"first_agent": 4}, "first_agent is 4, and the 4 agents count from 0"),
        ("AOAD-MAT", {"first_agent": {"grid_search": [0, 9]}}, "first_agent is 9, and the 4"),
        ("MAT", {"attention": "neighbours"}, "needs an environment that names them"),
        ("SrSv", {"attention": "neighbours", **MIXED}, "needs an environment that names them"),
        ("MAPPO", MIXED, "the critic reads the environment's state, and this environment has none"),
        ("HAPPO", MIXED | {"share_parameters": False}, "the critic reads the environment's state"),
        ("RIIT", {"env": "private_cue"}, "the critic reads the environment's state"),
        ("COMA", CUES | {"env_config": {"reward": "per_agent"}}, "COMA learns from one reward"),
        ("MAPPO", CUES | {"env_config": {"reward": "per_agent"}}, "gives the team one value"),
        ("MAT", {"observation_encoder": "cnn"}, "'cnn' finds no image in the observation"),
        ("MAT", encoder("NoWidth"), "cannot be built as Encoder(shapes, width)"),
        ("MAPPO", encoder("Words") | OBSERVATIONS, "gave str for obs [3]"),
        ("LICA", encoder("OneRow") | OBSERVATIONS, "gave a tensor [1, 3] for 2 observations"),
        ("MAT", encoder("NotANumber"), "gave NaN or infinite features"),
        ("MAT", encoder("not_a_module"), "is a dict, not a torch.nn.Module"),
        ("MAT", encoder("Missing"), "module 'helpers.encoders' has no attribute 'Missing'"),
        ("COMA", IMAGES | OBSERVATIONS | {"observation_encoder": "cnn"}, "which the critic reads"),
        ("MAPPO", {"recurrent": True, "chunk_length": 7, **OBSERVATIONS}, "'chunk_length' (7)"),
        ("SCC", {"agent_groups": [1, 2], **OBSERVATIONS}, "do not add up to the 4 agents"),
        ("SCC", {"num_coalitions": None, "env_config": {"num_agents": 13}, **OBSERVATIONS}, "2^13"),
        ("MAT", {"minibatch_size": 10**6}, "minibatch_size is 1000000, and an iteration trains on"),
        ("MAT", {"num_heads": 3}, "embed_dim 64 is not divisible by num_heads 3"),
        ("MAT", {"order": "helpers.parts:LastActionValue"}, "'order': order 'helpers.parts:Last"),
        ("MAT", {"value": "helpers.parts:ByFirstFeature"}, "must be a subclass of"),
        ("MAT", {"network": "os:getcwd"}, "must be an instance of"),
        ("MAT", {"order": "nowhere:X"}, "f.yaml: config: 'order': order 'nowhere:X' cannot be"),
        ("MAT", evaluated(env_config={"num_agents": 0}), "evaluation_config: distinct_actions"),
        ("MAT", evaluated(env_config={"numagents": 3}), "Did you mean 'num_agents'"),
        ("MAT", evaluated(gamma=3), "evaluation_config: 'gamma' must lie between 0 and 1"),
        ("MAT", evaluated(explore=3), "evaluation_config: 'explore' must be true or false"),
        ("MAT", {"evaluation_config": {"gamma": -1}}, "evaluation_config: 'gamma' must lie"),
        (
            "MAPPO",
            evaluated(env_config={"num_agents": 3, "num_actions": 5}) | OBSERVATIONS,
            "evaluation_config: its environment has other sizes",
        ),
        ("MAT", {"num_gpus_per_learner": 1_000}, "a trial needs 1000 GPUs, and this machine has"),
        ("MAT", {"num_learners": 2, "num_gpus_per_learner": 500}, "a trial needs 1000 GPUs"),
        ("MAT", {"num_env_runners": 9, "num_gpus_per_env_runner": 99.5}, "needs 895.5 GPUs"),
        ("MAT", {"env": "helpers.faulty_games:does_not_build"}, "no attribute 'does_not_build'"),
        ("MAT", {"env": "helpers.own_cues:OwnCues", "env_config": {"num_agents": -3}}, "got -3"),
    ],
)  # fmt: skip
def test_told_before_anything_starts(
    algorithm: str, settings: dict[str, Any], message: str, ray_session: None
) -> None:
    with pytest.raises(UserError) as caught:
        configs.check(spec(algorithm, settings))
    assert message in str(caught.value)
    assert str(caught.value).startswith("f.yaml: config: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("algorithm", "settings"),
    [
        ("MAT", MIXED),
        ("MAPPO", MIXED | OBSERVATIONS),
        ("SrSv", {"env": "dubins_car", "env_config": {"neighbours": True}} | {"attention": "all"}),
        ("AOAD-MAT", {"first_agent": 3}),
        ("LICA", OBSERVATIONS | evaluated(explore=True)),
        ("MAT", evaluated(env_config={"reward": "fraction"})),
    ],
)
def test_what_fits_is_taken_and_moves_no_generator(
    algorithm: str, settings: dict[str, Any], ray_session: None
) -> None:
    trial_check._fitting.clear()
    before = torch.random.get_rng_state()
    configs.check(spec(algorithm, settings))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_an_environment_is_built_once_for_all_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    from helpers.own_cues import OwnCues

    built, init = [], OwnCues.__init__

    def counted(self: OwnCues, *args: Any) -> None:
        built.append(args)
        init(self, *args)

    monkeypatch.setattr(OwnCues, "__init__", counted)
    monkeypatch.setattr(trial_check, "_seen", {})
    configs.check(spec("MAT", CUES | {"embed_dim": {"grid_search": [8, 16, 32]}}))
    assert [num_envs for num_envs, _ in built] == [1]


def test_what_is_known_of_one_environment_is_not_taken_for_another(small: Any) -> None:
    """By their texts the two would be one; and a name may be registered again."""
    from test_env_config_is_exact import SameText

    def sized(context: Mapping[str, Any]) -> object:
        team = {"num_agents": context["size"].value}
        return make_environment("distinct_actions", context["num_envs"], team)

    tune.register_env("sized_game", sized)
    small("AOAD-MAT", "sized_game", {"size": SameText(3)}, first_agent=2).validate()
    with pytest.raises(UserError, match="first_agent"):
        small("AOAD-MAT", "sized_game", {"size": SameText(2)}, first_agent=2).validate()
    tune.register_env("sized_game", lambda context: sized({**context, "size": SameText(2)}))
    with pytest.raises(UserError, match="first_agent"):
        small("AOAD-MAT", "sized_game", {"size": SameText(3)}, first_agent=2).validate()


def test_gpus_are_asked_for_from_python_too(small: Any) -> None:
    with pytest.raises(UserError, match="a trial needs 1000 GPUs, and this machine has") as caught:
        small("MAT", num_gpus_per_learner=1_000).build_algo()
    assert "\n" not in str(caught.value)
