"""A real browser without a window: Debian's chromium, spoken to over a pipe (the DevTools protocol), with no name resolved.

with browser.opened(width=1000, height=800) as page:
    page.go("file:///...")
    page.evaluate("document.title")
    page.screenshot(tmp_path / "page.png")
assert page.errors == []
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conftest import needs

FLAGS = (
    "--headless=new",
    "--no-sandbox",  # tests run as root in a container
    "--disable-gpu",
    "--disable-3d-apis",  # what would be drawn by WebGL is drawn as SVG
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-default-browser-check",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
PATIENCE = 60.0  # seconds for an answer


def found() -> str | None:
    """The browser's path; None where there is none."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Page:
    """One page of it. errors: what its console reported as one, and exceptions that nobody caught. asked: every address."""

    def __init__(self, inward: int, outward: int) -> None:
        self.errors: list[str] = []
        self.asked: list[str] = []
        self._in, self._out, self._rest, self._number = inward, outward, b"", 0
        self._session: str | None = None
        self._loaded = False
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> Any:
        """A command of the protocol, and its result. RuntimeError where it fails."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        sent = memoryview(json.dumps(message).encode() + b"\0")
        while sent:
            sent = sent[os.write(self._out, sent) :]
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]

    def _next(self) -> dict[str, Any]:
        end = time.monotonic() + PATIENCE
        while b"\0" not in self._rest:
            there, _, _ = select.select([self._in], [], [], max(0.0, end - time.monotonic()))
            read = os.read(self._in, 1 << 20) if there else b""
            if not read:
                raise TimeoutError("the browser does not answer")
            self._rest += read
        one, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(one)
        self._heard(message.get("method", ""), message.get("params", {}))
        return message

    def _heard(self, method: str, params: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
            self.errors.append(" ".join(str(one.get("value", one.get("description"))) for one in params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(f"{params['entry']['text']} {params['entry'].get('url', '')}".strip())
        elif method == "Network.requestWillBeSent":
            self.asked.append(params["request"]["url"])
        elif method == "Page.loadEventFired":
            self._loaded = True

    def go(self, address: str) -> None:
        """Open an address and wait until it is loaded."""
        self._loaded = False
        failed = self.call("Page.navigate", url=address).get("errorText")
        if failed:
            raise RuntimeError(f"{address}: {failed}")
        while not self._loaded:
            self._next()

    def evaluate(self, code: str) -> Any:
        """The value of an expression in the page, of a promise what it comes to."""
        answer = self.call("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise RuntimeError(f"{code}: {details.get('exception', {}).get('description', details['text'])}")
        return answer["result"].get("value")

    def wait(self, code: str, seconds: float = 30.0) -> Any:
        """Ask again until the expression is true; its value."""
        end = time.monotonic() + seconds
        while not (value := self.evaluate(code)):
            if time.monotonic() > end:
                raise TimeoutError(f"{code} is still {value!r} after {seconds:g} s")
            time.sleep(0.05)
        return value

    def hover(self, x: float, y: float) -> None:
        """Move the mouse there, in pixels from the upper left corner of what is seen."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, selector: str) -> None:
        """A click, with the mouse, into the middle of the first element of this selector."""
        code = "(e => {e.scrollIntoView({block: 'center'}); const r = e.getBoundingClientRect();"
        x, y = self.evaluate(
            f"{code} return [r.x + r.width / 2, r.y + r.height / 2];}})(document.querySelector({json.dumps(selector)}))"
        )
        self.hover(x, y)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def screenshot(self, path: Path, whole: bool = False) -> Path:
        """A PNG of what is seen, or of the whole page."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"]))
        return path


@contextlib.contextmanager
def opened(width: int = 1200, height: int = 900) -> Iterator[Page]:
    """A page of a browser with a profile of its own, which ends with the block. The test is skipped where there is none."""
    needs((program := found()) is not None, "chromium")
    assert program is not None
    with tempfile.TemporaryDirectory(prefix="browser", ignore_cleanup_errors=True) as profile:
        low_in, ours_out = os.pipe()
        ours_in, low_out = os.pipe()
        # the protocol is spoken on descriptors 3 and 4, which these are not
        theirs_in, theirs_out = (fcntl.fcntl(low, fcntl.F_DUPFD, 10) for low in (low_in, low_out))
        words = [program, *FLAGS, f"--window-size={width},{height}", f"--user-data-dir={profile}"]
        words.append("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost")
        shell = ["bash", "-c", f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}', "bash", *words]
        process = subprocess.Popen(
            shell,
            pass_fds=(theirs_in, theirs_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "HOME": profile},
        )
        for descriptor in (low_in, low_out, theirs_in, theirs_out):
            os.close(descriptor)
        try:
            yield Page(ours_in, ours_out)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            os.close(ours_in)
            os.close(ours_out)
