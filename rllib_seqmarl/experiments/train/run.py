"""Runs experiments with Ray Tune: check everything, connect, train, report."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from rllib_seqmarl import registry
from rllib_seqmarl.errors import UserError
from rllib_seqmarl.experiments.checkpoints import find as checkpoints
from rllib_seqmarl.experiments.checkpoints import trust
from rllib_seqmarl.experiments.checkpoints.score import SCORE, with_score
from rllib_seqmarl.experiments.checkpoints.storage import ExperimentFolder
from rllib_seqmarl.experiments.spec.experiment import ExperimentSpec
from rllib_seqmarl.experiments.spec.grids import variants
from rllib_seqmarl.experiments.spec.sampling import with_domains
from rllib_seqmarl.experiments.train import ray_session
from rllib_seqmarl.experiments.train.ray_session import RunOptions

if TYPE_CHECKING:
    from ray.tune import Callback, Trainable

    from rllib_seqmarl.experiments.train.report import Outcome
    from rllib_seqmarl.experiments.train.shutdown import Signals

__all__ = ["RunOptions", "train"]


def train(specs: Sequence[ExperimentSpec], options: RunOptions) -> int:
    """Trains experiments one after the other.

    Returns:
        The exit status of the command: 0, 1 if a trial failed, 128 + n if stopped by signal n.

    Raises:
        UserError: something in the input is wrong; nothing has been started or changed then.
    """
    console = Console(highlight=False)
    names = [spec.name for spec in specs]
    for line in _choose_names(specs, options):
        console.print(line, markup=False, soft_wrap=True)
    folders = [ExperimentFolder(spec) for spec in specs]
    resumes = _check_folders(folders, options)

    ray_session.prepare(options)
    from rllib_seqmarl.experiments.spec import check as configs
    from rllib_seqmarl.experiments.train import loggers, report
    from rllib_seqmarl.experiments.train.shutdown import Signals

    ray_session.set_log_levels(options.verbose)
    checked = [configs.check(spec) for spec in specs]
    restored = [
        (spec, trials, _find_restore(spec, console))
        for spec, trials, resume in zip(specs, checked, resumes, strict=True)
        if spec.restore is not None and not resume
    ]
    for spec, trials, path in restored:
        if (note := trust.note(path)) is not None:
            console.print(note, markup=False, soft_wrap=True)
        _check_restore(spec, path, trials)
    trackers = [
        loggers.trackers(spec, options, folder) for spec, folder in zip(specs, folders, strict=True)
    ]
    renamed = len(specs) == 1 and specs[0].name != names[0]
    resume_line = _resume_line(options, specs[0].name if renamed else None)
    outcomes: list[report.Outcome] = []
    with Signals(resume_line) as signals, ExitStack() as locks:
        for folder in folders:
            for line in locks.enter_context(folder.hold()):
                console.print(line, markup=False, soft_wrap=True)
        if _check_folders(folders, options) != resumes:  # another training was here and has gone
            raise UserError("another training was here in the meantime: run the command again.")
        # Only now: what the folders were started with is compared with the config as checked.
        trial_ids = [
            folder.check_resume() if resume else []
            for folder, resume in zip(folders, resumes, strict=True)
        ]
        for line in _notes(specs, folders, resumes):
            console.print(line, markup=False, soft_wrap=True)
        local = locks.enter_context(ray_session.connection(options))
        signals.install()
        registry.register()
        if local:
            for spec, variants in zip(specs, checked, strict=True):
                _check_resources(spec, configs.algorithm_class(spec), variants)
        for spec, folder, resume, ids, others in zip(
            specs, folders, resumes, trial_ids, trackers, strict=True
        ):
            if signals.received is None:
                outcomes.append(_run(spec, folder, signals, console, resume, ids, others))

    stopped_by = signals.name if signals.received is not None else None
    for line in report.lines(outcomes, stopped_by=stopped_by, resume=resume_line):
        console.print(line, markup=False, soft_wrap=True)
    if signals.received is not None:
        return 128 + signals.received
    return 1 if any(outcome.failed() for outcome in outcomes) else 0


def _notes(
    specs: Sequence[ExperimentSpec], folders: Sequence[ExperimentFolder], resumes: Sequence[bool]
) -> Iterator[str]:
    """What is worth saying of experiments before they start, a line each."""
    from rllib_seqmarl.experiments.checkpoints import resuming

    for spec, folder, resume in zip(specs, folders, resumes, strict=True):
        for note in (*spec.notes, *(f"{spec.name}: {note}" for note in folder.notes)):
            yield f"note: {note}"
        if folder.moved:
            yield resuming.note(spec.name, folder.moved)
        if resume and spec.search.scheduler is not None:
            yield (
                f"note: {spec.name}: {spec.search.scheduler['type']} starts again with the trials "
                "that are not finished; it no longer compares them with those that are."
            )


def _choose_names(specs: Sequence[ExperimentSpec], options: RunOptions) -> list[str]:
    """Gives experiments whose name nobody said the next free one, or that of the latest to go on.

    Returns:
        A line on each experiment that has another name than its file says.
    """
    lines = []
    names = {spec.name for spec in specs}
    for spec in specs:
        there = [] if spec.name_given else ExperimentFolder(spec).numbers_there()
        numbers = [n for n in there if n == 1 or f"{spec.name}-{n}" not in names]
        if not numbers or (options.resume and max(numbers) == 1):
            continue
        number, line = max(numbers), f"going on with the latest of {len(numbers)} of this name"
        if not options.resume:
            number, line = max(there) + 1, "there are results of this name already"
            while f"{spec.name}-{number}" in names:
                number += 1
        name = f"{spec.name}-{number}"
        lines.append(f"{spec.name}: {line}; this one is called {name}.")
        spec.name = name
    return lines


def _check_folders(folders: Sequence[ExperimentFolder], options: RunOptions) -> list[bool]:
    """For each experiment, whether it goes on (True) or starts (False)."""
    seen: set[str] = set()
    for folder in folders:
        if str(folder) in seen:
            raise UserError(f"two experiments would write to {folder}; give them different names.")
        seen.add(str(folder))
    if not options.resume:
        for folder in folders:
            folder.check_new()
        return [False] * len(folders)
    resumes = [folder.can_resume() for folder in folders]
    if not any(resumes) and not options.start:
        raise UserError(
            f"--resume: {folders[0]} holds nothing to go on with. Check --storage-path and "
            "--experiment-name, or leave --resume away to start."
        )
    return resumes


def _find_restore(spec: ExperimentSpec, console: Console) -> Path:
    """The checkpoint that ``restore`` means."""
    assert spec.restore is not None
    try:
        return checkpoints.find(
            spec.restore,
            lambda line: console.print(line, markup=False, soft_wrap=True),
            best=False,  # training goes on where it was
        )
    except UserError as error:
        raise UserError(f"{spec.source}: restore: {error}") from None


def _check_restore(spec: ExperimentSpec, path: Path, variants: Sequence[Mapping[str, Any]]) -> None:
    """Makes sure that ``restore`` is a sound checkpoint of the same algorithm and network."""
    from rllib_seqmarl.experiments.evaluate.evaluation import CheckpointPolicy
    from rllib_seqmarl.experiments.spec import check as configs

    try:
        trained = checkpoints.check(path)
    except UserError as error:
        raise UserError(f"{spec.source}: restore: {error}") from None
    runs = configs.algorithm_class(spec).__name__
    if trained != runs:
        raise UserError(
            f"{spec.source}: restore: {path} is a checkpoint of {trained}, and this experiment "
            f"runs {runs}."
        )
    for variant in variants:
        module = configs.module_of_trial(spec, variant)
        if module is None:
            continue
        module.accepts_other_sizes = True  # another team is no other network
        try:
            CheckpointPolicy(str(path)).restore(module)
        except UserError as error:
            raise UserError(f"{spec.source}: restore: {error}") from None
    spec.restore = str(path)


def _check_resources(
    spec: ExperimentSpec, algorithm: type[Trainable], variants: Sequence[dict[str, Any]]
) -> None:
    """Makes sure that the local Ray can run the trials at all (a cluster may grow)."""
    import ray

    there = ray.cluster_resources()
    for config in variants:
        needed = algorithm.default_resource_request(config).required_resources
        for resource, amount in needed.items():
            if amount > there.get(resource, 0):
                raise UserError(
                    f"{spec.source}: a trial needs {amount:g} {resource}, and there are "
                    f"{there.get(resource, 0):g}. Lower num_env_runners, num_learners or what "
                    "each of them takes, or let processes share CPUs with --ray-num-cpus "
                    f"{amount:g}."
                )


def _run(
    spec: ExperimentSpec,
    folder: ExperimentFolder,
    signals: Signals,
    console: Console,
    resume: bool,
    trial_ids: Sequence[str],
    trackers: Sequence[Callback],
) -> Outcome:
    """Runs one experiment to its end, or until a signal ends it."""
    from ray import tune
    from ray.tune.experiment import Experiment, Trial
    from ray.tune.search.basic_variant import BasicVariantGenerator

    from rllib_seqmarl.experiments.checkpoints import resuming
    from rllib_seqmarl.experiments.spec import check as configs
    from rllib_seqmarl.experiments.train.loggers import ProgressTable, Results
    from rllib_seqmarl.experiments.train.progress import Progress, trial_name
    from rllib_seqmarl.experiments.train.report import Outcome
    from rllib_seqmarl.experiments.train.shutdown import EndOfLoop, TrialControl

    ray_session.check_shared(folder.path)
    folder.note_settings()
    if folder.path is not None and not resume:
        trust.remember(folder.path)
    console.print(
        f"{spec.name}: {'going on with' if resume else 'training'} {spec.algorithm} on "
        f"{_environment(spec)}. Results: {folder}",
        markup=False,
        soft_wrap=True,
    )
    if not spec.stop and spec.time_budget_s is None:
        console.print(f"{spec.name}: has no stop criterion; Ctrl-C ends it with a checkpoint.")
    keep = spec.checkpoints
    config = with_domains(spec.config)

    resumed = set(trial_ids)

    def prepare(trial: Trial) -> None:
        # Trials that a search draws after a resume come with what Ray Tune has kept of its
        # beginning.
        trial.stopping_criterion = dict(spec.stop)
        resuming.move(trial, config, folder.moved)
        for line in resuming.choose_checkpoint(trial) if trial.trial_id in resumed else ():
            console.print(line, markup=False, soft_wrap=True)

    control = TrialControl(spec, signals, trial_ids, prepare)
    seed = config.get("seed")
    with Progress(spec, console) as progress:
        signals.before_stop = progress.stop_at_once
        analysis = tune.run(
            Experiment(
                spec.name,
                configs.algorithm_class(spec) if registry.is_import_path(spec.run) else spec.run,
                stop=spec.stop,
                config=with_score(config, keep.score_attribute) if keep.score_attribute else config,
                num_samples=spec.num_samples,
                storage_path=folder.storage,
                checkpoint_config=tune.CheckpointConfig(
                    num_to_keep=keep.num_to_keep,
                    checkpoint_score_attribute=SCORE if keep.score_attribute else None,
                    checkpoint_score_order=keep.score_order,
                    checkpoint_frequency=keep.frequency,
                    checkpoint_at_end=keep.at_end,
                ),
                max_failures=spec.max_failures,
                restore=spec.restore,
                trial_name_creator=trial_name,
                trial_dirname_creator=trial_name,
            ),
            scheduler=control,
            search_alg=BasicVariantGenerator(
                max_concurrent=spec.search.max_concurrent_trials or 0,
                # The same file searches the same configs.
                random_state=seed if isinstance(seed, int) else None,
            ),
            callbacks=[
                *(Results(), ProgressTable(), *trackers),
                *(progress, EndOfLoop(control, signals, folder)),
            ],
            # A trial that failed goes on from its last good checkpoint.
            resume_config=tune.ResumeConfig(errored=tune.ResumeConfig.ResumeType.RESUME)
            if resume
            else None,
            raise_on_failed_trial=False,
            verbose=0,
        )
    trials = list(analysis.trials)
    ended = all(trial.status in (Trial.TERMINATED, Trial.ERROR) for trial in trials)
    if not ended and not control.ending:
        # Ctrl-C in the moment in which Tune had taken the signal and we had not yet.
        signals.received = signal.SIGINT
    out_of_time = not ended and signals.received is None
    return Outcome(spec, trials, out_of_time)


def _environment(spec: ExperimentSpec) -> str:
    """The environment, its map, and what really simulates it."""
    name, env_config = spec.config["env"], spec.config.get("env_config") or {}
    if isinstance(spec.run, str) and registry.ENVIRONMENTS.knows(name):
        variant = next(variants({"env_config": env_config}, spec.source))
        complete = registry.environment(name).check(variant["env_config"])
        # What is searched over has no one value to name.
        env_config = {**complete, **env_config}
    details = [str(env_config[key]) for key in ("map_name", "simulator") if key in env_config]
    return f"{name} ({', '.join(details)})" if details else str(name)


def _resume_line(options: RunOptions, name: str | None = None) -> str:
    """The command that goes on; ``name``: of the experiment, where the file has another."""
    arguments = list(options.arguments)
    if not options.resume:
        arguments.append("--resume")
    if name is not None:
        arguments += ["--experiment-name", name]
    return shlex.join(["rllib", *arguments])
