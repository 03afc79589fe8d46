"""What coopsgd was compared with, and how far apart the two are: the page docs/trust.md, every number of it measured now.

Remake: make trust, or python scripts/trust.py -o docs/trust.md    (needs the extra dev; peers for all of it; half an hour)
It ends with 1, and says what, when something is further off than it may be.
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import numpy as np
from conftest import process_groups_of
from invariants import LAWS, draw
from playing import play, settle
from public import CASE, MODELS, NOT_RUN, PEERS, RULES, SEEDS, STEPS, TAU, WORKERS, Peer, Worker, papers

from coopsgd.setup import catalogue

EXACT = 1e-12
CONFIGS = 200  # random ones, for the laws
PROGRESS = sys.stderr


class Trust:
    """Measures; `page` writes what was found in Markdown, `wrong` what was further off than it may be."""

    def __init__(self, process_groups: Any, quick: bool = False, configs: int = CONFIGS) -> None:
        self._process_groups, self._quick = process_groups, quick
        self._models = ["mlp"] if quick else list(MODELS)
        self._seeds, self._configs = SEEDS[:1] if quick else SEEDS, 3 if quick else configs
        self.wrong: list[str] = []

    def page(self) -> str:
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        algos = [choice.name for choice in catalogue.choices("algo")]
        yield "# What was checked, and how far it agrees"
        yield ""
        yield "Made by `python scripts/trust.py -o docs/trust.md` (`make trust`), which measures every number anew."
        yield f"{versions()}."
        yield ""
        yield from self._algorithms(algos)
        yield from self._peers()
        yield from self._graphs()
        yield from self._laws()
        yield from self._exception()

    def _judge(self, what: str, found: float, within: float) -> str:
        if not found <= within:
            self.wrong.append(f"{what}: {found:.2g} apart, at most {within:.2g} expected")
        return f"{found:.1e}" if found else "0"

    def _algorithms(self, algos: list[str]) -> Iterator[str]:
        """Every algorithm: its public implementations, and the papers' formulas."""
        yield "## Every algorithm"
        yield ""
        yield from wrapped(
            f"Final models of all members, {WORKERS} workers in {WORKERS} processes, {STEPS} steps, τ = {TAU} "
            "(1 for `fullsync`, `gpa`, `d2`, `gradient_tracking`), SGD with momentum 0.9 (none where an algorithm changes "
            "gradients: "
            "`qg_dsgdm`, `fedprox`, `scaffold`, `kgt`; Adam of `local_adam` and `des_loc`), float64, digits, "
            f"batch 32: the largest difference of a number, over seeds {' and '.join(map(str, self._seeds))}. *Formulas* are "
            "slow loops over workers written from the papers, "
            "`tests/oracle.py`, on the same networks and batches (they import nothing of strategies, mixing or fleet). "
            "`cooperative` is a random W with two auxiliary models, `matcha` has 8 workers; the cnn of `topk_ef`, "
            "`sparseloco`, `demo` and those of Adam is without normalisation, by which gradients of biases are in opposite "
            "pairs or nothing but rounding."
        )
        yield ""
        yield from head("algorithm", "public implementation (below)", *(f"formulas, {model}" for model in self._models))
        for algo in algos[:2] if self._quick else algos:
            names = dict.fromkeys(f"{peer.package}: {peer.name}" for peer in PEERS if peer.algo == algo)
            cells = [self._judge(f"{algo}, formulas, {model}", self._formulas(algo, model), EXACT) for model in self._models]
            yield row(f"`{algo}`", "; ".join(names) or "none that runs here: the formulas alone", *cells)
        if self._quick:
            for algo in algos[2:]:
                yield row(f"`{algo}`", *["not measured"] * (1 + len(self._models)))
        yield ""

    def _formulas(self, algo: str, model: str) -> float:
        found = []
        for seed in self._seeds:
            say(f"{algo}, formulas, {model}, seed {seed}")
            words, expected = papers(algo, model, seed)
            found.append(np.abs(play(self._process_groups, WORKERS, *words).x - expected(settle(words))).max())
        return float(max(found))

    def _peers(self) -> Iterator[str]:
        yield "## Public implementations"
        yield ""
        yield from wrapped(
            "The same samples (a batch is a function of seed, row and step) from the same first model, in "
            f"{WORKERS} processes on gloo each, {STEPS} steps, τ = {TAU}, momentum 0.9, float64, where the last column says "
            "nothing else. Everyone's final model, largest difference of a number over the seeds. The last two steps are not "
            "followed by a communication, so that the workers differ at the end. `tests/public.py` holds each loop and the "
            "words of each config."
        )
        yield ""
        yield from head("algorithm", "package", "what", *self._models, "how it is compared")
        skipped: dict[str, str] = {}
        for peer in PEERS[:2] if self._quick else PEERS:
            if peer.missing:
                skipped[peer.package] = peer.missing
                cells = ["not run"] * len(self._models)
            else:
                cells = [self._judge(f"{peer.algo}, {peer.name}, {m}", self._apart(peer, m), peer.within) for m in self._models]
            yield row(f"`{peer.algo}`", peer.package, peer.name, *cells, peer.about)
        yield ""
        for name, why in {**skipped, **NOT_RUN}.items():
            yield from wrapped(f"- Not run: {name}: {why}.")
        yield ""

    def _apart(self, peer: Peer, model: str) -> float:
        found = []
        for seed in self._seeds:
            say(f"{peer.algo}, {peer.name}, {model}, seed {seed}")
            words = peer.all_words(model, seed)
            ours = play(self._process_groups, WORKERS, *words).x[peer.rows]
            found.append(np.abs(ours - peer.trained(self._process_groups, settle(words))).max())
        return float(max(found))

    def _graphs(self) -> Iterator[str]:
        yield "## Graphs and their weights"
        yield ""
        yield from wrapped(
            "Entries of W against matrices made from the rule that another system documents, with networkx and the formula, "
            "over a whole cycle: the largest difference. No code of those systems was run or copied."
        )
        yield ""
        yield from head("system", "graph", "rule", "here", "workers", "difference")
        for rule in RULES[:2] if self._quick else RULES:
            say(f"{rule.system}, {rule.name}")
            apart = self._judge(f"{rule.system}, {rule.name}", rule.furthest(), 1e-15)
            sizes = ", ".join(map(str, rule.sizes))
            yield row(rule.system, rule.name, rule.rule, f"`algo={rule.ours}`", sizes, apart)
        yield ""

    def _laws(self) -> Iterator[str]:
        yield "## Laws, on random configs"
        yield ""
        yield from wrapped(
            f"{self._configs} configs drawn by `tests/invariants.py`: 2 to 8 workers, 0 to 2 auxiliary models, τ from 1 to 6 "
            "or moving, one to three W in turn (60 % doubly stochastic, mixed permutations; else rows that sum to one), the "
            "three orders, SGD with and without momentum or Adam, buffers kept, averaged or reset, 10 to 30 steps, 2 or 4 "
            "processes, float64, noisy quadratics (fusing: an mlp on digits). A law is tried on the configs that it speaks of."
        )
        yield ""
        yield from head("law", "configs", "furthest off", "allowed")
        for law in LAWS:
            say(law.says)
            found = [law.measure(self._process_groups, draw(number)) for number in range(self._configs)]
            kept = [value for value in found if value is not None]
            furthest = self._judge(law.says, max(kept, default=0.0), law.within)
            yield row(law.says, len(kept), furthest, f"{law.within:.0e}" if law.within else "0")
        yield ""

    def _exception(self) -> Iterator[str]:
        """Where the placement law of 1e-12 does not hold."""
        yield "## Where 1e-12 does not hold"
        yield ""
        noise, rest = 0.0, 0.0
        words = (*CASE, "model=cnn", "model.width=8", "model.norm=batch", "algo=pasgd", "optim=adam", "optim.lr=0.01")
        for seed in self._seeds:
            say(f"Adam before a BatchNorm, seed {seed}")
            one, many = (play(self._process_groups, processes, *words, f"seed={seed}").x for processes in (1, WORKERS))
            apart, unmoved = np.abs(one - many).max(0), Worker(0, settle((*words, f"seed={seed}"))).before_a_norm()
            noise, rest = max(noise, apart[unmoved].max()), max(rest, apart[~unmoved].max())
        yield from wrapped(
            "**Adam and parameters whose exact gradient is zero.** Adam divides by the root of its mean square. A bias before "
            "a normalisation, or a BatchNorm whose input is constant, has a gradient of exactly 0 and gets nothing but "
            "rounding, which differs with the placement; Adam makes steps of it. `algo=pasgd optim=adam optim.lr=0.01 "
            f"model=cnn model.norm=batch`, {STEPS} steps, in 1 process and in {WORKERS}: the convolutions' biases differ by "
            f"up to {self._judge('biases under Adam', noise, 1e-7)}, all else by up to "
            f"{self._judge('all but those biases under Adam', rest, 1e-11)}. No loss depends on those biases; SGD keeps 1e-12."
        )
        yield ""
        words = (*CASE, *MODELS["mlp" if self._quick else "cnn"], "algo=pasgd", "optim.momentum=0.9", "dtype=float32")
        apart = max(
            np.abs(np.subtract(*(play(self._process_groups, p, *words, f"seed={seed}").x for p in (1, WORKERS)))).max()
            for seed in self._seeds
        )
        yield from wrapped(
            f"**float32.** The same sums in another order round differently: `algo=pasgd` with momentum on the "
            f"{'mlp' if self._quick else 'cnn'}, {STEPS} steps, in 1 process and in {WORKERS}: "
            f"{self._judge('float32', float(apart), 1e-4)} apart, which longer training may magnify. On one placement a "
            "repeated run is equal bit for bit in float32, too."
        )


def versions() -> str:
    found = [f"Python {platform.python_version()}", f"coopsgd {metadata.version('coopsgd')}"]
    for name in ("torch", "numpy", *dict.fromkeys(peer.package for peer in PEERS if peer.package != "torch")):
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def head(*names: str) -> list[str]:
    return [row(*names), row(*["---"] * len(names))]


def row(*cells: Any) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def wrapped(text: str) -> list[str]:
    import textwrap

    return textwrap.wrap(text, 128, subsequent_indent="  " if text.startswith("- ") else "", break_on_hyphens=False)


def say(what: str) -> None:
    print(
        f"\x1b[2K\r{what[:100]}" if PROGRESS.isatty() else what,
        end="" if PROGRESS.isatty() else "\n",
        file=PROGRESS,
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="What coopsgd was compared with, measured anew, in Markdown.")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the page there instead of printing it")
    parser.add_argument("--quick", action="store_true", help="a small part of it, to see that it works")
    parser.add_argument("--configs", type=int, default=CONFIGS, metavar="N", help=f"random configs for the laws ({CONFIGS})")
    asked = parser.parse_args()
    if asked.configs < 1:
        parser.error(f"--configs: must be at least 1, got {asked.configs}")
    if asked.output and not asked.output.resolve().parent.is_dir():
        parser.error(f"-o {asked.output}: {asked.output.parent} is no folder")
    with process_groups_of() as process_groups:
        trust = Trust(process_groups, asked.quick, asked.configs)
        page = trust.page()
    if asked.output:
        asked.output.write_text(page)
    else:
        print(page, end="")
    for line in trust.wrong:
        print(f"trust.py: {line}", file=sys.stderr)
    return 1 if trust.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
