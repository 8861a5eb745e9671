"""Throughput over runners and learners, what their transport costs, and what a cluster would do.

    python benchmarks/scaling.py                                # MAT, 3s5z and 256 cars
    python benchmarks/scaling.py --algorithms SrSv MAPPO --cases 3s5z
    python benchmarks/scaling.py --cases 1024cars --parts bytes transport
    python benchmarks/scaling.py --algorithms MAT --env my_package.my_module:MyTeamEnv \
        --env-config '{"size": 5}' --settings '{"num_epochs": 5}'

Tables in Markdown: environment steps per second by number of runners and learners; bytes of an
environment step by column; where the seconds of an iteration go between the processes; what
``async_sampling`` gains; and the iteration on clusters of 10 to 1,000 runners, by the model of
scaling_model.py, which is checked against the rows that have a core for every process at work.

What is compared lives at the same time and takes turns of one iteration, another one first in every
round; numbers are medians over rounds. A turn ends when all of its runners are idle, so that no
rollout is left to the time of the next. Idle processes hold memory, about 0.6 GB per runner on
SMAX: ``--processes`` says how many there may be, after which the rest of the throughput's rows
live in another group, with a reference of its own. ``async`` and ``model`` are for algorithms that
can sample asynchronously.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import os
import time
from typing import Any

import ray
import scaling_players
import torch
from scaling_model import ASYNC, AVERAGING, CHECKED, FITTED, MANY, print_check, print_prediction
from scaling_players import PROBES, Layout, Player, Stamps, num_bytes, stamp, stored_bytes

from rllib_seqmarl import registry
from rllib_seqmarl.learning.base import algorithm as training

PARTS = ("bytes", "transport", "async", "model", "throughput")
REFERENCE = Layout(0, 0)
CASES: dict[str, dict[str, Any]] = {
    "3s5z": {
        "env": "smac",
        "env_config": {"map_name": "3s5z"},
        "num_envs_per_env_runner": 32,
        "rollout_fragment_length": 100,
        "num_epochs": 10,
    },
    "256cars": {
        "env": "dubins_car",
        "env_config": {"num_agents": 256},
        "num_envs_per_env_runner": 2,
        "rollout_fragment_length": 16,
        "num_epochs": 5,
        "micro_batch_size": 4,
    },
    "1024cars": {
        "env": "dubins_car",
        "env_config": {"num_agents": 1024},
        "num_envs_per_env_runner": 2,
        "rollout_fragment_length": 16,
        "num_epochs": 2,
        "micro_batch_size": 1,
    },
}

#: What else an algorithm with a central critic needs: SMAX's state; with cars, what each car sees.
CENTRAL_CRITIC: dict[str, dict[str, Any]] = {
    "3s5z": {"env_config": {"map_name": "3s5z", "state": True}},
    "256cars": {"state": "observation"},
    "1024cars": {"state": "observation"},
}


def print_throughput(groups: list[dict[Layout, Player]], grid: list[Layout]) -> None:
    """The table of all layouts, each beside the reference of its own group."""
    cores = os.cpu_count() or 1
    print("\n| runners | learners | sampling | learning | training | ratio |")
    print("|---:|---:|---:|---:|---:|---:|")
    for layout in grid:
        group = next(group for group in groups if layout in group)
        player, reference = group[layout], group[REFERENCE]
        rates = [player.steps / player.median(x) for x in ("sampling", "learning", "whole")]
        figures = " | ".join(f"{rate:,.0f}" for rate in rates)
        ratio = rates[2] * reference.median("whole") / reference.steps
        print(f"| {layout.cells(cores)} | {figures} | {ratio:.2f} |")
    print(
        f"\nEnvironment steps per second; {cores} cores for all processes. ratio: of training to "
        "that of one process which took turns with it. * more processes at work than cores: such "
        "rows show contention, not scaling."
    )


def print_bytes(player: Player) -> None:
    """The table of columns."""
    rollout = player.rollout()
    parts = {name: column.nbytes for name, column in rollout.columns.items()}
    parts |= {
        f"recurrent state {name}": value.nbytes for name, value in rollout.recurrent_state.items()
    }
    if rollout.final is not None:
        parts["at truncation"] = sum(column.nbytes for column in rollout.final.columns.values())
    stored, steps = stored_bytes(rollout), rollout.num_env_steps
    print("\n| column | bytes per environment step | share |\n|---|---:|---:|")
    for name, size in sorted(parts.items(), key=lambda part: -part[1]):
        print(f"| {name} | {size / steps:,.1f} | {size / stored:.1%} |")
    rest = stored - sum(parts.values())
    print(f"| names, shapes, alignment | {rest / steps:,.1f} | {rest / stored:.1%} |")
    print(f"| rollout in Ray's object store | {stored / steps:,.1f} | {stored / 1e6:.2f} MB each |")
    report = stored_bytes(player.on_runners(lambda runner: runner.get_metrics())[0])
    print(f"| metrics beside it | {report / steps:,.1f} | {report / 1e3:.1f} kB each |")


def print_transport(player: Player) -> None:
    """Where an iteration's seconds go, and how weights are sent."""
    layout = player.layout
    total = sum(player.median(stage) for stage in player.stages)
    print(f"\n| runners {layout.runners}, learners {layout.learners} | ms | share |")
    print("|---|---:|---:|")
    for stage in player.stages:
        print(
            f"| {stage} | {1e3 * player.median(stage):,.1f} | {player.median(stage) / total:.1%} |"
        )
    own = sum(player.median(stage) for stage in ("sample", "learn"))
    print(f"| all but sampling and learning | {1e3 * (total - own):,.1f} | {1 - own / total:.1%} |")
    averaging = player.median("averaging")
    print(
        f"| averaging of gradients, in `learn` | {1e3 * averaging:,.1f} | {averaging / total:.1%} |"
    )
    puts: Stamps = {}
    sent: list[Any] = []
    put, send = ray.put, player.group.foreach_env_runner_async_fetch_ready

    def listen(*args: Any, **kwargs: Any) -> Any:
        sent.append(kwargs["kwargs"]["state"])
        return send(*args, **kwargs)

    player.group.foreach_env_runner_async_fetch_ready = listen
    stamp(ray, "put", puts)
    try:
        player.seconds_of_weights()
    finally:
        ray.put = put
        del player.group.foreach_env_runner_async_fetch_ready
    print(
        f"\nWeights that act: {num_bytes(player.acting_weights()) / 1e3:,.0f} kB, written "
        f"{len(puts['put']) / PROBES:g} times per iteration for {layout.runners} runners, who are "
        f"sent {'a reference' if isinstance(sent[0], ray.ObjectRef) else 'a copy each'}; taking "
        f"them over takes a runner {1e3 * player.median('take weights'):.1f} ms."
    )


def print_async(players: dict[Layout, Player]) -> None:
    """What asynchronous sampling gains."""
    print(
        "\n| runners | learners | async_sampling: false | true | gain |\n|---:|---:|---:|---:|---:|"
    )
    cores = os.cpu_count() or 1
    for without, async_ in zip(ASYNC[::2], ASYNC[1::2], strict=True):
        rates = [players[one].steps / players[one].median("whole") for one in (without, async_)]
        gain = rates[1] / rates[0]
        print(f"| {async_.cells(cores)} | {rates[0]:,.0f} | {rates[1]:,.0f} | {gain:.2f} |")
    print("\nEnvironment steps per second. * more processes at work than cores.")


def layouts(options: argparse.Namespace) -> dict[str, list[Layout]]:
    """What each part is measured with."""
    needed = {
        "bytes": [FITTED],
        "transport": [FITTED, AVERAGING],
        "async": ASYNC,
        "model": [*CHECKED, MANY],
        "throughput": [Layout(r, n) for n in options.learners for r in options.runners],
    }
    return {part: needed[part] for part in needed if part in options.parts}


def grouped(needed: dict[str, list[Layout]], processes: int) -> list[list[Layout]]:
    """What lives at the same time: all that is compared, and no more than memory holds."""
    compared = [layouts for part, layouts in needed.items() if part != "throughput"]
    groups = [sorted({REFERENCE, *itertools.chain(*compared)})]
    for layout in needed.get("throughput", []):
        if layout in groups[0]:
            continue
        if sum(one.processes for one in groups[-1]) + layout.processes > processes:
            groups.append([REFERENCE])
        groups[-1].append(layout)
    return groups


def run_case(
    case: str, algorithm: str, settings: dict[str, Any], driver: Stamps, options: argparse.Namespace
) -> None:
    """All tables of an algorithm in an environment."""
    begin, building = time.perf_counter(), 0.0
    needed, done = layouts(options), []
    for group in grouped(needed, options.processes):
        building -= time.perf_counter()
        players = {layout: Player(algorithm, layout, settings) for layout in group}
        building += time.perf_counter()
        order = list(players.values())
        for _ in range(options.rounds + 1):
            order.append(order.pop(0))
            for player in order:
                player.turn(driver)
        if not done:
            steps = players[REFERENCE].steps
            print(f"\n## {algorithm}, {case}: {steps:,} environment steps per runner and iteration")
            print_compared(needed, players, options)
        for player in order:
            player.stop()
        done.append(players)
    if "throughput" in needed:
        print_throughput(done, needed["throughput"])
    print(
        f"\n({sum(map(len, done))} algorithms built in {building:.0f} s; {options.rounds} rounds; "
        f"{time.perf_counter() - begin:.0f} s in all.)",
        flush=True,
    )


def print_compared(
    needed: dict[str, list[Layout]], players: dict[Layout, Player], options: argparse.Namespace
) -> None:
    """All tables but that of throughput."""
    for part in needed:
        if part == "bytes":
            print_bytes(players[FITTED])
        elif part == "transport":
            for layout in needed[part]:
                print_transport(players[layout])
        elif part == "async":
            print_async(players)
        elif part == "model":
            print_prediction(print_check(players), options)


def case_settings(case: str, algorithm: str, options: argparse.Namespace) -> dict[str, Any]:
    """The config of a case."""
    if options.env:
        chosen = {"env": options.env, "env_config": options.env_config}
    else:
        chosen = CASES[case]
        if hasattr(registry.config_class(algorithm)(), "state"):
            chosen = {**chosen, **CENTRAL_CRITIC[case]}
    return {**chosen, **options.settings}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--algorithms", nargs="+", default=["MAT"])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=["3s5z", "256cars"])
    parser.add_argument("--env", help="an environment instead of the cases")
    parser.add_argument("--env-config", type=json.loads, default={}, help="JSON, with --env")
    parser.add_argument("--settings", type=json.loads, default={}, help="config keys as JSON")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--runners", type=int, nargs="+", default=[0, 1, 2, 4])
    parser.add_argument("--learners", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=3, help="turns of every algorithm")
    parser.add_argument("--processes", type=int, default=24, help="alive at the same time")
    parser.add_argument(
        "--network-gbit", type=float, help="of every node, for the model; default: one machine"
    )
    parser.add_argument("--runners-per-node", type=int, default=32, help="for the model")
    parser.add_argument(
        "--learner-speedups",
        type=float,
        nargs="+",
        default=[1.0, 20.0],
        help="for the model: how many times as fast as a core here (1: as measured)",
    )
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    ray.cloudpickle.register_pickle_by_value(scaling_players)  # what is timed lacks this folder
    ray.init(
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=2 * 1024**3,
    )
    driver: Stamps = {}
    stamp(training, "shard", driver)
    for case in [options.env] if options.env else options.cases:
        for algorithm in options.algorithms:
            settings = case_settings(case, algorithm, options)
            run_case(case, algorithm, settings, driver, options)


if __name__ == "__main__":
    main()
