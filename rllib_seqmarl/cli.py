"""The ``rllib`` command: train, evaluate, export, compare, plot, example, algo, env, import-mat.

This front only parses. Nothing heavy is imported before it is known what to do, so that
``rllib --help`` answers at once; the work is in :mod:`rllib_seqmarl.experiments`.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.files import shown
from rllib_seqmarl.names import look_for_modules_in
from rllib_seqmarl.output import lenient_output, one_line

if TYPE_CHECKING:
    from rllib_seqmarl.experiments.spec.experiment import Overrides
    from rllib_seqmarl.experiments.train.ray_session import RunOptions

_TRAIN = """\
Train with Ray Tune: the experiments of a file (train file FILE), or one described by options
(train --algo MAT --env smac --config '{"lr": 5e-4}').

Results go to STORAGE_PATH/EXPERIMENT/TRIAL (default: ~/ray_results). A folder that already
holds results is never written to, except to go on with --resume: the next experiment of a file is
called EXPERIMENT-2, unless --experiment-name names it. --resume takes the latest; a changed `stop`
trains longer or shorter. Several experiments of one file run one after the other, the trials of one
experiment side by side as resources allow.

Ctrl-C or SIGTERM: every trial finishes its iteration and writes a checkpoint (a second one stops
at once). Exit status: 0 all trials finished, 1 a trial failed, 2 something in the input is
wrong, 130 and 143 stopped by Ctrl-C and SIGTERM.
"""
_FILE = """\
Train the experiments of FILE: .yaml or .yml (experiment name: {run, env, stop, config, ...}, as Ray
took it up to 2.40), or .py that defines `config` (an AlgorithmConfig) and maybe `stop`. The name of
a tuned example (see rllib example list) stands for its file.
"""
_EVALUATE = """\
Play episodes with a trained policy and print the mean of every metric, beside those of the
environment's scripted policies in the same episodes, if it has any. Nothing but the checkpoint
is needed. A trial's folder stands for its best checkpoint if the training scored them
(checkpoint_score_attribute), else for its latest; an experiment's folder for that of its only
trial. A .safetensors file (see rllib export) does as well, and cannot run code.
"""
_EXPORT = """\
Write the policy of a checkpoint to a file of its own, by the ending of its name:

  .safetensors  weights, and the JSON from which the policy is built. A checkpoint can run code on
                the machine of whoever loads it; this file cannot.
  .pt2, .onnx   one step of the policy as a program, for torch.export and for ONNX.
"""

_COMPARE = """\
Compare runs by their result.json, finished or under way: DIR gets curves.png (mean over the seeds
with 95 % intervals, a panel per environment), profile.png, summary.md and summary.csv: final value,
probability of improvement, area under the curve, and the environment steps, wall time and CPU time
until 25, 50, 75 and 100 % of a threshold are first reached.
"""


class _Parser(argparse.ArgumentParser):
    """Reports a mistake in one line, like every other mistake of the user."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["formatter_class"] = argparse.RawDescriptionHelpFormatter
        kwargs["allow_abbrev"] = False
        super().__init__(*args, **kwargs)
        self.set_defaults(parser=self)

    def error(self, message: str) -> NoReturn:
        # argparse knows no word in place of `file`.
        if message.startswith("argument [file FILE]: invalid choice: "):
            word = message.removeprefix("argument [file FILE]: invalid choice: ").split(" (")[0]
            raise UserError(
                f"{word} is no option of {self.prog}: of a file, write '{self.prog} file FILE'."
            )
        raise UserError(f"{message} (see '{self.prog} --help')")


def _whole(least: int, most: int = 2**31 - 1) -> Callable[[str], int]:
    """Reads a whole number between two bounds."""

    def read(text: str) -> int:
        with contextlib.suppress(ValueError):
            if least <= (value := int(text)) <= most:
                return value
        shown = repr(text) if len(text) <= 20 else f"{text[:20]!r} and so on"
        raise argparse.ArgumentTypeError(f"a whole number from {least} to {most:,}, got {shown}")

    return read


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: the arguments; those of the process by default.

    Returns:
        The exit status: 0 done, 1 a trial failed, 2 the user's mistake, 128 + n stopped by
        signal n.
    """
    if os.environ.get("COLUMNS") == "0":  # of terminals that do not know; Rich would print nothing
        del os.environ["COLUMNS"]
    with lenient_output() as out:
        try:
            status = _run(argv)
        except SystemExit as end:  # --help and --version
            if not (end.code is None or isinstance(end.code, int)):
                raise
            status = end.code or 0
    if out.failure is None or isinstance(out.failure, BrokenPipeError):
        return status  # e.g. `rllib example list | head -1`
    _say_error(f"cannot write to standard output: {out.failure.strerror}.")
    return status or 1


def _run(argv: Sequence[str] | None) -> int:
    """Runs one command, and tells what is wrong in one line."""
    try:
        # The folder in which `python -m` would look.
        with contextlib.suppress(FileNotFoundError):
            look_for_modules_in(Path.cwd())
        args = _parsed(argv)
        os.getcwd()  # where it is gone, libraries end the process
        run: Callable[[argparse.Namespace], int] = args.run
        return run(args)
    except UserError as error:
        _say_error(str(error))
        return 2
    except OSError as error:
        _say_error(_of_system(error))
        return 2
    except RuntimeError as error:
        if "home directory" not in str(error):  # as Path.expanduser says it
            raise
        _say_error("this user has no home folder: set HOME to one that can be written to.")
        return 2
    except KeyboardInterrupt:
        print("rllib: stopped.", file=sys.stderr)
        return 130


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments; of an option that is not there the nearest one is told."""
    parser = _parser()
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        _refuse_unknown(args.parser, unknown)
    return args


def _refuse_unknown(used: argparse.ArgumentParser, unknown: Sequence[str]) -> NoReturn:
    first = next((text for text in unknown if text.startswith("-")), unknown[0])
    hint = ""
    if first.startswith("-"):
        options = re.findall(r"--[\w-]+", used.format_help())
        close = difflib.get_close_matches(first.partition("=")[0], options, 1)
        hint = f". Did you mean {close[0]}?" if close else ""
    used.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")


def _say_error(message: str) -> None:
    print(f"rllib: error: {one_line(message)}", file=sys.stderr)


def _of_system(error: OSError) -> str:
    """What the operating system refused, for a line."""
    if error.strerror is None:
        return str(error) or type(error).__name__
    if error.filename is None:
        try:
            os.getcwd()
        except OSError:
            return f"the folder in which the command was given is gone: {error.strerror}."
        return f"{error.strerror}."
    return f"{shown(os.fsdecode(error.filename))}: {error.strerror}."


def _parser() -> argparse.ArgumentParser:
    from rllib_seqmarl import __version__

    parser = _Parser(
        prog="rllib",
        description="Sequential cooperative multi-agent reinforcement learning on Ray RLlib.",
        epilog="Try: rllib example list; rllib train file tuned_examples/srsv_smac.yaml",
    )
    parser.add_argument("--version", action="version", version=f"rllib-seqmarl {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)
    for add in (
        _add_train,
        _add_evaluate,
        _add_export,
        _add_compare,
        _add_plot,
        _add_example,
        _add_import_mat,
        _add_describe,
    ):
        add(commands)
    return parser


# --- train -------------------------------------------------------------------------------------


def _add_train(commands: argparse._SubParsersAction[_Parser]) -> None:
    train = commands.add_parser("train", help="train", description=_TRAIN)
    train.set_defaults(run=_train)
    describe = train.add_argument_group("an experiment without a file")
    describe.add_argument("-a", "--algo", "--run", metavar="NAME", help="the algorithm, e.g. MAT")
    describe.add_argument(
        "-c", "--config", metavar="JSON", help="RLlib config, e.g. '{\"env_config\": {...}}'"
    )
    _add_train_options(train)
    forms = train.add_subparsers(metavar="[file FILE]", parser_class=_Parser)
    # SUPPRESS: options before the word `file` keep their values.
    file = forms.add_parser(
        "file",
        help="train the experiments of a file",
        description=_FILE,
        argument_default=argparse.SUPPRESS,
    )
    file.set_defaults(run=_train_file)
    file.add_argument(
        "file", metavar="FILE", help="a .yaml, .yml or .py file, or the name of a tuned example"
    )
    _add_train_options(file)


def _add_train_options(parser: argparse.ArgumentParser) -> None:
    experiment = parser.add_argument_group("experiment (each overrides the file)")
    add = experiment.add_argument
    add("-e", "--env", metavar="NAME", help="the environment, e.g. smac")
    add(
        "-s",
        "--stop",
        metavar="JSON",
        help="when a trial ends, e.g. '{\"num_env_steps_sampled_lifetime\": 800000}'",
    )
    add("-n", "--experiment-name", metavar="NAME", help="also the name of the results' folder")
    add("--num-samples", type=_whole(1), metavar="N", help="trials per variant of the config")
    add("--max-concurrent-trials", type=_whole(1), metavar="N", help="how many run at a time")
    add("--seed", type=_whole(0), metavar="N", help="random seed")
    add(
        "--num-env-runners",
        type=_whole(0),
        metavar="N",
        help="processes that sample; 0: the trial's",
    )
    add("--num-learners", type=_whole(0), metavar="N", help="processes that learn; 0: the trial's")
    add(
        "--max-failures",
        type=_whole(-1),
        metavar="N",
        help="restarts of a failed trial (default: 0)",
    )

    results = parser.add_argument_group("results and checkpoints (each overrides the file)")
    add = results.add_argument
    add("--storage-path", metavar="DIR", help="folder or URI of all results (~/ray_results)")
    add(
        "--checkpoint-freq",
        type=_whole(0),
        metavar="N",
        help="iterations between checkpoints; 0: only at the end. If neither the file nor an "
        "option says anything: 10, and the last 3 are kept",
    )
    add(
        "--checkpoint-at-end",
        action=argparse.BooleanOptionalAction,
        help="a checkpoint when a trial ends (default: yes)",
    )
    add("--keep-checkpoints-num", type=_whole(1), metavar="N", help="how many to keep per trial")
    add("--checkpoint-score-attr", metavar="METRIC", help="which to keep; min-METRIC: the least")
    add("--restore", metavar="CHECKPOINT", help="a new experiment that begins with this state")
    add(
        "--resume",
        action="store_true",
        help="go on where the experiment of this name stopped (numbers of processes may differ)",
    )
    add(
        "--resume-or-start",
        action="store_true",
        help="the same, and start it if there is nothing to resume (for jobs that a cluster "
        "restarts)",
    )

    add("--wandb", metavar="PROJECT", help="log to Weights & Biases (see WANDB_MODE), too")
    add("--mlflow", metavar="EXPERIMENT", help="log to MLflow (see MLFLOW_TRACKING_URI), too")

    ray = parser.add_argument_group("Ray")
    add = ray.add_argument
    add("--ray-address", metavar="ADDRESS", help="use this running cluster (also: RAY_ADDRESS)")
    add("--ray-num-cpus", type=_whole(1), metavar="N", help="CPUs of a local Ray (default: all)")
    add("-v", "--verbose", action="store_true", help="show Ray's own messages, too")


def _overrides(args: argparse.Namespace) -> Overrides:
    from rllib_seqmarl.experiments.spec.experiment import Overrides
    from rllib_seqmarl.experiments.spec.files import load_json_mapping

    config = load_json_mapping(args.config, "--config") if args.config is not None else {}
    for name in ("env", "storage_path", "checkpoint_score_attr", "ray_address", "wandb", "mlflow"):
        if getattr(args, name) == "":
            option = name.replace("_", "-")
            raise UserError(f"--{option} is empty: give a value, or leave it out.")
    if args.env is not None and config.get("env", args.env) != args.env:
        raise UserError(
            f"--env is {args.env!r} and --config says 'env': {config['env']!r}; keep one."
        )
    for key in ("seed", "num_env_runners", "num_learners"):
        if getattr(args, key) is not None:
            config[key] = getattr(args, key)
    return Overrides(
        env=args.env,
        stop=load_json_mapping(args.stop, "--stop") if args.stop is not None else None,
        experiment_name=args.experiment_name,
        num_samples=args.num_samples,
        max_concurrent_trials=args.max_concurrent_trials,
        storage_path=args.storage_path,
        restore=args.restore,
        checkpoint_frequency=args.checkpoint_freq,
        checkpoint_at_end=args.checkpoint_at_end,
        num_to_keep=args.keep_checkpoints_num,
        checkpoint_score_attribute=args.checkpoint_score_attr,
        max_failures=args.max_failures,
        config=config,
    )


def _train(args: argparse.Namespace) -> int:
    from rllib_seqmarl.experiments.spec.experiment import from_command_line
    from rllib_seqmarl.experiments.train import run

    if args.algo is None:
        raise UserError("give --algo NAME, or a file: rllib train file FILE")
    specs = [from_command_line(args.algo, _overrides(args))]
    return run.train(specs, _run_options(args))


def _train_file(args: argparse.Namespace) -> int:
    from rllib_seqmarl.experiments.examples import find
    from rllib_seqmarl.experiments.spec.experiment import load_file
    from rllib_seqmarl.experiments.train import run

    if args.algo is not None or args.config is not None:
        raise UserError("--algo and --config describe an experiment without a file.")
    return run.train(load_file(find(args.file), _overrides(args)), _run_options(args))


def _run_options(args: argparse.Namespace) -> RunOptions:
    from rllib_seqmarl.experiments.train.run import RunOptions

    return RunOptions(
        resume=args.resume or args.resume_or_start,
        start=not args.resume,
        ray_address=args.ray_address,
        ray_num_cpus=args.ray_num_cpus,
        wandb=args.wandb,
        mlflow=args.mlflow,
        verbose=args.verbose,
        arguments=tuple(sys.argv[1:]),
    )


# --- evaluate ----------------------------------------------------------------------------------


def _add_evaluate(commands: argparse._SubParsersAction[_Parser]) -> None:
    evaluate = commands.add_parser(
        "evaluate", help="play with a trained policy", description=_EVALUATE
    )
    evaluate.set_defaults(run=_evaluate)
    add = evaluate.add_argument
    add("checkpoint", metavar="CHECKPOINT", help="a checkpoint's folder, or a .safetensors file")
    add("--episodes", type=_whole(1), default=100, metavar="N", help="how many (default: 100)")
    add("--env-config", metavar="JSON", help="replaces single settings of the environment")
    add("--stochastic", action="store_true", help="sample actions; default: the most probable")
    add("--seed", type=_whole(0), default=0, metavar="N", help="random seed (default: 0)")
    add(
        *("--scripted-policies", "--controllers"),
        action=_ScriptedPolicies,
        default="all",
        metavar="NAMES",
        help="scripted policies of the environment that play the same episodes: all, none, or "
        "names with commas between them (default: all)",
    )
    add("--out", metavar="FILE", help="write the metrics of every episode to a JSON file")
    add(
        "--render",
        metavar="FILE",
        help="draw the policy's first episode: a .gif of all of it, or a .png of its end",
    )
    add(
        "--render-every",
        type=_whole(1),
        default=4,
        metavar="N",
        help="steps from one frame of the .gif to the next (default: 4)",
    )
    add(
        "--explain",
        metavar="FILE",
        help="draw that episode's decision order, the agents' values or credits, and the "
        "attention between them: a .png",
    )
    add(
        "--trust-imports",
        action="store_true",
        help="a .safetensors file may name code of an environment, which is imported and run",
    )


class _ScriptedPolicies(argparse.Action):
    """Takes the names, and tells today's name of the option where the old one is used."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        if option_string == "--controllers":
            print("note: --controllers is called --scripted-policies now.", file=sys.stderr)
        setattr(namespace, self.dest, values)


def _evaluate(args: argparse.Namespace) -> int:
    from rllib_seqmarl.experiments.evaluate import command as evaluate
    from rllib_seqmarl.experiments.spec.files import load_json_mapping

    return evaluate.evaluate(
        args.checkpoint,
        episodes=args.episodes,
        env_config={}
        if args.env_config is None
        else load_json_mapping(args.env_config, "--env-config"),
        explore=args.stochastic,
        seed=args.seed,
        scripted_policies=args.scripted_policies,
        out=args.out,
        render=args.render,
        render_every=args.render_every,
        explain=args.explain,
        trust_imports=args.trust_imports,
    )


# --- export ------------------------------------------------------------------------------------


def _add_export(commands: argparse._SubParsersAction[_Parser]) -> None:
    command = commands.add_parser(
        "export", help="write a policy to a file of its own", description=_EXPORT
    )
    command.set_defaults(run=_export)
    command.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        help="a checkpoint's folder; for a program also a .safetensors file",
    )
    command.add_argument("file", metavar="FILE", help="the new file: .safetensors, .pt2 or .onnx")
    command.add_argument(
        "--stochastic",
        action="store_true",
        help="a program draws actions, from noise that is one of its inputs (default: greedy)",
    )
    command.add_argument(
        "--trust-imports",
        action="store_true",
        help="a .safetensors file may name code of a network, which is imported and run",
    )


def _export(args: argparse.Namespace) -> int:
    from rllib_seqmarl.experiments.evaluate import command as evaluate

    return evaluate.export_policy(
        args.checkpoint,
        args.file,
        stochastic=args.stochastic,
        trust_imports=args.trust_imports,
    )


# --- compare, plot ------------------------------------------------------------------------------


def _add_compare(commands: argparse._SubParsersAction[_Parser]) -> None:
    command = commands.add_parser(
        "compare", help="learning curves and statistics of many runs", description=_COMPARE
    )
    command.set_defaults(run=_compare)
    add = command.add_argument
    add("folders", nargs="+", metavar="FOLDER", help="of a trial, an experiment, or of several")
    add("--out", required=True, metavar="DIR", help="folder of what is written")
    add(
        "--metric",
        metavar="NAME",
        help="what is compared (default: the win rate of evaluations, else that of training, else "
        "the return, whichever all runs have)",
    )
    add(
        "--group",
        default="algorithm,env",
        metavar="KEYS",
        help="runs that agree in these are averaged; settings, too, e.g. algorithm,env,config/lr "
        "(default: algorithm,env)",
    )
    add(
        "--aggregate",
        choices=("mean", "iqm"),
        default="mean",
        help="mean over the runs, or mean of their middle half (default: mean)",
    )
    add(
        "--threshold",
        type=float,
        metavar="X",
        help="the value whose 25, 50, 75 and 100 %% are to be reached (default: the best final "
        "value of a group)",
    )


def _compare(args: argparse.Namespace) -> int:
    from rllib_seqmarl.experiments.compare import command

    return command.compare(
        args.folders,
        out=args.out,
        metric=args.metric,
        group=args.group,
        aggregate=args.aggregate,
        threshold=args.threshold,
    )


def _add_plot(commands: argparse._SubParsersAction[_Parser]) -> None:
    command = commands.add_parser(
        "plot",
        help="draw one run",
        description="Draw one run: win rate and return, where its seconds went, losses.",
    )
    command.set_defaults(run=_plot)
    command.add_argument("run_folder", metavar="CHECKPOINT_OR_TRIAL", help="a folder")
    command.add_argument(
        "--out", metavar="FILE", help=".png, .pdf or .svg (default: the trial's name, .png)"
    )


def _plot(args: argparse.Namespace) -> int:
    from rllib_seqmarl.experiments.compare import command

    return command.plot(args.run_folder, args.out)


# --- example -----------------------------------------------------------------------------------


def _add_example(commands: argparse._SubParsersAction[_Parser]) -> None:
    example = commands.add_parser(
        "example", help="list, show and run the tuned examples", description="The tuned examples."
    )
    forms = example.add_subparsers(metavar="list|get|run", required=True, parser_class=_Parser)

    listing = forms.add_parser("list", help="names and descriptions")
    listing.set_defaults(run=_example_list)
    listing.add_argument("-f", "--filter", default="", metavar="TEXT", help="only those with TEXT")
    listing.add_argument("-a", "--algo", metavar="NAME", help="only those of this algorithm")
    listing.add_argument("-e", "--env", metavar="NAME", help="only those in this environment")

    get = forms.add_parser("get", help="print the file")
    get.set_defaults(run=_example_get)
    get.add_argument("example", metavar="ID")

    run = forms.add_parser("run", help="train it, like `rllib train file`", description=_TRAIN)
    run.set_defaults(run=_example_run, algo=None, config=None)
    run.add_argument("example", metavar="ID")
    _add_train_options(run)


def _example_list(args: argparse.Namespace) -> int:
    from rllib_seqmarl.experiments.examples import examples

    found = examples(args.filter, args.algo, args.env)
    if not found:
        raise UserError("there is no such example; `rllib example list` shows all.")
    width = max(len(example.name) for example in found)
    for example in found:
        print(f"{example.name:<{width}}  {example.description}")
        if example.expected:
            print(f"{'':<{width}}  Expected: {example.expected}")
    print("\nShow one with `rllib example get ID`, train it with `rllib example run ID`.")
    return 0


def _example_get(args: argparse.Namespace) -> int:
    from rllib_seqmarl.experiments.examples import example

    print(example(args.example).path.read_text(encoding="utf-8"), end="")
    return 0


def _example_run(args: argparse.Namespace) -> int:
    from rllib_seqmarl.experiments.examples import example

    args.file = str(example(args.example).path)
    return _train_file(args)


# --- algo, env ----------------------------------------------------------------------------------


def _add_describe(commands: argparse._SubParsersAction[_Parser]) -> None:
    for command, kind in (("algo", "algorithm"), ("env", "environment")):
        text = f"list the {kind}s, and show the settings of one"
        parser = commands.add_parser(command, help=text, description=f"{text.capitalize()}.")
        forms = parser.add_subparsers(metavar="list|show", required=True, parser_class=_Parser)
        listing = forms.add_parser("list", help="names and what they are")
        listing.set_defaults(run=_describe_list, kind=kind)
        show = forms.add_parser("show", help="every setting with type, default and meaning")
        show.set_defaults(run=_describe_show, kind=kind, all=False)
        show.add_argument("name", metavar="NAME", help="a name, or package.module:Name")
        if kind == "algorithm":
            show.add_argument("--all", action="store_true", help="RLlib's settings, too")


def _describe_list(args: argparse.Namespace) -> int:
    from rllib_seqmarl.experiments.describe import list_names

    return list_names(args.kind)


def _describe_show(args: argparse.Namespace) -> int:
    from rllib_seqmarl.experiments.describe import show_algorithm, show_environment

    if args.kind == "environment":
        return show_environment(args.name)
    return show_algorithm(args.name, everything=args.all)


# --- import-mat --------------------------------------------------------------------------------


def _add_import_mat(commands: argparse._SubParsersAction[_Parser]) -> None:
    command = commands.add_parser(
        "import-mat",
        help="bring in a model of the official MAT code",
        description="Write a checkpoint from weights of the official MAT code.",
    )
    command.set_defaults(run=_import_mat)
    add = command.add_argument
    add("source", metavar="FILE", help="transformer_*.pt of the official code")
    add("out", metavar="OUT", help="folder of the new checkpoint")
    add("-e", "--env", required=True, metavar="NAME", help="the environment that it plays")
    add("--env-config", default="{}", metavar="JSON", help="settings of the environment")
    add(
        "--heads",
        type=_whole(1),
        required=True,
        metavar="N",
        help="--n_head of its training, which the weights do not tell: another number plays badly",
    )


def _import_mat(args: argparse.Namespace) -> int:
    from rllib_seqmarl.experiments.share import import_mat as official
    from rllib_seqmarl.experiments.spec.files import load_json_mapping

    return official.import_mat(
        args.source,
        args.out,
        env=args.env,
        env_config=load_json_mapping(args.env_config, "--env-config"),
        heads=args.heads,
    )


if __name__ == "__main__":
    sys.exit(main())
