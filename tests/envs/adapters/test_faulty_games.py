"""What games of others do wrong: told in one line that names game and method, or simply played."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium import spaces
from helpers.faulty_games import WRONG, Images

from rllib_seqmarl import registry
from rllib_seqmarl.errors import UserError

pettingzoo = registry.environment("pettingzoo")
WRONG_GAME = "helpers.faulty_games:wrong"

#: What is wrong -> what its line says beside the game's name.
TOLD = {
    "constructor raises": "the constructor raised RuntimeError: no licence",
    "constructor exits": "the constructor raised SystemExit: 0",
    "no agents at all": "has no agents: its possible_agents are empty",
    "an agent twice": "'left' stands twice in possible_agents",
    "agents raise": "possible_agents raised OSError: no map",
    "a space is missing": "the observation space of 'right' raised KeyError: 'right'",
    "an action space is missing": "the action space of 'right' raised KeyError: 'right'",
    "reset raises": "reset raised RuntimeError: simulator is not running",
    "reset exits": r"reset raised RuntimeError: sys.exit\(0\) was called",
    "reset without seed": "reset raised TypeError: .* unexpected keyword argument 'seed'",
    "old reset": r"reset returned a dict where it must return \(observations, infos\)",
    "reset returns None": r"reset returned a NoneType where it must return \(observations, infos\)",
    "infos of reset are None": "reset returned None as its infos",
    "observations are a list": r"reset returned .* as its observations",
    "step raises": "step raised RuntimeError: lost connection",
    "step exits": r"step raised RuntimeError: sys.exit\(0\) was called",
    "step returns None": r"step returned a NoneType where it must return \(observations, rewards, ",
    "old step": r"step returned a tuple of 4 where it must return \(observations, rewards, ",
    "rewards are None": "step returned None as its rewards",
    "a number as rewards": r"step returned 2\.0 as its rewards",
    "a reward is None": "step returned None as the reward of 'left'",
    "a reward is text": "step returned 'much' as the reward of 'left'",
    "a reward has two elements": r"step returned array\(\[1., 1.\]\) as the reward of 'left'",
    "terminations are a bool": "step returned False as its terminations",
    "truncations are None": "step returned None as its truncations",
    "infos are None": "step returned None as its infos",
    "an agent's infos are None": "the infos of 'left' are None",
    "a mask is None": r"the action_mask of 'left' has shape \(\) \(None\)",
    "a mask is too long": r"the action_mask of 'left' has shape \(4,\) .* say \(3,\)",
    "a mask is text": "the action_mask of 'left' holds other things than numbers",
    "an observation is None": r"the obs of 'left' has shape \(\) \(None\)",
    "an observation is a number": r"the obs of 'left' has shape \(\) \(1\.0\)",
    "an observation has an axis more": r"the obs of 'left' has shape \(1, 3\)",
    "an observation is longer": r"the obs of 'left' has shape \(4,\)",
    "an observation is text": "the obs of 'left' holds other things than numbers",
    "an observation is ragged": r"the obs of 'left' has shape ragged \(\[1, \[2\], 3\]\)",
    "an observation is no float": "the obs of 'left' holds other things than numbers",
    "a mask is ragged": r"the action_mask of 'left' has shape ragged",
    "agents change names": "'middle' is not in possible_agents",
    "rewards of strangers": "'middle' is not in possible_agents",
    "step lacks a key": "step raised KeyError: 'goal'",
    "step ends an iterator": "step raised StopIteration",
    "step recurses": "step raised RecursionError: maximum recursion depth",
    "step has no memory": "step raised MemoryError",
    "a space exits": "the observation space of 'left' raised SystemExit: 0",
    "agents exit": "possible_agents raised SystemExit: 0",
    "a space is a shape": r"the observation is \(3,\), not a space of gymnasium",
    "an action space is a number": "'left': the action space is 3; a team takes Discrete ones",
    "nobody is there": r"reset left nobody in `agents`",
    "close exits": "close raised SystemExit: 0",
    "close raises": "close raised RuntimeError: no window",
}
PLAYED = [what for what in WRONG if what not in TOLD]


@pytest.mark.parametrize("what", TOLD)
def test_one_line_names_the_game_and_the_method(what: str) -> None:
    with pytest.raises(UserError, match=TOLD[what]) as error:
        pettingzoo.check({"env": WRONG_GAME, "kwargs": {"what": what}})
    line = str(error.value)
    assert line.startswith(f"pettingzoo: {WRONG_GAME}")
    assert "\n" not in line


@pytest.mark.filterwarnings("ignore:an old form")
@pytest.mark.parametrize("what", PLAYED)
def test_what_is_unusual_is_played(what: str) -> None:
    config = {"env": WRONG_GAME, "kwargs": {"what": what}}
    pettingzoo.check(config)
    env = pettingzoo.make(1, **config)
    env.reset(seed=0)
    steps = [env.step(np.zeros((1, 2), int)) for _ in range(10)]
    ends = [bool(step[2][0] or step[3][0]) for step in steps]
    assert ends == [False, False, False, False, True] * 2  # five steps, as `agents` says
    assert [float(step[1][0]) for step in steps] == [2.0] * 10
    env.close()


def test_a_game_that_no_longer_names_anybody_is_over() -> None:
    """Flags that are never set do not keep a game going whose agents are gone."""
    config = {"env": WRONG_GAME, "kwargs": {"what": "no terminations"}}
    env = pettingzoo.make(1, **config)
    env.reset(seed=0)
    ended = [env.step(np.zeros((1, 2), int))[2:4] for _ in range(5)][-1]
    assert bool(ended[0][0])
    assert not bool(ended[1][0])


@pytest.mark.parametrize("form", ["image", "dict", "tuple", "nested", "vector"])
def test_bytes_are_scaled_alike_wherever_they_stand(form: str) -> None:
    env = pettingzoo.make(
        1, env="helpers.faulty_games:Images", kwargs={"form": form}, flatten=True, agent_id=False
    )
    obs, _ = env.reset(seed=0)
    game = Images(form)
    game.reset()
    expected = np.asarray(spaces.flatten(game.space, game.seen), np.float32)
    expected[expected == 255] = 1.0
    np.testing.assert_array_equal(obs["obs"][0, 0], expected)
