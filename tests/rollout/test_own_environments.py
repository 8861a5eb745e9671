"""Environments of users that fail where they are made or played: one line that names them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rllib_seqmarl import registry
from rllib_seqmarl.envs.core.contract import VectorStep
from rllib_seqmarl.envs.toy.distinct_actions import DistinctActions
from rllib_seqmarl.errors import UserError


class Failing(DistinctActions):
    """Fails in the way that it is told, which is one of `FAILURES`."""

    def __init__(self, num_envs: int, what: str = "") -> None:
        self.what = what
        if what == "raises":
            raise RuntimeError("no licence")
        if what == "exits":
            sys.exit(0)
        if what != "is never set up":
            super().__init__(num_envs, registry.environment("distinct_actions").read({}))

    def _reset_envs(self) -> Any:
        if self.what == "reset fails":
            raise KeyError("map")
        return super()._reset_envs()

    def _step_envs(self, actions: Any, frozen: Any) -> VectorStep:
        if self.what == "step exits":
            sys.exit(0)
        step = super()._step_envs(actions, frozen)
        if self.what == "a last observation is NaN":
            self._last[0]["obs"][1, 2, 0] = np.nan
            return step._replace(terminated=np.zeros(8, bool), truncated=step.terminated)
        return step

    def step(self, actions: Any) -> Any:
        return 1 if self.what == "a step of its own" else super().step(actions)


PATH = f"{__name__}:Failing"
#: What fails -> what its line says.
FAILURES = {
    "raises": "Failing'.* cannot be built: RuntimeError: no licence",
    "exits": "Failing'.* cannot be built: SystemExit: 0",
    "is never set up": "Failing'.* cannot be built: AttributeError: .* no attribute 'single_obs",
    "a step of its own": r"step gave a int; expected \(observation, reward, terminated, trunc",
    "a last observation is NaN": "gave nan in the last 'obs' of the episode of env 1 that ended at "
    "step 0",
}


@pytest.mark.parametrize("what", FAILURES)
def test_what_fails_is_told_in_one_line(what: str, small: Any) -> None:
    config = small("MAT", env=PATH, env_config={"what": what})
    with pytest.raises(UserError, match=FAILURES[what]) as error:
        config.build_algo().train()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("reset fails", "failed in a reset: KeyError: 'map'. Fix it, or let it be built again"),
        ("step exits", r"failed in a step: RuntimeError: sys.exit\(0\) was called. Fix it, or"),
    ],
)
def test_what_fails_while_it_is_played_is_told(what: str, line: str, small: Any) -> None:
    """No mistake of the input: such an environment can be built again."""
    with pytest.raises(RuntimeError, match=rf"the environment \(.*\) {line}"):
        small("MAT", env=PATH, env_config={"what": what}).build_algo().train()


def test_what_fails_in_another_process_alone_is_told_here(small: Any) -> None:
    class Local(DistinctActions):
        def __init__(self, num_envs: int, worker_index: int = 0) -> None:
            if worker_index:
                raise RuntimeError(f"no licence for process {worker_index}")
            super().__init__(num_envs, registry.environment("distinct_actions").read({}))

    config = small("MAT", env=Local, env_config={}, num_env_runners=1)
    with pytest.raises(UserError, match="RuntimeError: no licence for process 1"):
        config.build_algo()


def nothing(num_envs: int) -> None:
    """Makes no environment."""


NUMBER = 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "makes a NoneType, which is no"),
        ("NUMBER", "NUMBER' is a int, which is no team"),
    ],
)
def test_what_is_no_environment_is_told(name: str, message: str, small: Any) -> None:
    with pytest.raises(UserError, match=message):
        small("MAT", env=f"{__name__}:{name}", env_config={}).build_algo()


#: A module's text -> why it cannot be imported.
MODULES = {
    "def f(:": "SyntaxError: invalid syntax",
    "undefined": "NameError: name 'undefined' is not defined",
    "raise SystemExit(0)": "SystemExit: 0",
    "open('/no/such/map')": "FileNotFoundError: .*'/no/such/map'",
    "import no_such_module": "No module named 'no_such_module'",
    "f = lambda: f()\nf()": "RecursionError: maximum recursion depth exceeded",
    "raise MemoryError": "MemoryError",
    "Game = 3": "has no attribute 'Own'",
}


@pytest.mark.parametrize("text", MODULES)
def test_a_module_that_cannot_be_imported(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = f"broken_{list(MODULES).index(text)}"
    (tmp_path / f"{module}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    for check in (
        lambda: registry.environment(f"{module}:Own"),
        lambda: registry.environment("pettingzoo").check({"env": f"{module}:Own"}),
    ):
        with pytest.raises(UserError, match=f"cannot be imported: .*{MODULES[text]}") as error:
            check()
        assert "\n" not in str(error.value)
