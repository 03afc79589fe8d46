"""docs/dashboard.png anew: a sweep of four algorithms, trained here, as a real TensorBoard shows it in a real Chromium.

python scripts/dashboard.py [-o FILE]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import quote

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import browser  # noqa: E402
from tensorboards import TEXT, tensorboards  # noqa: E402

WORDS = ("algo=fullsync,pasgd,easgd,dpsgd", "tau=10", "eval_every=50", "partition=shards", "steps=500", "processes=1")
TAGS = "eval/loss", "eval/accuracy", "vs_kB/eval/loss", "vs_ms/eval/loss", "transfer/bytes", "workers/consensus"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", default=str(ROOT / "docs" / "dashboard.png"))
    to = Path(parser.parse_args().o)
    with tempfile.TemporaryDirectory() as folder:
        sweep = Path(folder) / "sweep"
        train = ["train", "-m", *WORDS, f"hydra.sweep.dir={sweep}"]
        subprocess.run([sys.executable, "-m", "coopsgd.cli", *train], check=True, stdout=subprocess.DEVNULL)
        only = quote(f"^({'|'.join(TAGS)})$", safe="")
        with tensorboards(sweep, fast=True) as (address,), browser.opened(1500, 1130) as page:
            page.go(f"{address}?darkMode=false&smoothing=0&tagFilter={only}#timeseries")
            page.wait(
                f"(text => ['eval/loss', 'vs_ms/eval/loss', 'workers/consensus'].every(word => text.includes(word)))({TEXT})",
                60,
            )
            page.evaluate(
                "document.querySelector('settings-view button, .sidebar .close-button, [aria-label*=ettings]')?.click()"
            )
            page.evaluate("new Promise(done => setTimeout(done, 3000))")
            page.screenshot(to)
    print(to)


if __name__ == "__main__":
    main()
