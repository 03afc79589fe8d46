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


class Verb(click.Command):
    """A verb whose options stand anywhere among its words, each once; other words that begin with a dash are refused."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        rest = super().parse_args(ctx, list(args))
        if ctx.resilient_parsing:
            return rest
        words = ctx.params.get("words") or ()
        if any(word.startswith("-") for word in words):
            from coopsgd.setup.flags import refuse_flags

            refuse_flags(words, str(self.name), [name for parameter in self.params for name in parameter.opts])
        *_, order = self.make_parser(ctx).parse_args(list(args))
        for option in {one for one in order if isinstance(one, click.Option) and not one.is_flag and order.count(one) > 1}:
            raise click.UsageError(f"{option.opts[0]}: given {order.count(option)} times; give one")
        return rest


as_json_option = click.option("--json", "as_json", is_flag=True, help="The same for a program.")
config_dir_option = click.option(
    "--config-dir", "-cd", type=Place(exists=True, file_okay=False), help="A folder with yamls of your own, as for train."
)
words_argument = click.argument("words", nargs=-1, type=click.UNPROCESSED, shell_complete=complete)
version_option = click.version_option(__version__, prog_name="coopsgd")
