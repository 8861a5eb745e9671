"""`load_policy`: what was trained plays as `rllib evaluate` plays it, with and without Ray."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.torch import save_file

from rllib_seqmarl import UserError, load_policy, make_environment, registry
from rllib_seqmarl.experiments.checkpoints import find as checkpoints
from rllib_seqmarl.experiments.evaluate.evaluation import EpisodePlayer, evaluate_checkpoint
from rllib_seqmarl.experiments.share.policy_file import export

#: What is trained: algorithm, environment, its settings, the algorithm's settings.
RUNS: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    **{name: (name, "private_cue", {}, {}) for name in registry.ALGORITHMS},
    "HAPPO": ("HAPPO", "private_cue", {}, {"recurrent": True, "chunk_length": 4}),
    "A2PO": ("A2PO", "private_cue", {}, {"share_parameters": False}),
    "SCC": ("SCC", "private_cue", {}, {"mode": "value", "epsilon": 0.3, "entropy_coeff": 0.0}),
    "kept order": (
        "MAT",
        "private_cue",
        {},
        {"order": "random", "order_granularity": "episode"},
    ),
    "neighbours": (
        "SrSv",
        "dubins_car",
        {"num_agents": 4, "neighbours": True, "episode_length": 6},
        {"attention": "neighbours"},
    ),
    "parts": ("HAPPO", "helpers.mixed_games:Workshop", {"episode_length": 3}, {}),
    "images": (
        "A2PO",
        "seqmarl_extras.lit_corner:LitCorner",
        {"episode_length": 3},
        {"observation_encoder": "cnn", "share_parameters": False},
    ),
    "continuous": (
        "MAPPO",
        "dubins_car",
        {"num_agents": 3, "episode_length": 6},
        {"share_parameters": False},
    ),
}


def small_config(run: str) -> Any:
    algorithm, env, env_config, settings = RUNS[run]
    config: Any = registry.config_class(algorithm)().environment(env, env_config=env_config)
    sizes: dict[str, Any] = {"num_envs_per_env_runner": 2, "rollout_fragment_length": 8}
    sizes |= {"seed": 7, "num_epochs": 1}
    widths = ("embed_dim", "hidden_dim", "hypernet_dim", "critic_dim")
    sizes |= {name: 16 for name in widths if hasattr(config, name)}
    if hasattr(config, "hidden_sizes"):
        sizes["hidden_sizes"] = [16, 16]
    if hasattr(config, "state"):  # a central critic
        sizes["state"] = "observations"
    config.update_from_dict(sizes | settings)
    return config


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """``trained(run)``: the folder of a checkpoint, and the file of its policy."""
    made: dict[str, tuple[Path, Path]] = {}

    def train(run: str) -> tuple[Path, Path]:
        if run not in made:
            folder = tmp_path_factory.mktemp("trained")
            algorithm = small_config(run).build_algo()
            try:
                algorithm.train()
                algorithm.save_to_path(str(folder / "checkpoint"))
            finally:
                algorithm.stop()
            export(folder / "checkpoint", folder / "policy.safetensors")
            made[run] = folder / "checkpoint", folder / "policy.safetensors"
        return made[run]

    return train


@pytest.fixture
def played(monkeypatch):
    """``played(checkpoint, explore)``: what the player of `rllib evaluate` saw and did."""
    steps: list[tuple[Any, Any, int, Any]] = []
    choose = EpisodePlayer._choose_actions

    def note(self, explore, random_actions):
        seen = {name: value.copy() for name, value in self._obs.items()}
        first = self._is_first.copy()
        chosen = choose(self, explore, random_actions)
        steps.append((seen, first, self.generator.initial_seed(), chosen))
        return chosen

    monkeypatch.setattr(EpisodePlayer, "_choose_actions", note)

    def play(checkpoint: Path, explore: bool):
        steps.clear()
        evaluate_checkpoint(
            str(checkpoint),
            explore=explore,
            episodes=4,
            seed=3,
            scripted_policies=[],
        )
        return steps

    return play


@pytest.mark.parametrize("run", RUNS)
def test_it_decides_as_the_evaluation_does(run, trained, played):
    """Of all algorithms, over the ends of episodes; drawn with the same seed, and greedily."""
    checkpoint, file = trained(run)
    policies = [load_policy(checkpoint), load_policy(file)]
    for explore in (True, False):
        steps = played(checkpoint, explore)
        assert sum(first.any() for _, first, _, _ in steps) > 1
        for policy in policies:
            policy.reset(seed=steps[0][2])
            for number, (seen, first, _, chosen) in enumerate(steps):
                if number:
                    policy.reset(first)
                decision = policy.act(seen, deterministic=not explore)
                np.testing.assert_array_equal(decision.actions, chosen["actions"])
                np.testing.assert_array_equal(decision.log_prob, chosen["log_prob"].sum(-1))
                order = chosen.get("order", [range(policy.num_agents)] * 2)
                np.testing.assert_array_equal(decision.order, order)


def test_a_team_alone_is_a_batch_of_one(trained):
    policy = load_policy(trained("SeCA")[1])
    generator = np.random.default_rng(0)
    shapes = policy.inputs.observation
    policy.reset(seed=1)
    many = []
    observations = [
        {
            "obs": generator.normal(size=shapes["obs"]),
            "action_mask": np.ones(shapes["action_mask"], np.bool_),
        }
        for _ in range(4)
    ]
    for one in observations:
        many.append(policy.act({name: x[None] for name, x in one.items()}, deterministic=False))
    policy.reset(seed=1)
    for one, expected in zip(observations, many, strict=True):
        decision = policy.act(one, deterministic=False)
        assert decision.actions.shape == decision.log_prob.shape == (policy.num_agents,)
        for part, of_batch in zip(decision, expected, strict=True):
            np.testing.assert_array_equal(part, of_batch[0])


WITHOUT_RAY = """
import builtins, importlib.abc, pickle, sys, time
begin = time.process_time()

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in ("ray", "gymnasium"):
            raise ImportError(name + " is blocked")

sys.meta_path.insert(0, Blocked())
from rllib_seqmarl import load_policy
import torch
def refuse(*args, **kwargs):
    raise AssertionError("something was unpickled")
pickle.load = pickle.loads = pickle.Unpickler = torch.load = refuse
policy = load_policy(sys.argv[1])
seconds = time.process_time() - begin
import numpy as np
shapes = policy.inputs.observation
mask = {"action_mask": np.ones(shapes["action_mask"], bool)} if "action_mask" in shapes else {}
seen = {"obs": np.zeros(shapes["obs"], np.float32), **mask}
print(policy.act(seen).actions.tolist())
assert seconds < 3.0, seconds
"""


@pytest.mark.parametrize("run", ["SrSv", "HAPPO", "COMA"])
def test_a_file_needs_neither_ray_nor_gymnasium_nor_pickle(run, trained):
    file = str(trained(run)[1])
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_RAY, file], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[-2000:]
    policy = load_policy(file)
    assert len(json.loads(result.stdout)) == policy.num_agents


def test_a_team_of_another_size(trained):
    """Where the network depends on the number of agents the line says so."""
    policy = load_policy(trained("MAT")[1], num_agents=9)
    width = policy.inputs.layout.size
    mask = np.ones((9, policy.inputs.action.size), np.bool_)
    assert policy.act({"obs": np.ones((9, width)), "action_mask": mask}).actions.shape == (9,)
    for run in ("SeCA", "A2PO"):
        with pytest.raises(UserError, match=r"does not fit|lacks the weights"):
            load_policy(trained(run)[1], num_agents=9)


def changed(file: Path, target: Path, **header: Any) -> Path:
    with safe_open(file, framework="pt") as opened:
        weights = {name: opened.get_tensor(name) for name in sorted(opened.keys())}
        metadata = json.loads(opened.metadata()["rllib_seqmarl"])
    metadata = {k: v for k, v in (metadata | header).items() if v is not ...}
    save_file(weights, target, {"rllib_seqmarl": json.dumps(metadata)})
    return target


def test_a_file_of_format_1_loads(trained, tmp_path):
    _, file = trained("SCC")
    before = changed(file, tmp_path / "old.safetensors", format=1, actor=...)
    assert repr(load_policy(before)) == repr(load_policy(file))
    assert load_policy(before).actor.agent.behaviour.greedy


WRONG = {
    "kind": ({"actor": {"kind": "sequentia", "settings": {}}}, "Did you mean 'sequential'"),
    "no settings": ({"actor": {"kind": "sequential"}}, "damaged.*describe a network"),
    "settings": (
        {"actor": {"kind": "sequential", "settings": {"embed_dim": 8, "widht": 3}}},
        "do not describe a network.*widht",
    ),
    "imports": (
        {"actor": {"kind": "sequential", "settings": {"order": "os:getcwd"}}},
        "os:getcwd.*trust_imports=True",
    ),
    "sizes": ({"num_agents": 5}, "damaged.*'obs' of 5 agents has shape"),
    "layout": ({"layout": {"entries": [3], "agent_id": 0}}, "damaged.*describe a network"),
    "infinite": (
        {"action": {"discrete": True, "size": float("inf"), "parts": []}},
        "damaged.*describe a network",
    ),
    "own code": ({"actor": None}, "code of its own.*rllib evaluate"),
}


FOREIGN = {
    "game": {
        "env": "pettingzoo",
        "env_config": {"env": "subprocess:getoutput", "kwargs": {"cmd": "true"}},
    },
    "path": {"env": "evil:Env"},
}


@pytest.mark.parametrize("case", FOREIGN)
def test_code_that_a_file_names_as_its_environment_is_not_handed_out(case, trained, tmp_path):
    """What the pages show, `make_environment(policy.env, ...)`, would run it."""
    file = changed(trained("MAT")[1], tmp_path / "f.safetensors", **FOREIGN[case])
    policy = load_policy(file)
    for name in ("env", "env_config"):
        with pytest.raises(UserError, match=r"names code of an environment.*trust_imports=True"):
            getattr(policy, name)
    trusted = load_policy(file, trust_imports=True)
    assert trusted.env == FOREIGN[case]["env"]


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_header_gives_one_line(case, trained, tmp_path):
    header, expected = WRONG[case]
    file = changed(trained("MAT")[1], tmp_path / "f.safetensors", **header)
    with pytest.raises(UserError, match=expected) as caught:
        load_policy(file)
    assert "\n" not in str(caught.value)


def test_a_trial_stands_for_its_best_checkpoint(trained, tmp_path, monkeypatch):
    """By the score, if the training scored its checkpoints; else for its last one."""
    trial = tmp_path / "experiment" / "trial"
    for number, run in enumerate(("MAT", "PMAT", "SrSv")):
        folder = trial / f"checkpoint_00000{number}"
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.symlink_to(trained(run)[0])
    assert load_policy(trial).algorithm == "SrSv"

    scores = (("max", 0.5, 0.9, 0.7, "PMAT"), ("min", 0.5, 0.9, 0.7, "MAT"))
    monkeypatch.setattr(checkpoints, "iteration", lambda path: int(path.name[-1]) + 1)
    for order, *values, best in scores:
        settings = {"checkpoint_config": {"score_order": order}}
        (trial.parent / "experiment.json").write_text(json.dumps(settings))
        lines = [
            json.dumps({"training_iteration": i + 1, "checkpoint_score": value})
            for i, value in enumerate(values)
        ]
        # A line that a kill has cut short, and one of a result without a score.
        (trial / "result.json").write_text("\n".join([*lines, "{", '{"training_iteration": 9}']))
        assert load_policy(trial).algorithm == best
    (trial / "result.json").write_text('{"training_iteration": 1}\n')
    assert load_policy(trial).algorithm == "SrSv"


def test_there_is_no_such_policy(tmp_path):
    for path in (tmp_path / "none", tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(UserError, match=r"no such|is not a checkpoint"):
            load_policy(path)


def test_an_environment_by_its_name():
    """Whose settings have their defaults, all of them where none is given."""
    env = make_environment("private_cue")
    assert env.num_envs == 1
    assert make_environment("private_cue", 2, {"num_agents": 3}).num_agents == 3
    needs_a_game = ("pettingzoo", "multi_agent_env")
    for name in registry.ENVIRONMENTS:
        if name not in (*needs_a_game, "football"):  # that is not installed everywhere
            registry.environment(name).check({})
    for name in needs_a_game:
        with pytest.raises(UserError, match="'env' must be an import path such as"):
            make_environment(name)
