"""Where a launcher has started N copies of the command, each would be the whole run: refused in one line."""

from __future__ import annotations

import pytest

COPIES = [
    ({"TORCHELASTIC_RUN_ID": "none"}, "TORCHELASTIC_RUN_ID=none"),
    ({"SLURM_STEP_NUM_TASKS": "4"}, "SLURM_STEP_NUM_TASKS=4"),
    ({"OMPI_COMM_WORLD_SIZE": "2"}, "OMPI_COMM_WORLD_SIZE=2"),
    ({"PMI_SIZE": "8"}, "PMI_SIZE=8"),
]
RUN = ("task=quadratic", "steps=3", "processes=1")


@pytest.mark.parametrize(("env", "named"), COPIES)
@pytest.mark.parametrize("verb", [("train",), ("train", "-m", "seed=0,1"), ("probe", "--steps", "2"), ("design",)])
def test_a_copy_is_refused(cli, tmp_path, env, named, verb):
    before = {path for path in tmp_path.iterdir() if not path.name.startswith(".cli")}
    ended = cli(verb[0], *RUN, *verb[1:], *(("cluster=ethernet_1g",) if verb == ("design",) else ()), env=env)
    (line,) = ended.lines
    assert ended.code == 2 and named in line and "launch=false" in line
    assert {path for path in tmp_path.iterdir() if not path.name.startswith(".cli")} == before


@pytest.mark.parametrize(
    "env",
    [
        {"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"},  # sbatch, and srun -n 1 in it
        {"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_JOB_ID": "1"},
        {"OMPI_COMM_WORLD_SIZE": "1", "PMI_SIZE": "one"},
        {"WORLD_SIZE": "4"},  # left behind in a shell
    ],
)
def test_what_only_looks_like_it_is_not(cli, env):
    assert cli("train", *RUN, env=env).code == 0


def test_freezing_for_them_and_looking_are_allowed(cli):
    for env, _ in COPIES[:2]:
        assert cli("train", *RUN, "launch=false", env=env).code == 0
        assert cli("show", *RUN, env=env).code == 0
