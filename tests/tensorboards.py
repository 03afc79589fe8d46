"""Real TensorBoards: `tensorboards` serves folders, `get` and `post` ask them over HTTP, TEXT is what a page shows."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HANG = 120.0  # seconds that reading takes at most

SERVE = """
import logging, sys, time, warnings
warnings.simplefilter("ignore")
from tensorboard import program
for folder in sys.argv[2:]:
    board = program.TensorBoard()
    board.configure(argv=[None, "--logdir", folder, "--port", "0", "--load_fast", sys.argv[1], "--reload_interval", "3600"])
    print(board.launch(), flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def tensorboards(*folders: Path, fast: bool = False) -> Iterator[list[str]]:
    """The addresses of a TensorBoard for each folder, which has read it. fast: with the reader that is written in Rust."""
    command = [sys.executable, "-c", SERVE, "true" if fast else "false", *map(str, folders)]
    quiet = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(command, start_new_session=True, **quiet) as server:  # type: ignore[call-overload]
        try:
            found = [server.stdout.readline().strip() for _ in folders]
            assert all(found), f"no TensorBoard came up: {found}"
            for address, folder in zip(found, folders, strict=True):
                _wait_until_read(address, folder)
            yield found
        finally:
            server.stdin.close()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)


def _wait_until_read(address: str, folder: Path) -> None:
    """It reads in a thread of its own: until as many runs are there as folders with a file of events, to the last curve."""
    wanted = len({path.parent for path in folder.rglob("events.out.tfevents.*")})
    end, before = time.monotonic() + HANG, None
    while time.monotonic() < end:
        runs = get(address, "data/runs")
        now = (len(runs), get(address, "data/plugin/scalars/tags"))
        if len(runs) >= wanted and now == before:
            return
        before = now
        time.sleep(0.3)
    raise AssertionError(f"TensorBoard read {before and before[0]} of {wanted} runs in {HANG} s")


def get(address: str, path: str, **query: str) -> Any:
    """What it answers, as JSON."""
    return json.loads(read(address, path, **query))


def read(address: str, path: str, **query: str) -> bytes:
    """What it answers."""
    asked = f"?{urllib.parse.urlencode(query)}" if query else ""
    with urllib.request.urlopen(f"{address.rstrip('/')}/{path}{asked}", timeout=HANG) as answer:
        return bytes(answer.read())


def post(address: str, path: str, body: Any) -> Any:
    """What it answers to this JSON."""
    request = urllib.request.Request(
        f"{address.rstrip('/')}/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=HANG) as answer:
        return json.loads(answer.read())


# all text of a page as it is shown, that of its components too: for Page.evaluate
TEXT = """(() => {
  const words = [];
  const walk = node => {
    if (node.nodeType === 3) { if (node.textContent.trim()) words.push(node.textContent.trim()); return; }
    if (node.nodeType === 1) {
      if (["STYLE", "SCRIPT", "TEMPLATE"].includes(node.tagName)) return;
      if (getComputedStyle(node).display === "none") return;
    }
    if (node.shadowRoot) walk(node.shadowRoot);
    node.childNodes.forEach(walk);
  };
  walk(document.body);
  return words.join("\\n");
})()"""
