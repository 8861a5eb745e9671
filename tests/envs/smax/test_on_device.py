"""Arrays handed over by DLPack are those of `step`, and nothing is copied on the way."""

from __future__ import annotations

import numpy as np
import torch

from rllib_seqmarl import registry
from rllib_seqmarl.envs.core.contract import random_actions

smac = registry.environment("smac")


def test_steps_on_the_device_are_those_of_step() -> None:
    through_numpy, on_device = (smac.make(6, map_name="3m", max_steps=9) for _ in range(2))
    rng = np.random.default_rng(0)
    obs, _ = through_numpy.reset(seed=1)
    arrays, _ = on_device.reset_on_device(seed=1)
    ends = 0
    for _ in range(25):
        tensors = {name: torch.from_dlpack(array) for name, array in arrays.items()}
        assert tensors.keys() == obs.keys()
        for name, tensor in tensors.items():
            assert tensor.data_ptr() == arrays[name].unsafe_buffer_pointer()
            np.testing.assert_array_equal(tensor.numpy(), obs[name], err_msg=name)
        actions = random_actions(through_numpy, obs, rng)
        obs, *expected, _ = through_numpy.step(actions)
        arrays, *found = on_device.step_on_device(torch.from_numpy(actions).int())
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(torch.from_dlpack(one).numpy(), other)
        ends += int((expected[1] | expected[2]).sum())
    assert ends > 6  # over the ends of episodes as well


def test_what_was_handed_over_is_not_changed_by_later_steps() -> None:
    env = smac.make(4, map_name="3m")
    arrays, _ = env.reset_on_device(seed=2)
    stop = torch.full((4, 3), 4, dtype=torch.int32)
    kept = []
    for _ in range(5):
        arrays, reward, *_ = env.step_on_device(stop)
        tensor = torch.from_dlpack(arrays["obs"])
        kept.append((tensor, tensor.clone(), reward))
    assert all(torch.equal(tensor, copy) for tensor, copy, _ in kept)
    assert not torch.equal(kept[0][0], kept[-1][0])
