"""What SrSv's sequential value costs beside a gradient step of MAT, in time and in memory.

    python benchmarks/srsv_cost.py                    # N = 3 to 64, a few minutes
    python benchmarks/srsv_cost.py --agents 8 --rounds 20 --greedy-share 0

Columns are multiples of the time of MAT's gradient step on as many env steps: SrSv's with the value
loss of k = 2 and 4 drawn agents in each micro-batch and of all agents; the value without its
successors' policies; and what an iteration does once: the continuations (``prepare``) and the
values of all agents without gradients. ``--greedy-share`` is the share of taken actions that are
the most likely ones: the more, the more sequences are the same.

A gradient step here is forward and backward pass over the rows of a minibatch, in micro-batches of
``--micro-batch`` rows, with the sizes of the battle 3s5z. All are timed in turn, round after
round, in processor time, and the shortest times compared: what else the machine does only adds to
a time. Memory is what the resident set of a process of its own grew by at most, in MiB.
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from rllib_seqmarl.matmul import multiply_with
from rllib_seqmarl.nets.decoding.decode import decode
from rllib_seqmarl.nets.sequential_policy import SequentialPolicy
from rllib_seqmarl.nets.transformer.model import ActionSpec

AGENTS = (3, 5, 8, 16, 27, 64)
OBS, ACTIONS, WIDTH = 205, 13, 64

Work = Callable[[], None]


class Costs:
    """A policy on made-up env steps."""

    def __init__(self, value: str, agents: int, rows: int, arguments: argparse.Namespace) -> None:
        torch.manual_seed(0)
        self.policy = SequentialPolicy(
            obs_dim=OBS,
            action=ActionSpec(ACTIONS, discrete=True),
            num_agents=agents,
            embed_dim=WIDTH,
            num_blocks=arguments.blocks,
            num_heads=arguments.heads,
            value=value,
            value_settings={"chunk_size": arguments.chunk} if value == "sequential" else None,
        )
        self.micro_batch: int = arguments.micro_batch
        self.obs = torch.randn(rows, agents, OBS)
        self.mask = torch.rand(rows, agents, ACTIONS) < 0.7
        self.mask[..., 0] = True
        self.actions = self._actions(arguments.greedy_share)
        self.prepared = self.policy.prepare_value(self.obs, self.mask, self.actions)

    @torch.no_grad()
    def _actions(self, greedy_share: float) -> Tensor:
        """Actions of which that share are the most likely ones, the others random."""
        policy = self.policy
        noise = policy.distribution.noise(self.actions_shape, self.obs.device, None) * 1e4
        noise[torch.rand(self.actions_shape) < greedy_share] = 0.0
        encoded = policy.encoder(self.obs)
        decoded = decode(policy.decoder, policy.distribution, encoded, self.mask, noise, "cached")
        return decoded.actions.clone()

    @property
    def actions_shape(self) -> tuple[int, int]:
        """B and N."""
        return len(self.obs), self.obs.shape[1]

    def gradient_step(self, drawn: int | None = None) -> None:
        """With the value loss of so many agents, drawn for each micro-batch; None: of all."""
        agents = self.obs.shape[1]
        self.policy.zero_grad(set_to_none=True)
        for part in self._micro_batches():
            prepared = None if self.prepared is None else self.prepared[part]
            ids = None
            if drawn is not None and prepared is not None:
                ids = torch.randperm(agents)[:drawn].sort().values
                prepared = self.policy.value.select(prepared, ids)
            evaluation = self.policy.evaluate(
                self.obs[part], self.mask[part], self.actions[part], None, prepared, agent_ids=ids
            )
            loss = evaluation.values.square() - evaluation.log_prob.squeeze(-1)
            (loss - 0.01 * evaluation.entropy).mean().backward()

    def prepare(self) -> None:
        """What the values of all agents are given."""
        for part in self._micro_batches():
            self.policy.prepare_value(self.obs[part], self.mask[part], self.actions[part])

    @torch.no_grad()
    def values(self) -> None:
        """Of all agents, without gradients."""
        for part in self._micro_batches():
            prepared = None if self.prepared is None else self.prepared[part]
            self.policy.values(self.obs[part], self.actions[part], None, prepared)

    def _micro_batches(self) -> list[slice]:
        starts = range(0, len(self.obs), self.micro_batch)
        return [slice(start, start + self.micro_batch) for start in starts]


def resident(kind: str) -> float:
    """``VmRSS`` or its peak ``VmHWM`` of this process, in MiB."""
    found = re.search(rf"{kind}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def growth(work: Work, result: multiprocessing.SimpleQueue[float]) -> None:
    before = resident("VmRSS")
    work()
    result.put(resident("VmHWM") - before)


def memory(work: Work) -> float:
    """MiB by which some work makes a new process grow."""
    context = multiprocessing.get_context("fork")
    result = context.SimpleQueue()
    process = context.Process(target=growth, args=(work, result))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"The work in a process of its own ended with {process.exitcode}.")
    return result.get()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--agents", type=int, nargs="+", default=AGENTS)
    parser.add_argument("--rows", type=int, help="rows of a minibatch; default 6400 / N")
    parser.add_argument("--micro-batch", type=int, default=800, help="rows")
    parser.add_argument("--greedy-share", type=float, default=0.6, help="of taken actions")
    parser.add_argument("--chunk", type=int, default=131_072, help="value_chunk_size")
    parser.add_argument("--blocks", type=int, default=1)
    parser.add_argument("--heads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=8)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread, width {WIDTH}, obs {OBS}, A = {ACTIONS}")
    print(f"{arguments.greedy_share:.0%} of the actions taken are greedy")
    with multiply_with("auto"):
        for number, agents in enumerate(arguments.agents):
            times, sizes = measure(agents, arguments)
            if not number:
                print("    N   rows   MAT ms" + "".join(f"{name:>10}" for name in times))
            mat = times.pop("MAT")
            rows = arguments.rows or max(1, 6400 // agents)
            of_mat = "".join(f"{value / mat:10.2f}" for value in times.values())
            print(f"{agents:5} {rows:6} {1e3 * mat:8.1f}{1:10}{of_mat}")
            print("           MiB     " + "".join(f"{size:10.0f}" for size in sizes), flush=True)


def measure(agents: int, arguments: argparse.Namespace) -> tuple[dict[str, float], list[float]]:
    """Seconds and MiB of each kind of work, by name; MAT's gradient step first."""
    rows = arguments.rows or max(1, 6400 // agents)
    mat, srsv, without = (
        Costs(value, agents, rows, arguments)
        for value in ("encoder", "sequential", "sequential_without_policy")
    )
    works: dict[str, Work] = {
        "MAT": mat.gradient_step,
        "w/o pi": without.gradient_step,
        "k = 2": partial(srsv.gradient_step, 2),
        "k = 4": partial(srsv.gradient_step, 4),
        "all": srsv.gradient_step,
        "prepare": srsv.prepare,
        "values": srsv.values,
    }
    sizes = [memory(work) for work in works.values()]
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(arguments.rounds):
        for name, work in works.items():
            begin = time.process_time()
            work()
            times[name].append(time.process_time() - begin)
    return {name: min(taken) for name, taken in times.items()}, sizes


if __name__ == "__main__":
    main()
