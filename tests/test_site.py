"""The pages of docs/ make a site: each is in mkdocs.yml, and what they link is there."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
PAGES = {path.relative_to(DOCS).as_posix(): path.read_text() for path in sorted(DOCS.rglob("*.md"))}
CODE = re.compile(r"^```.*?^```|``[^`]+``|`[^`\n]+`", re.DOTALL | re.MULTILINE)


def leaves(nav: Any) -> list[str]:
    """Of the nav, the pages."""
    if isinstance(nav, str):
        return [nav]
    return [page for one in (nav.values() if isinstance(nav, dict) else nav) for page in leaves(one)]


def anchors(page: str, ascii_only: bool) -> set[str]:
    """Of its headings, as mkdocs makes them (ascii_only), or as GitHub does."""
    found: dict[str, int] = {}
    for title in re.findall(r"^#+ +(.*)", re.sub(r"^```.*?^```", "", page, flags=re.DOTALL | re.MULTILINE), re.MULTILINE):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title)
        if ascii_only:
            text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
        slug = re.sub(r"[^\w\s-]", "", text).strip().lower()
        slug = re.sub(r"[-\s]+", "-", slug) if ascii_only else slug.replace(" ", "-")
        found[slug] = found.get(slug, 0) + 1
    return set(found)


def broken(name: str, page: str, pages: dict[str, str]) -> list[str]:
    """Links and pictures of a page that lead nowhere: beyond docs/, to no file, or to no heading."""
    wrong = []
    for link in re.findall(r"\]\(([^)\s]+)\)", CODE.sub("", page)):
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = os.path.normpath(os.path.join(os.path.dirname(name), path)) if path else name
        there = not target.startswith("..") and (target in pages or (DOCS / target).is_file())
        if anchor:
            there = target in pages and all(anchor in anchors(pages[target], ascii_only) for ascii_only in (True, False))
        if not there:
            wrong.append(link)
    return wrong


def test_every_page_is_in_the_nav_once():
    assert sorted(leaves(SITE["nav"])) == sorted(PAGES)


@pytest.mark.parametrize("name", PAGES)
def test_what_a_page_links_is_there(name):
    assert not broken(name, PAGES[name], PAGES)
    assert not re.search(r"!\[[^]]*\]\(http|<script|<link|<iframe", CODE.sub("", PAGES[name])), "nothing is read of the network"


def test_a_link_that_leads_nowhere_is_noticed():
    page = "# A\n[a](#a) [b](#b) [c](words.md) [d](wrds.md) [e](../README.md) `[f](no.md)` [g](words.md#no) ![h](dashboard.png)"
    assert broken("x.md", page, {**PAGES, "x.md": page}) == ["#b", "wrds.md", "../README.md", "words.md#no"]


def test_every_picture_is_on_a_page():
    shown = "\n".join([*PAGES.values(), (ROOT / "README.md").read_text()])
    assert [path.name for path in DOCS.rglob("*.png") if path.name not in shown] == []


def test_the_site_is_built_without_a_warning(tmp_path):
    if importlib.util.find_spec("mkdocs") is None or importlib.util.find_spec("material") is None:
        pytest.skip("mkdocs and mkdocs-material not installed: pip install '.[docs]'")
    line = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(line, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    for html in (tmp_path / "site").rglob("*.html"):
        used = re.findall(r"<(?:script|link|img)[^>]*?(?:src|href)=\"?(https?://[^\s\">]+)", html.read_text())
        assert not used, (html.name, used)
