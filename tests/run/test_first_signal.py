"""The first signal saves the run and says how it goes on; what it says works when it is pasted."""

from __future__ import annotations

import re
import shlex
import signal
import time

import pytest
from running import LONG, linux, started, until  # noqa: F401  a fixture

from coopsgd.run.folders import steps_saved

pytestmark = linux


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("of_the_users", [False, True])
def test_the_line_that_resumes(started, tmp_path, number, of_the_users):  # noqa: F811
    folder = "it's (mine)"
    code = ("algo=pasgd", "~algo.mixing", "algo.strategy=written:SlowMo") if of_the_users else ()
    command = started("train", *LONG, *code, "processes=2", f'hydra.run.dir="{folder}"')
    command.at_work(2, folder)
    command.send(number)
    ended = command.ended()
    assert ended.code == 128 + number and len(ended.lines) == 1, ended
    (typed, step) = re.findall(r"; (coopsgd resume .*) goes on from step (\d+)$", ended.lines[0])[0]
    words = shlex.split(typed)
    assert ("--trust" in words) is of_the_users
    assert command.summary(folder)["status"] == "interrupted" and steps_saved(tmp_path / folder) == [int(step)]
    again = started(*words[1:])
    until(lambda: f"goes on from step {step}" in again.output() or not again.process.is_alive(), "its first line")
    assert again.process.is_alive(), again.ended()
    again.at_work(2, folder)
    again.send(signal.SIGTERM)
    assert again.ended().code == 143
    again.nothing_left()


@pytest.mark.slow
@pytest.mark.parametrize("twice", [False, True])
def test_it_ends_soon_with_ten_million_parameters(started, tmp_path, twice):  # noqa: F811
    """4 workers, adamw: 480 MB to write. Seconds of the clock: for a machine that does little else."""
    words = ("task=quadratic", "task.dim=10000000", "optim=adamw", "tau=5", "steps=100000", "log_every=5", "eval_every=0")
    command = started("train", *words, "workers=4", "processes=2", "hydra.run.dir=r", "optim.lr=1e-6")
    command.at_work(2)
    began = time.monotonic()
    command.send(signal.SIGINT)
    if twice:
        time.sleep(0.5)
        command.send(signal.SIGINT)
    ended = command.ended()
    took = time.monotonic() - began
    print(f"ended after {took:.1f} s: {ended.lines}")
    assert ended.code == 130 and command.summary()["status"] == "interrupted"
    assert bool(steps_saved(tmp_path / "r")) is not twice
    assert took < (1.5 if twice else 5)
    command.nothing_left(halves=twice)
