"""docs/trust.md names everything it should, and the script that writes it works."""

from __future__ import annotations

from pathlib import Path

import pytest
from invariants import LAWS
from public import NOT_RUN, PEERS, RULES
from test_oracle import ALGOS

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "trust.md"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import trust

    return trust


def rows(page: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("| ")]


def test_the_page_in_the_tree_is_whole():
    found = rows(PAGE.read_text())
    named = {row[0] for row in found}
    assert {f"`{algo}`" for algo in ALGOS} <= named
    for peer in PEERS:
        (cells,) = [
            row[3:5] for row in found if row[:3] == [f"`{peer.algo}`", peer.package, peer.name] and row[-1] == peer.about
        ]
        assert all(float(cell) <= peer.within for cell in cells), f"{peer.name}: {cells}; make trust with the extra peers"
    for rule in RULES:
        assert [row for row in found if row[:2] == [rule.system, rule.name]]
    assert {law.says for law in LAWS} <= named and all(name in PAGE.read_text() for name in NOT_RUN)


@pytest.mark.slow
def test_a_quick_page_is_measured_now(process_groups, script):
    trust = script.Trust(process_groups, quick=True)
    page = trust.page()
    assert trust.wrong == []
    found = {row[0]: row for row in rows(page)}
    assert {f"`{algo}`" for algo in ALGOS} <= set(found) and {law.says for law in LAWS} <= set(found)
    assert (
        float(found[f"`{min(ALGOS)}`"][2]) < 1e-12 and f"torch {script.metadata.version('torch')}" in page
    )  # quick has two of them
    assert max(map(len, (line for line in page.splitlines() if not line.startswith("|")))) <= 128


def test_what_is_off_is_told(process_groups, script, monkeypatch):
    (peer,) = [p for p in PEERS if p.about == "SGD, momentum"]
    monkeypatch.setattr(script, "PEERS", [peer])
    monkeypatch.setattr(type(peer), "trained", lambda *_: 1.0)
    trust = script.Trust(process_groups, quick=True)
    list(trust._peers())
    assert len(trust.wrong) == 1 and "torch.optim, alone, mlp" in trust.wrong[0]


@pytest.mark.parametrize(
    ("words", "message"), [(("--configs=0",), "--configs"), (("-o", "nowhere/a.md"), "nowhere is no folder")]
)
def test_words_that_mean_nothing(script, monkeypatch, capsys, words, message):
    monkeypatch.setattr("sys.argv", ["trust.py", *words])
    with pytest.raises(SystemExit) as end:
        script.main()
    assert end.value.code == 2 and message in capsys.readouterr().err
