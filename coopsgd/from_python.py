"""`coopsgd.train(...)` and `coopsgd.show(...)`: the command line, called by a program or a notebook.

Each call runs the command in an interpreter of its own. Nothing of the caller is forked or run again (its threads, its GPU,
a script without `if __name__ == "__main__"`), and nothing of it changes: signals, torch, Hydra, random numbers, folder.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import re
import selectors
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from coopsgd.errors import ConfigError, RunFailed
from coopsgd.host.child import die_with
from coopsgd.run.reader import Run
from coopsgd.setup import spoken

GLANCE = 0.1  # seconds between two looks at whether the command has ended
# the caller's sys.path comes first, so that what it can import is found, and nothing else that lies around is
CODE = "import os, sys; sys.path[:] = sys.argv.pop(1).split(os.pathsep); from coopsgd.from_python import main; main()"
ERROR = "coopsgd: "  # what the line begins with by which a command says why it failed


def train(*words: Any, quiet: bool = False) -> Run:
    """Train what these words say, as `coopsgd train WORDS` does in the working directory; the run.

    words: as in "tau=10"; several in a line; a whole `coopsgd train ...` line; a dict as in {"algo": "easgd", "tau": 10}; the
    path of a yaml of such keys. Flags are words of their own: "--config-dir", "mine". quiet: print nothing.

    ConfigError for words that cannot work, before anything is started; RunFailed for a run that did not come to its end.
    Ctrl-C has the run saved, and raises KeyboardInterrupt that says how to go on; once more ends it at once.
    """
    folder = _command("train", words, quiet)
    if not folder:
        raise ConfigError("words: they have nothing trained here (--help, launch=false); give them to `coopsgd train` itself")
    return Run(folder, trust=True)  # what it names are the caller's own words


def show(*words: Any, quiet: bool = False) -> dict[str, Any]:
    """Print what an algorithm is, as `coopsgd show WORDS` does; the same as a dict, as `coopsgd show --json` has it.

    Words and errors as of train.
    """
    return Facts(json.loads(_command("show", words, quiet)))


class Facts(dict[str, Any]):
    """What `show` found. A notebook that echoes it names the keys; the report was printed."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {', '.join(self)}>"


def _command(verb: str, words: Sequence[Any], quiet: bool) -> str:
    """Run `coopsgd VERB WORDS`, its console shown here unless quiet; what it had to tell the caller."""
    flat = spoken.words_of(words)
    if odd := next((word for word in flat if "__main__:" in word), None):
        raise ConfigError(f"{odd}: is of the program that calls, which no worker runs again; put it in a file, as module:Class")
    reader, writer = os.pipe()
    argv = [
        sys.executable,
        "-c",
        CODE,
        os.pathsep.join(map(str, sys.path)),
        str(os.getpid()),
        str(writer),
        verb,
        *flat,
    ]
    try:
        command = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(writer,),
            env={**os.environ, "PYTHONIOENCODING": "utf-8"},
            start_new_session=True,  # the terminal's Ctrl-C comes once, from here
        )
    except BaseException:
        os.close(reader)
        raise
    finally:
        os.close(writer)
    assert command.stdout is not None and command.stderr is not None
    told, shown, said = _Text(None), _Text(None if quiet else sys.stdout), _Text(None if quiet else sys.stderr, ERROR)
    streams = {reader: told, command.stdout.fileno(): shown, command.stderr.fileno(): said}
    with command:
        try:
            _follow(command, streams)
        except BaseException as first:  # Ctrl-C above all
            ask = signal.SIGINT if isinstance(first, KeyboardInterrupt) else signal.SIGTERM
            for number in (ask, ask, signal.SIGKILL):  # the first has the run saved, the second ends it at once
                command.send_signal(number)
                with contextlib.suppress(KeyboardInterrupt):
                    _follow(command, streams)
                    break
            if ask == signal.SIGINT:
                raise KeyboardInterrupt(said.message) from None
            raise
        finally:
            os.close(reader)
    if command.returncode == 0:
        said.flush()
        return told.text
    message = said.message or f"its process ended by {_how(command.returncode)}"
    raise ConfigError(message) if command.returncode == 2 else RunFailed(message)


def _how(code: int) -> str:
    """How a command ended, by its exit code."""
    number = code - 128 if code > 128 else -code
    try:
        return signal.Signals(number).name if code < 0 or code > 128 else f"exit code {code}"
    except ValueError:
        return f"exit code {code}"


class _Text:
    """What comes from one stream, shown as it comes; lines from one that begins with `hold` on are held back."""

    def __init__(self, out: Any, hold: str = "") -> None:
        self._out, self._hold, self.text, self._shown = out, hold, "", 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape" if out is None else "replace")

    def add(self, data: bytes) -> None:
        self.text += self._decoder.decode(data)
        if self._out is None:
            return
        end = len(self.text)
        if self._hold:
            end = self.text.rfind("\n") + 1  # whole lines
            if found := re.search(rf"^{self._hold}", self.text, re.MULTILINE):
                end = found.start()
        self._show(end)

    def flush(self) -> None:
        """Show what was held back."""
        self._show(len(self.text))

    def _show(self, end: int) -> None:
        if self._out is None or end <= self._shown:
            return
        with contextlib.suppress(OSError, ValueError):  # a console that is gone is no reason to end
            self._out.write(self.text[self._shown : end])
            self._out.flush()
        self._shown = end

    @property
    def message(self) -> str:
        """Why the command failed, as its last lines say it."""
        lines = self.text.rstrip()
        found = list(re.finditer(rf"^{ERROR}", lines, re.MULTILINE))
        return lines[found[-1].end() :] if found else lines.rpartition("\n")[2]


def _follow(command: subprocess.Popen[bytes], streams: dict[int, _Text]) -> None:
    """Take what the command says until it has ended. What it leaves behind may hold the streams open: nobody waits for that."""
    with selectors.DefaultSelector() as selector:
        for number in streams:
            selector.register(number, selectors.EVENT_READ)
        ended, ready = False, list[Any]()
        while ready or not ended:
            ended = command.poll() is not None
            ready = selector.select(0 if ended else GLANCE)
            for key, _ in ready:
                if data := os.read(key.fd, 1 << 16):
                    streams[key.fd].add(data)
                else:
                    selector.unregister(key.fd)


def main() -> None:
    """The command, in its own interpreter: sys.argv has the caller's process, where to tell it, and the words."""
    parent, writer = int(sys.argv.pop(1)), int(sys.argv.pop(1))
    os.set_inheritable(writer, False)
    # a caller that was killed asks to end as the terminal would: the run is saved
    die_with(parent, signal.SIGTERM)
    from coopsgd import cli

    sys.argv[0] = "coopsgd"

    def tell(text: str) -> None:
        with open(writer, "w", encoding="utf-8", errors="surrogateescape", closefd=False) as caller:
            caller.write(text)

    cli.main(tell)
