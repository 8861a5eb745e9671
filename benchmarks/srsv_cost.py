"""What SrSv's sequential value costs: its gradient step over MAT's, in time and in memory.

    python benchmarks/srsv_cost.py                    # N = 3 to 64, a few minutes
    python benchmarks/srsv_cost.py --agents 8 --rounds 20

A gradient step here is forward and backward pass over the rows of a minibatch, in micro-batches of
``--micro-batch`` rows, with the sizes of the battle 3s5z. All are timed in turn, round after
round, in processor time, and the shortest times compared: what else the machine does only adds to
a time. Memory is what the resident set of a process of its own grew by at most.
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
import time
from pathlib import Path

import torch

from rllib_seqmarl.nets.sequential_policy import SequentialPolicy
from rllib_seqmarl.nets.transformer.model import ActionSpec

AGENTS = (3, 5, 8, 16, 27, 64)
#: Value -> rows of a micro-batch: what MAT's and SrSv's configs have.
MICRO_BATCH = {"encoder": 400, "sequential_without_policy": 200, "sequential": 200}
OBS, ACTIONS, WIDTH = 205, 13, 64


class Step:
    """One gradient step of a policy on made-up rows."""

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
        self.micro_batch = arguments.micro_batch or MICRO_BATCH[value]
        self.obs = torch.randn(rows, agents, OBS)
        self.mask = torch.rand(rows, agents, ACTIONS) < 0.7
        self.mask[..., 0] = True
        self.actions = torch.zeros(rows, agents, dtype=torch.long)
        self.continuations = None
        if self.policy.value.prepares:
            self.continuations = torch.randint(ACTIONS, (rows, agents, agents))

    def __call__(self) -> None:
        self.policy.zero_grad(set_to_none=True)
        for start in range(0, len(self.obs), self.micro_batch):
            part = slice(start, start + self.micro_batch)
            continuations = None if self.continuations is None else self.continuations[part]
            evaluation = self.policy.evaluate(
                self.obs[part], self.mask[part], self.actions[part], None, continuations
            )
            loss = evaluation.values.square() - evaluation.log_prob.squeeze(-1)
            (loss - 0.01 * evaluation.entropy).mean().backward()


def resident(kind: str) -> float:
    """``VmRSS`` or its peak ``VmHWM`` of this process, in MiB."""
    found = re.search(rf"{kind}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def growth(step: Step, result: multiprocessing.SimpleQueue[float]) -> None:
    before = resident("VmRSS")
    step()
    result.put(resident("VmHWM") - before)


def memory(step: Step) -> float:
    """MiB by which a gradient step makes a new process grow."""
    context = multiprocessing.get_context("fork")
    result = context.SimpleQueue()
    process = context.Process(target=growth, args=(step, result))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"The step in a process of its own ended with {process.exitcode}.")
    return result.get()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--agents", type=int, nargs="+", default=AGENTS)
    parser.add_argument("--rows", type=int, help="rows of a minibatch; default 6400 / N")
    parser.add_argument("--micro-batch", type=int, help="rows; default the configs'")
    parser.add_argument("--chunk", type=int, default=131_072, help="value_chunk_size")
    parser.add_argument("--blocks", type=int, default=1)
    parser.add_argument("--heads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=8)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread, width {WIDTH}, obs {OBS}, A = {ACTIONS}")
    print("    N   rows   MAT ms  w/o pi ms  SrSv ms   w/o pi/MAT  SrSv/MAT   MAT MiB  SrSv MiB")
    for agents in arguments.agents:
        rows = arguments.rows or max(1, 6400 // agents)
        steps = [Step(value, agents, rows, arguments) for value in MICRO_BATCH]
        sizes = [memory(step) for step in steps]
        times: list[list[float]] = [[] for _ in steps]
        for _ in range(arguments.rounds):
            for step, taken in zip(steps, times, strict=True):
                begin = time.process_time()
                step()
                taken.append(time.process_time() - begin)
        mat, without, srsv = (1e3 * min(taken) for taken in times)
        print(
            f"{agents:5} {rows:6} {mat:8.1f} {without:10.1f} {srsv:8.1f} {without / mat:12.2f} "
            f"{srsv / mat:9.2f} {sizes[0]:9.0f} {sizes[2]:9.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
