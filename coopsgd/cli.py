"""The command line: click takes the verb, Hydra the words behind it, untouched.

Nothing heavy is imported before a verb needs it, so that `coopsgd --help` answers at once.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from coopsgd.blame import blame
from coopsgd.errors import ConfigError, Interrupted, RunFailed, full_errors
from coopsgd.host import collector, signals, stdio
from coopsgd.verbs import (
    BY,
    WORDS,
    Place,
    Verb,
    Verbs,
    as_json_option,
    complete_cluster,
    complete_listed,
    complete_metric,
    config_dir_option,
    quiet_option,
    version_option,
    words_argument,
)

# Small matrices gain nothing from threads, and a process that has none forks safely. Workers set their own.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

Tell = Callable[[str], None]


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]}, invoke_without_command=True)
@version_option
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Communication-efficient distributed SGD: write (tau, W, v), get its theory, simulate it, run it.

    \b
    coopsgd train algo=easgd tau=10                      one run
    coopsgd train -m algo=pasgd,easgd tau=1,4,16         a sweep
    coopsgd resume outputs/2030-01-31/12-00-00           go on where a run was stopped
    coopsgd verify outputs/2030-01-31/12-00-00           are its bits the same when it runs again?
    coopsgd show algo=dpsgd topology=ring workers=8      W, its spectrum, the cost
    coopsgd analyze algo=easgd tau=10 task=quadratic     what theory predicts of it
    coopsgd probe model=cnn data=fashion_mnist           what theory needs to know of them
    coopsgd design cluster=ethernet_1g workers=8         what to choose on that network
    coopsgd time outputs/2030-01-31/12-00-00 cluster=wan_100m   its seconds on that network
    tensorboard --logdir outputs                         what happened
    """
    global _verb
    _verb = ctx.invoked_subcommand
    if _verb is None:
        click.echo(ctx.get_help())


@cli.command(context_settings=WORDS, add_help_option=False)
@words_argument
@click.pass_obj
def train(caller: Tell | None, words: tuple[str, ...]) -> None:
    """Run an algorithm, or sweep with -m. Words are Hydra overrides; `coopsgd train --help` lists them."""
    from coopsgd.commands.train import command

    sys.exit(command.train(words, caller))


@cli.command(cls=Verb, context_settings={"ignore_unknown_options": True})
@version_option
@quiet_option
@click.option("--trust", is_flag=True, help="Import the code that its config names.")
@click.option("--changed-source", is_flag=True, help="Also where the source of your own classes is not as it was.")
@click.argument("folder", type=Place(exists=True, file_okay=False))
@words_argument
def resume(folder: str, words: tuple[str, ...], trust: bool, changed_source: bool) -> None:
    """Go on with the run in FOLDER from its last checkpoint. Words may change what cannot change the past, as steps=2000."""
    from coopsgd.commands.resume import resume as one_run
    from coopsgd.run import lists

    at = Path(folder)
    if (at / "config.yaml").is_file() or not lists.there(at):
        return one_run(at, words, trust, changed_source)
    if words:
        raise ConfigError(f"{words[0]}: a sweep goes on as it was; give words to one of its runs")
    from coopsgd.commands.train.command import resume_sweep

    sys.exit(resume_sweep(at, trust, changed_source))


@cli.command(cls=Verb)
@version_option
@quiet_option
@click.option("--steps", type=int, help="Run so many again, from the first; else from one checkpoint to the next, or all.")
@click.option("--trust", is_flag=True, help="Import the code that its config names.")
@click.argument("folder", type=Place(exists=True, file_okay=False))
def verify(folder: str, steps: int | None, trust: bool) -> None:
    """Run steps of the run in FOLDER again, and say whether lines, checkpoints and models come out the same, bit for bit."""
    from coopsgd.commands.verify import verify as verdict

    sys.exit(verdict(Path(folder), steps, trust))


@cli.command(cls=Verb, context_settings={"ignore_unknown_options": True})
@version_option
@as_json_option
@config_dir_option
@words_argument
@click.pass_obj
def show(caller: Tell | None, words: tuple[str, ...], as_json: bool, config_dir: str | None) -> None:
    """What an algorithm is: W, its spectrum, its schedule, its cost. Starts no worker."""
    from coopsgd.commands import compose
    from coopsgd.commands import show as report
    from coopsgd.host.files import json_text
    from coopsgd.run.console import tell

    checked = compose.compose_config(words, config_dir, look=True)
    found = report.facts(checked.parts, checked.notes)
    tell(found, as_json, report.show)
    if caller is not None:
        caller(json_text(found))


@cli.command(cls=Verb, context_settings={"ignore_unknown_options": True})
@version_option
@quiet_option
@as_json_option
@config_dir_option
@click.option("--probe", type=Place(), help="L, sigma2, ... measured by `coopsgd probe`, for a task that does not know them.")
@click.option("--over", is_flag=True, help="The words are run folders: what was predicted over what they measured.")
@click.option("--figure", type=Place(), help="With --over: where to draw it; theory.png in the first run's folder.")
@click.option("--trust", is_flag=True, help="With --over: import the code that those runs name.")
@words_argument
def analyze(
    words: tuple[str, ...],
    as_json: bool,
    config_dir: str | None,
    probe: str | None,
    over: bool,
    figure: str | None,
    trust: bool,
) -> None:
    """What theory predicts of an algorithm: step sizes, error bound, consensus, cost. Starts no worker."""
    from coopsgd.run.console import tell

    if over:
        if config_dir is not None:
            raise ConfigError(f"--config-dir {config_dir}: is not for --over, whose runs bring their own config")
        from coopsgd.commands import overlay as overlaid

        tell(overlaid.facts(words, probe, figure, trust), as_json, overlaid.show)
        return
    if figure is not None:
        raise ConfigError(f"--figure {figure}: is for --over RUN..., which has something to draw")
    if trust:
        raise ConfigError("--trust: is for --over RUN..., whose configs somebody else may have written; leave it out")
    from coopsgd.commands import analyze as report
    from coopsgd.commands import compose

    checked = compose.compose_config(words, config_dir, "analyze")
    tell(report.facts(checked.parts, checked.notes, probe), as_json, report.show)


@cli.command(cls=Verb, context_settings={"ignore_unknown_options": True})
@version_option
@quiet_option
@as_json_option
@config_dir_option
@click.option("--trust", is_flag=True, help="Import the code that the config of a run names.")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, shell_complete=complete_cluster)
def time(words: tuple[str, ...], as_json: bool, config_dir: str | None, trust: bool) -> None:
    """The seconds that finished runs take on another cluster, without training: RUN... cluster=NAME."""
    from coopsgd.commands import timing
    from coopsgd.run.console import tell

    tell(timing.facts(words, config_dir, trust), as_json, timing.show)


@cli.command(cls=Verb)
@version_option
@click.option("--by", type=click.Choice(BY), default="steps", show_default=True, help="The axis of curves.")
@click.option(
    "--metric",
    multiple=True,
    default=["eval/loss"],
    show_default=True,
    shell_complete=complete_metric,
    help="A name of metrics.jsonl; of several the first is compared, of the others the end is shown.",
)
@click.option("--target", type=float, help="Also when it is reached for good: at most this loss, at least this accuracy.")
@click.option("--at", multiple=True, help="Also the metric when so much is used up, as bytes=50MB or sim_seconds=10min.")
@click.option("--tail", type=float, help="The end is the mean over the last such share of a run, as 0.1, not the last value.")
@click.option("--group", multiple=True, help="A key that tells groups apart; all others are put together as seeds are.")
@click.option("--best-of", help="Of groups that differ in this key alone, as optim.lr, only the best.")
@click.option("--column", multiple=True, help="Of the table, only those whose heading has this, in this order.")
@click.option("--cluster", help="sim_seconds on this cluster, as `coopsgd time` left them.")
@click.option("--format", "form", type=click.Choice(["markdown", "csv", "json", "latex"]), help="Of the table that is printed.")
@click.option("-o", "--output", type=Place(), help="A folder for the table in every format, and for the figures.")
@click.option("--trust", is_flag=True, help="Import the code that the configs of runs name.")
@click.argument("folders", nargs=-1, type=click.Path())
def compare(folders: tuple[str, ...], form: str | None, output: str | None, **options: Any) -> None:
    """Runs side by side: all in these folders and below them, those that differ by their seed alone as one group."""
    from coopsgd.commands import comparing

    comparing.compare(folders, form, output, **options)


@cli.command(cls=Verb)
@version_option
@click.option("--to", type=click.Choice(["mlflow", "wandb"]), required=True, help="The tracker; wandb is written offline.")
@click.option("-o", "--output", type=Place(), help="Where its store is: mlruns for mlflow, wandb for wandb.")
@click.argument("folders", nargs=-1, type=click.Path())
def export(folders: tuple[str, ...], to: str, output: str | None) -> None:
    """Runs, in these folders and below them, into the store of another tracker: settings, every log line, how they ended."""
    from coopsgd.commands import comparing

    comparing.export(folders, to, output)


@cli.command(cls=Verb)
@version_option
@as_json_option
@click.option("--watch", is_flag=True, help="Look again every two seconds, until Ctrl-C.")
@click.argument("folders", nargs=-1, type=click.Path())
def runs(folders: tuple[str, ...], as_json: bool, watch: bool) -> None:
    """Which runs there are below these folders (outputs and multirun), how far they are, and their latest numbers."""
    from coopsgd.commands import running

    running.runs(folders, as_json, watch)


@cli.command(cls=Verb, context_settings={"ignore_unknown_options": True})
@version_option
@quiet_option
@click.option(
    "--probe", type=Place(exists=True, dir_okay=False), help="probe.json: constants, and the cluster if none is named."
)
@click.option("--budget-seconds", type=float, help="Rank by the error after so many seconds on the cluster's clock.")
@click.option("--target-loss", type=float, help="Rank by the seconds until eval/loss is at most this.")
@click.option("--top", type=click.IntRange(min=1), default=10, show_default=True, help="How many to print.")
@click.option("--check", type=click.IntRange(min=0), default=0, help="Run the first so many and some losers, on the clock.")
@click.option("--theory", is_flag=True, help="By the terms of the bound: no pilots are run.")
@as_json_option
@config_dir_option
@words_argument
def design(words: tuple[str, ...], as_json: bool, config_dir: str | None, **options: Any) -> None:
    """Which algorithm to choose: searches tau, topology, weights and the rest for a task and a cluster."""
    from coopsgd.commands.design import command

    command.design(words, config_dir, as_json, **options)


@cli.command(cls=Verb, context_settings={"ignore_unknown_options": True})
@version_option
@quiet_option
@click.option("-o", "--output", type=Place(), help="Where to write; probe.json unless named.")
@click.option("--steps", type=click.IntRange(0), default=100, show_default=True, help="Length of the SGD path to look at.")
@as_json_option
@config_dir_option
@words_argument
def probe(words: tuple[str, ...], output: str | None, steps: int, as_json: bool, config_dir: str | None) -> None:
    """Measure what theory needs (curvature, noise, how workers differ) and what the machines take (steps, network)."""
    from coopsgd.commands.probe import command

    command.probe(words, output, steps, as_json, config_dir)


@cli.command(name="list", cls=Verb)
@version_option
@as_json_option
@config_dir_option
@click.option("-v", "--verbose", is_flag=True, help="A line on every choice, and its paper.")
@click.argument("what", nargs=-1, shell_complete=complete_listed)
def list_(as_json: bool, config_dir: str | None, verbose: bool, what: tuple[str, ...]) -> None:
    """What can be chosen and set."""
    from coopsgd.commands import listing

    listing.show(listing.one_of(what), as_json, config_dir, verbose)


@cli.command(cls=Verb, context_settings={"ignore_unknown_options": True})
@version_option
@as_json_option
@config_dir_option
@words_argument
def cite(words: tuple[str, ...], as_json: bool, config_dir: str | None) -> None:
    """BibTeX of exactly what runs used, or what these words choose."""
    from coopsgd.commands import cite as cited
    from coopsgd.run.console import tell

    tell(cited.facts(words, config_dir), as_json, cited.show)


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a completion script for verbs and overrides: eval "$(coopsgd completion bash)"."""
    from coopsgd.completion import script

    click.echo(script(cli, shell))


KEEPING = ("train", "resume", "probe", "design", "time")  # verbs whose results are in files, whatever became of the console
_verb: str | None = None  # the one that was called


def main(tell: Tell | None = None) -> None:
    """The entry point: a user's mistake is one line and exit code 2, what failed is 1, a signal 128 + its number.

    tell: of a program that calls, what is given the folder of its one run, or what `show` found, as JSON.
    """
    collector.rest()
    stdio.guard()
    signals.raising()
    # read when torch is loaded: its threads wait asleep. On a busy machine spinning made a mixing 200 times slower
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    code = 1
    try:
        code = _code(tell)
        if code == 0 and _verb not in KEEPING and (lost := stdio.unwritten()):
            click.echo(f"coopsgd: standard output cannot be written ({lost.strerror})", err=True)
            code = 1
    finally:
        # nothing is left to be tidied up: one more ends the process without a traceback, or is one of many that have ended it
        signals.ignore() if code > 128 else signals.default()
    collector.wake()  # else Python would look through all that was imported once more before it ends
    sys.exit(code)


def _code(tell: Tell | None) -> int:
    """Run the command line; its exit code, once the user knows why it is not 0."""
    try:
        if os.environ.get("_COOPSGD_COMPLETE"):
            from coopsgd import completion as shells

            shells.register()
        cli.main(prog_name="coopsgd", standalone_mode=False, obj=tell)
        if signals.asked is not None:
            raise Interrupted(signals.asked)
        return 0
    except SystemExit as done:
        if signals.asked is not None and not done.code:
            return 128 + signals.asked
        return done.code if isinstance(done.code, int) else 1 if done.code else 0
    except click.ClickException as error:
        click.echo(f"coopsgd: {' '.join(error.format_message().split())}", err=True)
        return 2
    except ConfigError as error:
        if full_errors():
            raise
        click.echo(f"coopsgd: {error}", err=True)
        return 2
    except RunFailed as error:
        click.echo(f"coopsgd: {error}", err=True)
        return 1
    except Exception as error:
        if full_errors():
            raise
        if (line := blame(error)) is not None:
            click.echo(f"coopsgd: {line}", err=True)
            return 2
        if not isinstance(error, OSError) or error.filename is None:
            raise
        click.echo(f"coopsgd: {error.filename}: {error.strerror}", err=True)  # a full disk, most likely
        return 1
    except (KeyboardInterrupt, click.Abort):
        click.echo("coopsgd: interrupted", err=True)
        return 128 + signal.SIGINT
    except Interrupted as stopped:
        how = "interrupted" if stopped.number == signal.SIGINT else f"ended by {signals.name_of(stopped.number)}"
        click.echo(f"coopsgd: {how}{stopped.note}", err=True)
        return 128 + stopped.number


if __name__ == "__main__":
    main()
