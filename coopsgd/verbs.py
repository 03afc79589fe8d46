"""What the verbs of the command line have in common: options that stand anywhere, paths, completion.

Nothing heavy is imported here: `coopsgd --help` answers at once.
"""

from __future__ import annotations

from typing import Any

import click

from coopsgd import __version__

BY = ("steps", "samples", "bytes", "seconds", "sim_seconds", "rounds")  # what runs are compared over
WORDS = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}


def complete(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[Any]:
    from coopsgd.completion import overrides

    return overrides([*(ctx.params.get("words") or ()), incomplete])


def complete_cluster(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[Any]:
    from coopsgd.completion import overrides

    words = [word for word in (*(ctx.params.get("words") or ()), incomplete or "cluster") if word.startswith("cluster")]
    return overrides(words) if "cluster".startswith(incomplete.partition("=")[0].partition(".")[0]) else []


def complete_listed(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[Any]:
    from coopsgd.completion import listed

    return listed(incomplete, ctx.params.get("config_dir"))


def complete_metric(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[Any]:
    from coopsgd.completion import metrics

    return metrics(incomplete)


def _silence(ctx: click.Context, parameter: click.Parameter, quiet: bool) -> None:
    if quiet:
        from coopsgd.run.progress import silence

        silence()


class Place(click.Path):
    """A path that is not empty: nothing would be this folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not str(value).strip():
            self.fail("is empty; name a file or leave it out", param, ctx)
        return super().convert(value, param, ctx)


class Verbs(click.Group):
    """The verbs. An unknown one is refused with what may have been meant; flags before the verb go behind it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not ctx.resilient_parsing and args and args[0].startswith("-") and args[0] not in ("-h", "--help", "--version"):
            from coopsgd.setup.flags import no_verb, verb_at

            at = verb_at(args, self.commands)
            if at is None:
                raise click.UsageError(no_verb(args, list(self.commands)))
            args = [args[at], *args[:at], *args[at + 1 :]]
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands and not ctx.resilient_parsing:
            from coopsgd.setup.flags import no_verb

            raise click.UsageError(no_verb(args, list(self.commands)))
        return super().resolve_command(ctx, args)


# what `coopsgd VERB --help` says below its first lines: examples, and what is printed
TOLD = {
    "resume": """
\b
coopsgd resume outputs/2030-01-31/12-00-00
coopsgd resume outputs/2030-01-31/12-00-00 steps=2000    the same run, longer

The lines are those of training, from the step of the checkpoint on; they end as those of a run that nobody stopped.
Of a sweep's folder, go on with all of its jobs that have not come to their end, and start those that never did.
""",
    "verify": """
\b
coopsgd verify outputs/2030-01-31/12-00-00 --steps 100

It prints what differs of the environment, then the verdict: the first step, and line or parameter, that differs.
Exit code 0: the same, 1: different, 2: it cannot be verified. Nothing is written into FOLDER.
""",
    "show": """
\b
coopsgd show algo=dpsgd topology=ring workers=8
coopsgd show algo=fedavg partition=dirichlet     also who holds which classes

Row i of W is what member i takes of each. zeta is how far the workers stay apart in the worst case: 0 averages exactly,
1 never agrees. messages and bytes are what the algorithm asks for, vectors on the wire what this placement sends.
""",
    "analyze": """
\b
coopsgd analyze algo=easgd tau=10 task=quadratic
coopsgd analyze algo=dpsgd tau=4 --probe probe.json      with constants that `coopsgd probe` measured
coopsgd analyze --over outputs/2030-01-31/12-00-00       beside what a run measured

Terms of the bound are said one by one (optimisation, noise, network, drift); what an assumption forbids to say is left
out, and a line says which assumption.
""",
    "time": """
\b
coopsgd time outputs/2030-01-31/12-00-00 cluster=wan_100m
coopsgd time multirun/2030-01-31/12-00-00 cluster=ethernet_1g cluster.step_s=0.2

Names are run folders, or a sweep's. Each run gets sim/NAME.jsonl, its log points on that clock, and the same curves for
TensorBoard, whose relative time there is that of the cluster.
""",
    "compare": """
\b
coopsgd compare multirun/2030-01-31/12-00-00
coopsgd compare multirun --by bytes --metric eval/accuracy --target 0.9 -o figures
coopsgd compare multirun --at bytes=50MB --at seconds=30s                   who is best when so much is used up
coopsgd compare multirun --tail 0.1 --metric eval/loss --metric consensus   means over the last tenth of each run

The table has the keys in which runs differ, the metric at the end and at its best (mean over seeds, and its 95 % interval),
what was sent and how long it took, and with --target what it took to reach it.
""",
    "export": """
\b
coopsgd export --to mlflow multirun/2030-01-31/12-00-00
coopsgd export --to wandb outputs

It prints how many runs were written, and where that store is.
""",
    "runs": """
\b
coopsgd runs
coopsgd runs multirun/2030-01-31/12-00-00 --watch

A line a run: its status (running, completed, diverged, failed, interrupted, killed), steps done of those planned, the age of
its last line, and the latest losses, accuracy and bytes.
""",
    "design": """
\b
coopsgd design cluster=wan_100m workers=8
coopsgd design cluster=ethernet_1g model=cnn --target-loss 0.5 --check 2

Words are Hydra overrides, as for train; algo, tau, topology, delay, outer and keys of the algo are searched unless they are
given. outer=none is quicker, with fewer pilots.
The table is ranked by the loss after the budget, or by the seconds to the target; each line can be given to `coopsgd train`.
""",
    "probe": """
\b
coopsgd probe model=cnn data=fashion_mnist -o probe.json
coopsgd analyze model=cnn data=fashion_mnist --probe probe.json    what theory says with these numbers

Each number stands with its 95 % interval. `coopsgd design --probe FILE` uses them, too; cluster=from_probe is the clock.
""",
    "list": """
\b
coopsgd list                   every group, with its choices
coopsgd list -v                the same with a line on each, and papers
coopsgd list algo              the choices of a group, a line on each
coopsgd list cluster=custom    the keys of a choice: type, unit, default and what each is
coopsgd list run               the keys of the run itself: steps, eval_every, timeout, ...
coopsgd list optim.lr          one key, wherever it is

A class of your own is listed by its yaml in --config-dir, or as GROUP=MODULE:CLASS.
""",
    "cite": """
\b
coopsgd cite outputs/2030-01-31/12-00-00      a run, or all of a sweep
coopsgd cite algo=easgd data=fashion_mnist    words, as for train

Above each entry stands what it is of. Classes of your own are named at the end: cite what they are from.
""",
}


class Verb(click.Command):
    """A verb whose options stand anywhere among its words, each once unless it takes several; other words that begin with a
    dash are refused.
    """

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_help_text(ctx, formatter)
        for part in TOLD.get(str(self.name), "").strip("\n").split("\n\n"):
            formatter.write_paragraph()
            with formatter.indentation():
                formatter.write_text(part)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        rest = super().parse_args(ctx, list(args))
        if ctx.resilient_parsing:
            return rest
        words = ctx.params.get("words") or ()
        if any(word.startswith("-") for word in words):
            from coopsgd.setup.flags import refuse_flags

            refuse_flags(words, str(self.name), [name for parameter in self.params for name in parameter.opts])
        *_, order = self.make_parser(ctx).parse_args(list(args))
        once = {one for one in order if isinstance(one, click.Option) and not one.is_flag and not one.multiple}
        for option in (one for one in once if order.count(one) > 1):
            raise click.UsageError(f"{option.opts[0]}: given {order.count(option)} times; give one")
        return rest


as_json_option = click.option("--json", "as_json", is_flag=True, help="The same for a program.")
config_dir_option = click.option(
    "--config-dir", "-cd", type=Place(exists=True, file_okay=False), help="A folder with yamls of your own, as for train."
)
quiet_option = click.option(
    "-q", "--quiet", is_flag=True, expose_value=False, callback=_silence, help="Say nothing on the way but what goes wrong."
)
words_argument = click.argument("words", nargs=-1, type=click.UNPROCESSED, shell_complete=complete)
version_option = click.version_option(__version__, prog_name="coopsgd")
