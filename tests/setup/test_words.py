"""What people type: flags and words in any order, text that needs no quotes, and errors that name the key and the way out."""

from __future__ import annotations

import re

import pytest

from coopsgd.commands import compose
from coopsgd.commands.train import command, session
from coopsgd.errors import ConfigError
from coopsgd.setup import catalogue, schema, words
from coopsgd.setup.schema import Config

# what a parser says of itself and no user should have to read
JARGON = re.compile(
    "Lexer|mismatched|no viable|missing EQUAL|extraneous|token recognition|expecting|EOF|override '|Ambiguous|GrammarParse"
    "|unrecognized arguments|could not be converted|Error merging|append"
)


@pytest.fixture
def train(monkeypatch, capsys, tmp_path):
    """train(words): exit code, configs that would have been trained, lines on stderr; in this process, nothing is started."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    found: list[Config] = []

    def run(session, cfg, job, hydra_config):
        checked = session.checked or compose.check(cfg, [], dict(hydra_config.runtime.choices), session.beside)
        found.append(checked.config)

    monkeypatch.setattr(session.Session, "_run", run)

    def call(*typed: str):
        found.clear()
        code = command.train(typed)
        message = capsys.readouterr()
        return code, list(found), message.err.splitlines(), message.out

    return call


def own(folder):
    (folder / "mine" / "algo").mkdir(parents=True)
    (folder / "mine" / "algo" / "own.yaml").write_text("# Own\nstrategy: cooperative\nmixing: average\ntau: 3\n")


FLAGS = [
    ("task=quadratic", "--config-dir", "mine", "algo=own"),
    ("--config-dir", "mine", "task=quadratic", "algo=own"),
    ("task=quadratic", "algo=own", "--config-dir", "mine"),
    ("task=quadratic", "--config-dir=mine", "algo=own"),
    ("task=quadratic", "-cd", "mine", "algo=own"),
    ("-cd=mine", "task=quadratic", "algo=own"),
    ("task=quadratic", "--config-name", "config", "algo=own", "-cd", "mine"),
    ("task=quadratic", "-cn", "config", "--config-dir", "mine", "--", "algo=own"),
    ("task=quadratic", "-r", "algo=own", "--config-dir", "mine", "--run"),
]


@pytest.mark.parametrize("typed", FLAGS, ids=" ".join)
def test_flags_stand_anywhere(train, tmp_path, typed):
    own(tmp_path)
    code, (config,), errors, _ = train(*typed)
    assert code == 0 and not errors
    assert (config.algo["name"], config.tau, config.task["name"]) == ("own", 3, "quadratic")


@pytest.mark.parametrize(
    "typed",
    [
        ("-m", "task=quadratic", "--config-dir", "mine", "algo=own", "seed=1,2"),
        ("seed=1,2", "--config-dir", "mine", "algo=own", "--multirun", "task=quadratic"),
        ("seed=1,2", "-m", "-m", "algo=own", "task=quadratic", "-cd", "mine"),
        ("hydra.mode=MULTIRUN", "seed=1,2", "-cd", "mine", "algo=own", "task=quadratic"),
    ],
    ids=" ".join,
)
def test_flags_of_a_sweep_stand_anywhere(train, tmp_path, typed):
    own(tmp_path)
    code, configs, _, _ = train(*typed)
    assert code == 0 and [(config.algo["name"], config.seed) for config in configs] == [("own", 1), ("own", 2)]


@pytest.mark.parametrize(
    "typed",
    [
        ("tau=7", "--cfg", "job", "steps=5", "--resolve"),
        ("--resolve", "tau=7", "--cfg=job", "steps=5"),
        ("tau=7", "-c", "job", "steps=5"),
    ],
    ids=" ".join,
)
def test_flags_that_show_stand_anywhere(train, typed):
    code, configs, errors, out = train(*typed)
    assert code == 0 and not errors and not configs
    assert "tau: 7\n" in out and "steps: 5\n" in out


def test_part_of_a_config_is_shown(train):
    code, _, _, out = train("optim=adam", "--package", "optim", "--cfg", "job", "optim.lr=0.5")
    assert code == 0 and "lr: 0.5" in out and "tau" not in out


def test_help_is_for_those_whose_words_are_not_right(train):
    for typed in (("tau=", "--help"), ("easgd", "-h"), ("--help", "optim=SGD")):
        code, _, errors, out = train(*typed)
        assert code == 0 and not errors and "== Groups" in out


def test_the_version_is_ours(train):
    assert train("tau=4", "--version")[3].startswith("coopsgd, version ")


# words -> what must be in the one line
REFUSED = {
    ("--config-dir",): ["--config-dir", "needs a value", "FOLDER"],
    ("tau=4", "--config-dir", "--cfg", "job"): ["--config-dir", "needs a value"],
    ("--config-dir", "nowhere"): ["--config-dir", "nowhere", "no folder"],
    ("--config-path", "nowhere"): ["--config-path", "nowhere", "no folder"],
    ("--config-dir", "a", "-cd", "b"): ["-cd", "twice", "'a'", "'b'"],
    ("--config-name", "nope"): ["--config-name", "nope.yaml"],
    ("--cfg",): ["--cfg", "job"],
    ("--cfg", "jop"): ["--cfg", "job, hydra, all", "jop"],
    ("--info", "nope"): ["--info", "defaults", "nope"],
    ("--resolve",): ["--resolve", "--cfg job"],
    ("--package", "optim"): ["--package", "--cfg job"],
    ("--run=3",): ["--run", "no value"],
    ("--mulitrun", "tau=1,2"): ["--mulitrun", "did you mean --multirun"],
    ("--experimental-rerun", "x.pickle"): ["--experimental-rerun"],
    ("--steps", "100"): ["write steps=100"],
    ("--steps=100",): ["write steps=100"],
    ("-tau", "4"): ["write tau=4"],
    ("--batch-size", "8"): ["write batch_size=8"],
    ("--lr", "0.1", "tau=4"): ["write outer.lr=0.1 or optim.lr=0.1"],
    ("--tau",): ["write tau=VALUE"],
    ("\u2013m", "tau=1,2"): ["\u2013m", "hyphen", "write -m"],
    ("\u2014steps=4",): ["hyphen", "write steps=4"],
    ("\u2014config-dir", "x"): ["hyphen", "write --config-dir"],
    ("lr=0.1",): ["'lr'", "did you mean outer.lr or optim.lr"],
    ("LR=0.1",): ["'LR'", "did you mean outer.lr or optim.lr"],
    ("learning_rate=0.1",): ["did you mean optim.lr"],
    ("Momentum=0.9",): ["did you mean algo.momentum or outer.momentum or optim.momentum"],
    ("hiden=[3]",): ["did you mean model.hidden"],
    ("Workers=3",): ["did you mean workers"],
    ("batchsize=3",): ["did you mean batch_size"],
    ("alpha=0.1",): ["algo.alpha", "partition.alpha"],
    ("optm.lr=3",): ["did you mean optim.lr"],
    ("Optim.lr=3",): ["did you mean optim.lr"],
    ("+wrokers=3",): ["wrokers", "did you mean workers"],
    ("~nope",): ["nope", "no key"],
    ("foo.bar=3",): ["foo.bar", "no key"],
    ("tau.x=3",): ["tau.x", "no keys below it"],
    ("lr rate=3",): ["lr rate", "no key"],
    ("aufgäbe=3",): ["aufgäbe", "no key"],
    ("optim=SGD",): ["optim", "SGD", "did you mean sgd"],
    ("algo=D-PSGD",): ["algo", "did you mean dpsgd"],
    ("algo.ALPHA=0.1",): ["algo.ALPHA", "did you mean alpha"],
    ("easgd",): ["easgd", "did you mean algo=easgd"],
    ("algo=${tau}",): ["algo: is chosen by one name", "${tau}"],
    ("train", "algo=easgd"): ["train: the verb stands there twice"],
    ("partition=deals:Blocks",): ["partition", "name: deals:Blocks", "--config-dir"],
    ("data=custom", "data.path=pets.py:Single"): ["data.path", "write pets:Single"],
    ("data=custom", "data.path=./sub/pets.py:Single"): ["data.path", "write pets:Single"],
    ("algo=easgd", "algo.alpha=3"): ["algo.alpha: must lie in", "got 3"],
    ("SGD",): ["did you mean optim=sgd"],
    ("custom",): ["data=custom", "model=custom"],
    ("gibberish",): ["gibberish", "KEY=VALUE"],
    ("tau",): ["tau", "tau=10"],
    ("optim.lr",): ["optim.lr", "has no value"],
    ("tau", "4"): ["write tau=4"],
    ("algo=easgd,", "tau=10"): ["algo", "spaces alone", "algo=easgd tau=10"],
    ("algo", "=", "easgd"): ["write algo=easgd"],
    ("tau", "=4"): ["write tau=4"],
    ("tau=", "4"): ["write tau=4"],
    ("tau:4",): ["write tau=4"],
    ("tau\uff1d4",): ["write tau=4"],
    ("tau==4",): ["write tau=4"],
    ("tau=",): ["tau", "no value"],
    ("algo=",): ["algo", "no value"],
    ("=5",): ["=5", "no key"],
    ("", "tau=4"): ["empty word"],
    ("   ",): ["empty word"],
    ("@file",): ["@file", "not read from files"],
    ("outputs/2026-01-01/00-00-00",): ["outputs/2026-01-01", "--config-path", "analyze --over"],
    ("mine.yaml", "./mine.yaml"): ["mine.yaml"],
    ("tau=null",): ["tau", "null", "auto"],
    ("workers=null",): ["workers", "null", "4"],
    ("tau=???",): ["tau", "???"],
    ("algo=null",): ["algo", "null", "algo=easgd"],
    ("workers=[1,2]",): ["workers", "[1, 2]", "whole number"],
    ("workers=2.5",): ["workers", "2.5", "whole number"],
    ("seed=0x10",): ["seed", "0x10", "whole number"],
    ("workers=4#",): ["workers", "4#", "whole number"],
    ("steps=1.5e0",): ["steps", "1.5", "whole number"],
    ("tau=1,2",): ["tau", "1,2", "-m", "tau=[1,2]"],
    ("algo=easgd,pasgd",): ["algo", "easgd,pasgd", "-m"],
    ("tau=range(3)",): ["tau", "range(3)", "-m"],
    ("tau=foo(3)",): ["tau", "foo(3)", "cannot be read"],
    ("tau=[1",): ["tau", "[1", "not closed"],
    ("model.hidden=[64,", "64]"): ["model.hidden", "a space ends a word", "'model.hidden=[64,64]'"],
    ("model.hidden=[64,,64]",): ["model.hidden", "[64,,64]", "cannot be read"],
    ("data.arguments={a:", "1}"): ["data.arguments", "'data.arguments={a: 1}'"],
    ('model.hidden="[3',): ["model.hidden", "not closed"],
    ("tau=1\uff0c4",): ["tau", "\uff0c", "write tau=1,4"],
    ("tau=${nope}",): ["tau", "nope"],
    ("optim.lr=${oc.env:NO_SUCH}",): ["optim.lr", "NO_SUCH"],
    ("tau=${",): ["tau", "${"],
    ("name=${nope}",): ["name", "nope"],
    ("algo={a:1}",): ["algo", "{a:1}", "algo=easgd"],
    ("algo=5",): ["algo", "5", "algo=easgd"],
    ("algo=[easgd,pasgd]",): ["algo", "one name"],
    ("name=a\udcff",): ["name", "UTF-8"],
    ("nope=" + "x" * 5000,): ["nope"],
    ("tau=" + "[" * 3000,): ["tau", "not closed"],
    ("tau=" + "[" * 3000 + "]" * 3000,): ["tau", "cannot be read"],
    ("-m", "tau=1,", "4,", "16"): ["tau", "a space ends a word", "tau=1,4,16"],
    ("-m", "tau=1,", "4"): ["tau=1,4"],
    ("-m", "tau=1\uff0c4"): ["write tau=1,4"],
    ("-m", "cluster=null,wan_100m"): ["cluster", "null"],
    ("-m", "algo=easdg,pasgd"): ["algo", "did you mean easgd", "no job of the sweep was started"],
    ("-m", "algo=EASGD,pasgd"): ["algo", "did you mean easgd"],
}


@pytest.mark.parametrize("typed", REFUSED, ids=lambda typed: " ".join(typed)[:40].encode("ascii", "backslashreplace").decode())
def test_one_line_names_the_key_and_the_way_out(train, tmp_path, typed):
    code, configs, errors, _ = train(*typed)
    line = "\n".join(errors)
    assert code == 2 and not configs
    assert len([error for error in errors if error.strip()]) == 1, errors
    assert not JARGON.search(line), line
    assert len(line) < 400, "an error is read at one glance"
    for part in REFUSED[typed]:
        assert part in line, (part, line)
    assert not list(tmp_path.iterdir()), "a refusal leaves nothing"


def test_the_choice_of_a_group_is_no_key():
    for group in ("algo", "period", "topology", "task", "model", "data", "partition", "optim", "schedule", "cluster"):
        there = catalogue.choices(group)[0].name
        for key in (f"{group}.name", f"++{group}.name"):
            with pytest.raises(ConfigError, match=rf"{group}\.name: .*write {group}={there}"):
                words.mended([f"{key}={there}"])
            with pytest.raises(ConfigError, match=rf"write {group}=NAME \(coopsgd list {group} says which\).*; got foo"):
                words.mended([f"{key}=foo"])
    assert words.mended(["data.name=nets:Large"])[0] == ["data.name=nets:Large"], "a class of one's own has no yaml to choose"


TEXTS = [
    "it's",
    "a#b",
    "a b",
    "é",
    "a(b",
    "(a)",
    "a{b",
    "[x]",
    "007",
    "true",
    "null",
    "1,2",
    "a:b=c",
    "=",
    "$HOME",
    'say "so"',
    "a\\",
    "1e3",
    "",
]


@pytest.mark.parametrize("text", TEXTS)
def test_text_is_taken_as_it_is(train, text):
    code, (config,), errors, _ = train(f"name={text}", "task=quadratic")
    assert code == 0 and not errors
    assert config.name == text.strip(" ")


@pytest.mark.parametrize("path", ["runs, old/a b#1.txt", "it's/(1)/é.txt", "[a]=1.txt", "x{y}.txt"])
def test_paths_need_no_quotes(train, tmp_path, path):
    file = tmp_path / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("what a text is, and so on. " * 4000)
    code, (config,), errors, _ = train("task=language", f"data.file={path}")
    assert code == 0 and not errors
    assert config.data["file"] == str(file)


def test_quotes_and_interpolations_are_hydras(train):
    _, (config,), _, _ = train("name='a b'", "tau=5", "steps=${tau}")
    assert (config.name, config.steps) == ("a b", 5)
    _, configs, _, _ = train("-m", "name=a,'b c'", "task=quadratic")
    assert [config.name for config in configs] == ["a", "b c"]


MEANT = {
    ("steps=1e3",): {"steps": 1000},
    ("steps=1000.0",): {"steps": 1000},
    ("steps=1_000",): {"steps": 1000},
    ("workers=1e1",): {"workers": 10},
    ("workers=2.0", "seed=1e2"): {"workers": 2, "seed": 100},
    ("batch_size=3.2e1", "log_every=1e1", "eval_every=5E1"): {"batch_size": 32, "log_every": 10, "eval_every": 50},
    ("tau=1e1", "eval_samples=1e1", "processes=2.0", "threads=1e0"): {
        "tau": 10,
        "eval_samples": 10,
        "processes": 2,
        "threads": 1,
    },
    ("tau=[[0,1],[1e2,8.0]]",): {"tau": [[0, 1], [100, 8]]},
    ("tau = 4",): {"tau": 4},
    ("+tau=4",): {"tau": 4},
    ("++tau=4",): {"tau": 4},
    ("cluster=null",): {"cluster": None},
    ("steps=null",): {"steps": 1000},
}


@pytest.mark.parametrize("typed", MEANT, ids=" ".join)
def test_what_can_only_be_meant_is_taken(train, typed):
    code, (config,), errors, _ = train(*typed)
    assert code == 0 and not errors
    for key, value in MEANT[typed].items():
        assert getattr(config, key) == value and type(getattr(config, key)) is type(value)


def test_whole_numbers_below_a_group():
    config = compose.compose_config(
        ["model.hidden=[1e1,20.0]", "algo=hierarchical", "algo.groups=2e0", "partition=shards"]
    ).config
    assert schema.COUNTS
    from coopsgd.setup.parts import Parts

    assert Parts(config).model.hidden == [10, 20]
    assert Parts(config).strategy.schedule.num_aux == 3
    with pytest.raises(ConfigError, match=r"model\.hidden"):
        compose.compose_config(["model.hidden=[10.5]"])
    assert compose.compose_config(["partition=shards", "partition.classes=5e0"])


def test_a_sweep_of_whole_numbers(train):
    _, configs, _, _ = train("-m", "steps=1e1,2e1", "task=quadratic", "seed=range(0,2e0)")
    assert [(config.steps, config.seed) for config in configs] == [(10, 0), (10, 1), (20, 0), (20, 1)]


def test_a_key_given_twice_is_told(train):
    code, (config,), errors, _ = train("tau=3", "task=quadratic", "tau=4")
    assert code == 0 and config.tau == 4 and errors == ["tau: given twice; the last one, tau=4, is used"]
    code, (config,), errors, _ = train("algo=easgd", "algo=pasgd", "task=quadratic")
    assert config.algo["name"] == "pasgd" and errors == ["algo: given twice; the last one, algo=pasgd, is used"]
    code, configs, errors, _ = train("-m", "tau=1,2", "tau=3", "task=quadratic")
    assert [config.tau for config in configs] == [3] and "tau: given twice" in errors[0]


def test_mending_twice_is_mending_once():
    typed = ["name=it's (a) #1", "steps=1e3", "+tau=4", "hydra.run.dir=a b", "model.hidden=[1,2]", "~period", "optim.lr=0.1"]
    once, _ = words.mended(typed)
    assert words.mended(once) == (once, [])
