"""What is remembered of choices is what Hydra composes of them, to the last flag; a yaml is read once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import hydra
import pytest
from hydra._internal import defaults_list
from hydra._internal import hydra as main
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.types import RunMode
from omegaconf import Container, OmegaConf

import coopsgd
from coopsgd.setup import catalogue, compose, loading
from coopsgd.setup.schema import GROUPS

RUN, SWEEP, ASKED = (RunMode.RUN, True), (RunMode.MULTIRUN, True), (RunMode.MULTIRUN, False)
CASES = [
    ((), RUN),
    (("algo=dpsgd", "topology=torus", "tau=4", "algo.weights=uniform", "hydra.run.dir=r"), RUN),
    (("algo=dpsgd", "algo=easgd", "optim=adam", "optim.lr=0.3", "~optim.lr"), RUN),
    (("task=language", "topology=complete"), RUN),
    (("experiment=skew", "cluster=wan_100m", "seed=1,2"), SWEEP),
    (("hydra.mode=MULTIRUN", "algo=dpsgd,easgd", "period=qsr"), ASKED),
    (("hydra/launcher=joblib", "algo=matcha", "hydra.launcher.n_jobs=2"), SWEEP),
    (("algo={tau: 3}", "+algo.other=1", "++hydra.job.env_set.X=1"), RUN),
    # what is refused, in the words of Hydra
    (("tau=1,2", "algo=dpsgd"), RUN),
    (("algo=nobody", "tau=4"), RUN),
    (("algo=dpsgd", "tua=4"), RUN),
    (("+algo=easgd",), RUN),
    (("algo@other=easgd",), RUN),
    (("algo=[easgd]",), RUN),
]
EVERY = [(f"{group}={choice.name}", "tau=4") for group in (*GROUPS, "experiment") for choice in catalogue.choices(group)]


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    monkeypatch.setattr(loading, "_kept", type(loading._kept)())
    compose.register_schema()


def nodes(node, at=""):
    """All that a config holds, with what OmegaConf knows of it."""
    known = node._metadata
    yield at, type(node), dict(known.flags or {}), known.key, known.ref_type, known.object_type, known.optional
    if isinstance(node, Container) and not (node._is_none() or node._is_missing()):
        content = node._content
        for key in content if isinstance(content, dict) else range(len(content)):
            assert content[key]._get_parent() is node
            yield from nodes(content[key], f"{at}.{key}")
    else:
        yield node._value()


def loaded(kind, words, mode):
    """What a loader makes of words, or how it refuses them."""
    with hydra.initialize_config_module("coopsgd.conf", version_base="1.3"):
        engine: Any = GlobalHydra.instance().hydra
        loader = kind(engine.config_loader.config_search_path)
        try:
            return list(nodes(loader.load_configuration("config", list(words), mode[0], True, mode[1])))
        except Exception as error:
            return type(error), str(error), str(error.__cause__)


@pytest.mark.parametrize(("words", "mode"), CASES, ids=lambda case: " ".join(map(str, case)))
def test_it_is_what_hydra_composes(words, mode):
    wanted = loaded(ConfigLoaderImpl, words, mode)
    assert [loaded(loading.Loader, words, mode) for _ in range(2)] == [wanted, wanted]


@pytest.mark.parametrize("words", EVERY, ids=lambda words: words[0])
def test_every_yaml_is_what_hydra_composes(words):
    assert loaded(loading.Loader, words, RUN) == loaded(ConfigLoaderImpl, words, RUN)


def test_a_yaml_is_read_once_whatever_stands_beside_it(monkeypatch):
    read: list[Path] = []
    load = OmegaConf.load

    def noted(file):
        read.append(Path(file.name))
        return load(file)

    monkeypatch.setattr(OmegaConf, "load", noted)
    groups = [("algo=dpsgd", "algo=matcha"), ("topology=ring", "topology=torus"), ("optim=sgd", "optim=adam")]
    for words in ([a, t, o, f"tau={n}"] for a in groups[0] for t in groups[1] for o in groups[2] for n in (1, 2)):
        assert compose.composed(words).hydra.runtime.choices["algo"] in words[0]
    ours = [file for file in read if Path(coopsgd.__file__).parents[1] / "conf" in file.parents]
    assert ours and len(set(ours)) < 20 and max(map(ours.count, ours)) <= 4, ours  # of 16 configs
    read.clear()
    compose.composed(["algo=matcha", "topology=ring", "tau=3"])
    assert not read


def test_what_is_written_into_one_config_is_in_no_other():
    for _ in range(2):
        cfg = compose.composed(["algo=dpsgd", "model=mlp"])
        assert "other" not in cfg.algo and cfg.algo.tau != 77 and cfg.hydra.job.name == "coopsgd"
        cfg.algo.tau, cfg.hydra.job.name = 77, "other"
        OmegaConf.update(cfg, "algo.other", 1, force_add=True)


def test_it_knows_where_it_is_and_a_users_yamls_are_read_anew(tmp_path, monkeypatch):
    compose.composed([])
    monkeypatch.chdir(tmp_path)
    assert compose.composed([]).hydra.runtime.cwd == os.getcwd()
    (tmp_path / "algo").mkdir()
    for tau in (3, 4):
        (tmp_path / "algo" / "own.yaml").write_text(f"strategy: cooperative\nmixing: average\ntau: {tau}\n")
        assert compose.composed(["algo=own"], str(tmp_path)).algo.tau == tau


def test_a_choice_by_another_is_followed_and_without_one_none_is_listed(tmp_path, monkeypatch):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    (tmp_path / "config.yaml").write_text("defaults: [one: a, two: '${one}']\n")
    for name in "ab":
        (tmp_path / "one" / f"{name}.yaml").write_text(f"x: {name}\n")
        (tmp_path / "two" / f"{name}.yaml").write_text(f"y: {name}\n")
    with hydra.initialize_config_dir(str(tmp_path), version_base="1.3"), loading._choices_when_asked():
        found = hydra.compose("config", ["one=b"])
    assert found == {"one": {"x": "b"}, "two": {"y": "b"}}

    theirs, listed = defaults_list._create_interpolation_map, []
    monkeypatch.setattr(defaults_list, "_create_interpolation_map", lambda *of: listed.append(of) or theirs(*of))
    compose.composed(["algo=dpsgd"])
    assert not listed


def test_no_more_is_kept_than_a_bound(monkeypatch):
    monkeypatch.setattr(loading, "MOST", 5)
    for name in ("sgd", "adam", "adamw"):
        compose.composed([f"optim={name}"])
    assert len(loading._kept) == 5


def test_what_a_group_has_is_listed_without_a_copy_of_all_that_was_read(monkeypatch):
    with hydra.initialize_config_module("coopsgd.conf", version_base="1.3"):
        theirs = GlobalHydra.instance().hydra.config_loader
        loading.quicken()
        ours = GlobalHydra.instance().hydra.config_loader
        asked = [(group, kind) for group in ("", *GROUPS, "hydra", "hydra/launcher") for kind in ObjectType]
        wanted = [theirs.get_group_options(*one) for one in asked]
        monkeypatch.setattr(ConfigLoaderImpl, "_parse_overrides_and_create_caching_repo", None)
        assert [ours.get_group_options(*one) for one in asked] == wanted and any(wanted)
    with loading.quickened():
        assert main.ConfigLoaderImpl is loading.Loader
    assert main.ConfigLoaderImpl is ConfigLoaderImpl
