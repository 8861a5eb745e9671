"""Names: known to Ray on import, and again after Ray was shut down and started again."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator
from typing import Annotated

import pytest

import rllib_seqmarl
from rllib_seqmarl import registry
from rllib_seqmarl.errors import UserError
from rllib_seqmarl.nets.orders.base import IndexOrder
from rllib_seqmarl.settings import Ge, settings


def run(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


def test_names_survive_a_second_connection() -> None:
    output = run(
        """
import ray, rllib_seqmarl
from ray import tune
from ray.tune.registry import get_trainable_cls

for _ in range(2):
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    assert get_trainable_cls("SrSv").__name__ == "SrSv"
    algorithm = rllib_seqmarl.MATConfig().environment("distinct_actions").update_from_dict(
        {"num_envs_per_env_runner": 2, "rollout_fragment_length": 4, "num_epochs": 1}
    ).build_algo()
    algorithm.train()
    algorithm.stop()
    ray.shutdown()
print("both")
"""
    )
    assert output.strip().endswith("both")


def test_tuner_finds_an_algorithm_by_its_name(tmp_path: object) -> None:
    output = run(
        f"""
import ray, rllib_seqmarl
from ray import tune

ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
results = tune.Tuner(
    "SrSv",
    param_space={{
        "env": "distinct_actions",
        "num_envs_per_env_runner": 2,
        "rollout_fragment_length": 4,
        "num_epochs": 1,
        "lr": tune.grid_search([1e-3, 1e-4]),
    }},
    run_config=tune.RunConfig(
        stop={{"training_iteration": 2}}, storage_path={str(tmp_path)!r}, verbose=0
    ),
).fit()
print([r.metrics["training_iteration"] for r in results], len(results.errors))
"""
    )
    assert output.strip().endswith("[2, 2] 0")


@pytest.mark.parametrize("module", ["rllib_seqmarl", "rllib_seqmarl.cli"])
def test_the_package_and_the_command_do_not_load_torch(module: str) -> None:
    code = f"import sys, {module}; print({{'torch', 'ray', 'jax'}} & set(sys.modules))"
    assert run(code).strip() == "set()"


@pytest.mark.parametrize("first", ["rllib_seqmarl", "ray.tune"])
def test_ray_tune_knows_the_names_whichever_is_imported_first(first: str) -> None:
    code = f"""
import importlib, sys

for module in ({first!r}, "rllib_seqmarl", "ray.tune"):
    importlib.import_module(module)
assert "rllib_seqmarl.algorithms.mat" not in sys.modules
from ray.tune.registry import get_trainable_cls
from rllib_seqmarl.registry import register_algorithm

register_algorithm("Own", "rllib_seqmarl.algorithms.srsv:SrSv")
print(*(get_trainable_cls(name).__name__ for name in ("MAT", "AOAD-MAT", "Own")))
"""
    assert run(code).split() == ["MAT", "AOADMAT", "SrSv"]


def test_attributes_of_the_package() -> None:
    assert rllib_seqmarl.SrSv is registry.algorithm_class("SrSv")
    assert rllib_seqmarl.MATConfig is registry.config_class("MAT")
    assert rllib_seqmarl.AOADMAT is registry.algorithm_class("AOAD-MAT")
    assert set(rllib_seqmarl.__all__) <= set(dir(rllib_seqmarl))
    assert all(getattr(rllib_seqmarl, name) is not None for name in rllib_seqmarl.__all__)
    with pytest.raises(AttributeError, match="no attribute 'PPO'"):
        _ = rllib_seqmarl.PPO


@pytest.mark.parametrize("name", registry.ALGORITHMS)
def test_algorithms_have_a_config_of_their_own(name: str) -> None:
    config = registry.config_class(name)()
    assert config.algo_class is registry.algorithm_class(name)
    assert type(registry.algorithm_class(name).get_default_config()) is type(config)


@pytest.mark.parametrize(
    ("alias", "name"),
    [("mat", "MAT"), ("SRSV", "SrSv"), ("SrSv", "SrSv"), ("aoad_mat", "AOAD-MAT")],
)
def test_spelling(alias: str, name: str) -> None:
    assert registry.algorithm_name(alias) == name


def test_unknown_names_have_a_hint() -> None:
    with pytest.raises(UserError, match=r"unknown algorithm 'SrSw'. Did you mean 'SrSv'\?"):
        registry.algorithm_class("SrSw")
    with pytest.raises(UserError, match="unknown environment 'atari'"):
        registry.environment("atari")


@pytest.fixture
def own_names() -> Iterator[None]:
    """What a test registers is forgotten after it."""
    tables = [registry.table(kind) for kind in ("algorithm", "environment", "order", "value")]
    before = [dict(table._targets) for table in tables]
    yield
    for table, targets in zip(tables, before, strict=True):
        table._targets = targets


class Game:
    """An environment whose class of settings stands beside it."""

    @settings
    class Settings:
        size: Annotated[int, Ge(1)] = 3

    settings = Settings

    def __init__(self, num_envs: int, config: Settings) -> None:
        self.num_envs, self.size = num_envs, config.size


class OwnOrder(IndexOrder):
    """An order."""


@pytest.mark.usefixtures("own_names")
def test_an_environment_from_outside() -> None:
    path = f"{__name__}:Game"
    registry.register_environment("game_from_outside", path, config=Game.Settings)
    for name in ("game_from_outside", path):
        made = registry.make_environment(name, 2, {"size": 5})
        assert (made.num_envs, made.size) == (2, 5)
        assert registry.environment(name).check({}) == {"size": 3}
        with pytest.raises(UserError, match="unknown env_config key 'sise'"):
            registry.environment(name).check({"sise": 5})
    creator = pickle.loads(pickle.dumps(registry.environment_creator("game_from_outside")))
    assert creator({"num_envs": 4, "size": 2}).size == 2


@pytest.mark.usefixtures("own_names")
def test_names_from_outside_become_import_paths() -> None:
    registry.register_order("own_order", OwnOrder)
    assert registry.ORDERS.portable("own_order") == f"{__name__}:OwnOrder"
    assert registry.ORDERS.portable("Random") == "random"
    assert registry.ORDERS.resolve(f"{__name__}:OwnOrder") is OwnOrder


@pytest.mark.parametrize(
    ("kind", "path", "message"),
    [
        ("order", f"{__name__}:Game", "is the class Game, and must be a subclass of"),
        ("order", "math:pi", "is a float, and must be a subclass of"),
        ("value", f"{__name__}:OwnOrder", "is the class OwnOrder, and must be a subclass of"),
        ("value", "os:getcwd", "is a builtin_function_or_method, and must be a subclass of"),
        ("network", f"{__name__}:OwnOrder", "is the class OwnOrder, and must be an instance of"),
        ("network", "math:pi", "is a float, and must be an instance of"),
    ],
)
def test_what_a_path_names_must_be_of_its_kind(kind: str, path: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        registry.table(kind).resolve(path)
    assert "\n" not in str(caught.value)


def test_names_that_cannot_be_registered() -> None:
    with pytest.raises(UserError, match="the order name 'random' is taken"):
        registry.register_order("random", Game)
    with pytest.raises(UserError, match="contains a colon"):
        registry.register_value("own:value", Game)


@pytest.mark.parametrize("path", ["no.such.module:Own", "rllib_seqmarl.errors:Own"])
def test_import_paths_that_cannot_be_imported(path: str) -> None:
    with pytest.raises(UserError, match=f"algorithm '{path}' cannot be imported: ") as caught:
        registry.algorithm_class(path)
    assert "\n" not in str(caught.value)


def test_old_names_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    assert [registry.NETWORKS.name("decentralised") for _ in range(2)] == ["mat_dec"] * 2
    assert len(caplog.messages) <= 1


@pytest.mark.parametrize("name", registry.ENVIRONMENTS)
def test_environments_have_a_summary(name: str) -> None:
    assert len(registry.summary(registry.ENVIRONMENTS[name])) > 20
