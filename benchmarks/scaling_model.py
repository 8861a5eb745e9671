"""A model of the training iteration on a cluster, from costs that are measured on one machine.

R runners sample B = T x E environment steps each, on a core of their own. L learners share what
was sampled; L = 0 is one in the driver. Seconds of an iteration:

    t_sample = B s + D / beta                 a runner plays and writes its rollout of D bytes
    t_learn  = R B l / max(1, L) + G a (L - 1) + G 2 W / nu (L - 1) / L
                                              all epochs of a step; G gradients averaged
    t_driver = c + L u + R (h + D ([L > 0] / beta + 1 / nu + [L > 0] / nu))
                                              calls, reports; rollouts in, and on to the learners
    t_weights = w + R (h_w + W_i / (P nu))    one object, which each node fetches once

    t = t_sample + t_learn + t_driver + t_weights          async_sampling: false
    t = max(t_sample, t_learn + t_driver + t_weights)      async_sampling: true

    steps per second = R B / t

All but t_sample is what the learner's side does, one after another: x + R k, with x and k free of
R. It saturates at R* = (t_sample - x) / k runners, where it takes as long as t_sample: with more,
asynchronous sampling hides all of the sampling, and steps per second come to their limit B / k.

s: seconds to play a step; l: seconds to learn from it; beta: bytes per second into the object
store; a: seconds of averaging one gradient beyond its bytes; h, h_w: driver's seconds per runner
for a rollout and for the weights; u: per learner, for an update; c, w: the same per iteration; W,
W_i: bytes of a gradient and of the weights that act; nu: the network's bytes per second, infinite
on one machine; P: runners per node, who share a node's copy of the weights.

Left out: runners of unequal speed (the slowest is waited for) or that fail; cores or memory
bandwidth that runners of one node share; learners that learn more slowly or faster than in this
process (other cores, GPUs: see the option for it) and a network whose links differ; rollouts that
do not fit the object store of the driver's node, which holds R D bytes; and whether learning from
R B steps per iteration is any good.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os

import ray
from scaling_players import Layout, Player, num_bytes, probe, stored_bytes

RUNNERS = (10, 30, 100, 300, 1000)
LEARNERS = (1, 2, 4, 8)

#: The model is fitted to the first; averaging and calls are seen in the others.
FITTED, AVERAGING, MANY = Layout(1, 1), Layout(2, 2), Layout(4, 1)
ASYNC = [Layout(runners, 0, async_) for runners in (1, 2) for async_ in (False, True)]
CHECKED = [Layout(0, 0), *ASYNC[:2], FITTED, Layout(2, 0), Layout(2, 1), AVERAGING]


@dataclasses.dataclass(frozen=True)
class Costs:
    """What was measured; the letters are those of the module's docstring.

    Attributes:
        steps: B, environment steps of a runner per iteration.
        sample: s, seconds per environment step.
        learn: l, seconds per environment step, all epochs.
        rollout: D, bytes.
        store: beta, bytes per second.
        gradient_steps: G per iteration.
        all_reduce: a, seconds.
        rollout_call: h, seconds.
        update_call: u, seconds.
        weights_call: h_w, seconds.
        fixed: c, seconds.
        weights: w, seconds.
        acting_bytes: W_i.
        gradient_bytes: W.
    """

    steps: int
    sample: float
    learn: float
    rollout: int
    store: float
    gradient_steps: int
    all_reduce: float
    rollout_call: float
    update_call: float
    weights_call: float
    fixed: float
    weights: float
    acting_bytes: int
    gradient_bytes: int


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Where it runs.

    Attributes:
        learners: L, 0 for one in the driver.
        network: nu, bytes per second; infinite on one machine.
        runners_per_node: P.
    """

    learners: int
    network: float = math.inf
    runners_per_node: int = 32


def sampling(costs: Costs) -> float:
    """t_sample in seconds."""
    return costs.steps * costs.sample + costs.rollout / costs.store


def learner_side(costs: Costs, cluster: Cluster, runners: int) -> dict[str, float]:
    """What is done one after another beside the runners, in seconds."""
    count, remote = max(1, cluster.learners), float(cluster.learners > 0)
    wire = 1 / cluster.network
    averaging = costs.all_reduce * (count - 1)
    averaging += 2 * costs.gradient_bytes * wire * (count - 1) / count
    transport = costs.rollout * (remote / costs.store + wire + remote * wire)
    fetched = costs.acting_bytes * wire / cluster.runners_per_node
    return {
        "learn": runners * costs.steps * costs.learn / count + costs.gradient_steps * averaging,
        "driver": costs.fixed
        + cluster.learners * costs.update_call
        + runners * (costs.rollout_call + transport),
        "weights": costs.weights + runners * (costs.weights_call + fetched),
    }


def seconds(costs: Costs, cluster: Cluster, runners: int, async_: bool) -> float:
    """t, of one iteration."""
    other = sum(learner_side(costs, cluster, runners).values())
    return max(sampling(costs), other) if async_ else sampling(costs) + other


def steps_per_second(costs: Costs, cluster: Cluster, runners: int, async_: bool) -> float:
    """Environment steps per second of whole iterations."""
    return runners * costs.steps / seconds(costs, cluster, runners, async_)


def lines(costs: Costs, cluster: Cluster) -> tuple[float, float]:
    """x and k: seconds of the learner's side without runners, and per runner."""
    none, one = (sum(learner_side(costs, cluster, runners).values()) for runners in (0, 1))
    return none, one - none


def saturation(costs: Costs, cluster: Cluster) -> float:
    """R*, below 1 where the learner's side takes longer than a single runner."""
    none, each = lines(costs, cluster)
    return (sampling(costs) - none) / each


def limit(costs: Costs, cluster: Cluster) -> float:
    """Environment steps per second of ever more runners."""
    return costs.steps / lines(costs, cluster)[1]


def fit(players: dict[Layout, Player]) -> Costs:
    """The costs of an algorithm, most of them from one runner and one learner beside the driver."""
    one, pair, many = players[FITTED], players[AVERAGING], players[MANY]
    rollout = one.rollout()
    size = stored_bytes(rollout)
    writing = probe(lambda: ray.put(rollout))
    rollout_call, weights_call = (
        (take(many) - take(one)) / (MANY.runners - FITTED.runners)
        for take in (Player.seconds_of_reports, Player.seconds_of_weights)
    )
    learn = one.median("learn") + one.median("put shares together")
    update_call = one.median("rollouts to learners") - writing
    update_call += one.median("learners' metrics to the driver")
    known = one.median("sample") + learn + one.median("send weights")
    known += 2 * writing + rollout_call + update_call
    return Costs(
        steps=one.steps,
        sample=one.median("sample") / one.steps,
        learn=learn / one.steps,
        rollout=size,
        store=size / writing,
        gradient_steps=round(pair.median("gradients")),
        all_reduce=pair.median("averaging") / pair.median("gradients"),
        rollout_call=rollout_call,
        update_call=update_call,
        weights_call=weights_call,
        fixed=one.median("whole") - known,
        weights=one.median("send weights") - weights_call,
        acting_bytes=num_bytes(one.acting_weights()),
        gradient_bytes=num_bytes(one.learners.get_state(components="learner/rl_module")),
    )


def print_check(players: dict[Layout, Player]) -> Costs:
    """The costs, and the model beside what was measured with a core for every process."""
    costs, cores = fit(players), os.cpu_count() or 1
    print("\nMeasured costs: ", end="")
    print(", ".join(f"{name} {value:.3g}" for name, value in dataclasses.asdict(costs).items()))
    print("\n| runners | learners | async | measured s | model s | error |")
    print("|---:|---:|---|---:|---:|---:|")
    for layout in CHECKED:
        if layout.cores > cores:
            continue
        found, cluster = players[layout].median("whole"), Cluster(layout.learners)
        said = seconds(costs, cluster, max(1, layout.runners), layout.async_)
        print(
            f"| {layout.cells(cores)} | {'yes' if layout.async_ else 'no'} | {found:.3f} | "
            f"{said:.3f} | {said / found - 1:+.1%}{' (fitted)' if layout == FITTED else ''} |"
        )
    return costs


def print_prediction(costs: Costs, options: argparse.Namespace) -> None:
    """Tables of large clusters, in Markdown."""
    network = options.network_gbit * 1e9 / 8 if options.network_gbit else math.inf
    where = f", {options.network_gbit:g} Gbit/s" if options.network_gbit else ""
    clusters = [Cluster(learners, network, options.runners_per_node) for learners in LEARNERS]
    for speedup in options.learner_speedups:
        faster = dataclasses.replace(costs, learn=costs.learn / speedup)
        what = "as measured" if speedup == 1 else f"{speedup:g} times as fast"
        print(f"\nPredicted environment steps per second, learners {what}{where}:\n")
        print("| runners | GB per iteration |", end="")
        for learners in LEARNERS:
            print(f" {learners} learner{'s' * (learners > 1)} | async |", end="")
        print("\n|" + "---:|" * (2 + 2 * len(LEARNERS)))
        for runners in RUNNERS:
            print(f"| {runners:,} | {runners * costs.rollout / 1e9:.2g} |", end="")
            for cluster in clusters:
                for async_ in (False, True):
                    print(f" {steps_per_second(faster, cluster, runners, async_):,.0f} |", end="")
            print()
        print("| any, at most | |", end="")
        print("".join(f" {limit(faster, cluster):,.0f} | |" for cluster in clusters))
        print("| R* | |", end="")
        for cluster in clusters:
            found = saturation(faster, cluster)
            print(f" {'< 1' if found < 1 else f'{found:,.1f}'} | |", end="")
        print()
