"""Trials side by side: no more of them than cores, and none that uses more than its own."""

from __future__ import annotations

import json
from itertools import combinations

from rllib_seqmarl.cli import main

EXPERIMENT = """\
import json, os, time
import psutil, ray, torch
from ray import tune
from rllib_seqmarl import MATConfig

OUT = {out!r}
began = []

def note(algorithm, result, **rest):
    used = psutil.Process().cpu_times()
    began.append((time.time(), used.user + used.system))
    (first, before), (now, after) = began[0], began[-1]
    note = {{
        "began": first, "now": now, "cpu": after - before, "torch": torch.get_num_threads(),
        "omp": os.environ["OMP_NUM_THREADS"],
        "assigned": ray.get_runtime_context().get_assigned_resources()["CPU"],
    }}
    with open(os.path.join(OUT, str(os.getpid())), "w") as file:
        json.dump(note, file)

config = (
    MATConfig()
    .environment("distinct_actions")
    .env_runners(num_env_runners=0, num_envs_per_env_runner=16, rollout_fragment_length=32)
    .training(num_epochs=4)
    .callbacks(on_train_result=note)
    .debugging(seed=tune.grid_search([1, 2, 3]))
)
stop = {{"training_iteration": 10}}
"""


def test_trials_share_the_cores(tmp_path, no_ray, monkeypatch):
    # What Ray sets in the processes of trials is what they have where the user sets nothing.
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    notes_folder = tmp_path / "notes"
    notes_folder.mkdir()
    file = tmp_path / "three.py"
    file.write_text(EXPERIMENT.format(out=str(notes_folder)))

    storage = ("--storage-path", str(tmp_path / "results"))
    assert main(["train", "file", str(file), *storage, "--ray-num-cpus", "2"]) == 0

    notes = [json.loads(note.read_text()) for note in notes_folder.iterdir()]
    assert len(notes) == 3
    for note in notes:
        assert (note["torch"], note["omp"], note["assigned"]) == (1, "1", 1.0)
        # Ray's own threads, which mostly wait, are counted in.
        assert note["cpu"] < 1.3 * (note["now"] - note["began"]) + 0.5
    together = [a["now"] > b["began"] and b["now"] > a["began"] for a, b in combinations(notes, 2)]
    assert not all(together)
