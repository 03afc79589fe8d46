"""Shell completion in one script: click completes the verbs, Hydra the overrides behind them."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import BashComplete, CompletionItem, add_completion_class, get_completion_class

if TYPE_CHECKING:
    from coopsgd.setup.catalogue import Option

# bash splits words at '=', which overrides are full of: the line is sent whole, and what bash has already is cut off
BASH = """\
%(complete_func)s() {
    local line="${COMP_LINE:0:$COMP_POINT}" word="${COMP_WORDS[COMP_CWORD]}" reply
    reply=$(env COMP_LINE="$line" %(complete_var)s=bash_complete $1)
    COMPREPLY=()
    while IFS= read -r reply; do
        [[ -n $reply ]] && COMPREPLY+=("$reply")
    done <<< "$reply"
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]]; then compopt -o nospace; fi
    return 0
}
complete -o default -F %(complete_func)s %(prog_name)s
"""


class Bash(BashComplete):
    """bash, with words that contain '='."""

    source_template = BASH

    @staticmethod
    def _check_version() -> None:
        """Any bash of this century has what the script uses."""

    def get_completion_args(self) -> tuple[list[str], str]:
        line = os.environ["COMP_LINE"]
        words = line.split()
        incomplete = "" if line.endswith(" ") or not words else words.pop()
        return words[1:], incomplete

    def format_completion(self, item: CompletionItem) -> str:
        _, incomplete = self.get_completion_args()
        known = incomplete.rpartition("=")[0]
        return item.value[len(known) + 1 :] if known else item.value


def register() -> None:
    """Make click use ours for bash."""
    add_completion_class(Bash)


def script(cli: click.Command, shell: str) -> str:
    """The script to source in `shell`."""
    register()
    kind = get_completion_class(shell)
    assert kind is not None
    return kind(cli, {}, "coopsgd", "_COOPSGD_COMPLETE").source()


def overrides(words: list[str]) -> list[CompletionItem]:
    """What Hydra offers for the last of these words, given those before it."""
    from hydra import initialize_config_module
    from hydra._internal.core_plugins.bash_completion import BashCompletion
    from hydra.core.global_hydra import GlobalHydra

    from coopsgd.setup import compose

    compose.register_schema()
    flags = [at for at, word in enumerate(words) if word in ("--config-dir", "-cd")]
    own = [words[at + 1] for at in flags if at + 2 < len(words) and Path(words[at + 1]).is_dir()]
    if flags and flags[-1] + 1 == len(words) - 1:
        return [CompletionItem(words[-1], type="dir")]
    before = [word for at, word in enumerate(words) if not {at, at - 1} & set(flags)]
    with initialize_config_module("coopsgd.conf", version_base="1.3"), contextlib.redirect_stderr(io.StringIO()):
        hydra: Any = GlobalHydra.instance().hydra
        if own:  # what is in a folder of the user's can be chosen, too
            before.insert(0, compose.search_in(own[-1]))
        try:
            found = BashCompletion(hydra.config_loader)._query("config", " ".join(before))
        except SystemExit:  # argparse: a flag that is not there
            return []
    found += _ours(words, own[-1] if own else None)  # yamls hold only what they change
    return [CompletionItem(value) for value in dict.fromkeys(found) if value.startswith(words[-1])]


def listed(incomplete: str, config_dir: str | None) -> list[CompletionItem]:
    """What `coopsgd list` takes: groups, their choices, keys."""
    from coopsgd.commands.listing import known_words

    return [CompletionItem(word) for word in dict.fromkeys(known_words(config_dir)) if word.startswith(incomplete)]


def metrics(incomplete: str) -> list[CompletionItem]:
    """Names of metrics.jsonl."""
    from coopsgd.run.schema import METRICS

    return [CompletionItem(name) for name in METRICS if name.startswith(incomplete)]


def _ours(words: list[str], config_dir: str | None) -> list[str]:
    """What the dataclasses and train's own words add to what Hydra knows: keys, and behind a key the words it may be."""
    key, equal, _ = words[-1].partition("=")
    if equal:
        return list(dict.fromkeys(f"{key}={word}" for one in _options(words, key, config_dir) for word in one.words))
    return list(dict.fromkeys(f"{one.full_key}=" for one in _options(words, key, config_dir)))


def _options(words: list[str], about: str, config_dir: str | None) -> list[Option]:
    """The options that the last word may be about, which begins so: those of the choices that the words before it name.

    Of a group of which none is chosen, of any choice.
    """
    from coopsgd.setup import catalogue
    from coopsgd.setup.schema import GROUPS

    group, dot, _ = about.partition(".")
    if not dot:
        found = catalogue.run_options()
    else:
        if group not in GROUPS:
            return []
        named = [word.partition("=")[2] for word in words[:-1] if word.startswith(f"{group}=")]
        known = [choice.name for choice in catalogue.choices(group, config_dir)]
        chosen = named[-1:] if named and named[-1] in known else [] if named else known
        found = [option for name in chosen for option in catalogue.options(group, name, config_dir)]
    return [option for option in found if (option.full_key == about if "=" in words[-1] else option.full_key.startswith(about))]
