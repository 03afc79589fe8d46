"""Products of cases of which `make test` runs a part and `make test-all` all: too many for 12 minutes, too good to drop.

A test that is not here runs all its cases. Which part it is depends on the names of the cases alone.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import pytest

COVER = 0  # as many as it takes to have every value of every parameter once
CASES = {  # test, below tests/ -> COVER, or n for every n-th case
    "commands/test_analyze.py::test_the_worker_that_sends_most": 3,
    "commands/test_design.py::test_bad_input": 3,
    "commands/test_sweeps.py::test_every_launcher_tells_of_what_failed": 3,
    "commands/test_time.py::test_bad_words": 3,
    "commands/test_time.py::test_it_is_what_training_with_the_cluster_logs": 3,
    "cooperation/test_equal.py::test_every_algorithm": 2,
    "cooperation/test_state.py::test_it_goes_on_to_the_bit": COVER,
    "fleet/test_local.py::test_equal_to_the_product": COVER,
    "fleet/test_lowering.py::test_every_topology_wherever_its_rows_are": COVER,
    "fleet/test_lowering.py::test_plans_run_as_they_are_drawn": 2,
    "fleet/test_lowering.py::test_two_hundred_random_matrices": 2,
    "fleet/test_plan.py::test_a_plan_is_its_matrix_and_never_dear": 2,
    "fleet/test_shared.py::test_every_kind_of_algorithm_goes_the_same_way": 2,
    "fleet/test_shared.py::test_every_verb_is_that_of_one_process": COVER,
    "loop/test_consensus.py::test_consensus_is_that_of_the_rows_before_the_latest_mixing": 3,
    "loop/test_consensus.py::test_with_a_delay_it_is_of_the_rows_when_they_were_sent": COVER,
    "loop/test_devices.py::test_nothing_lies_elsewhere_and_nobody_waits": COVER,
    "loop/test_norm_stats.py::test_averaged_statistics_are_W_times_the_rows_at_every_mixing": COVER,
    "loop/test_norm_stats.py::test_statistics_do_not_depend_on_placement": COVER,
    "loop/test_stepping.py::test_memory_of_many_workers": 3,
    "loop/test_train.py::test_averaging_every_step_is_one_large_batch": 2,
    "loop/test_train.py::test_the_same_config_gives_the_same_trajectory_wherever_its_rows_are": 2,
    "mixing/test_thousands.py::test_no_mixing_of_the_registry_makes_anything_of_the_square": 2,
    "predict/test_clock.py::test_a_cluster_that_cannot_be_is_one_line": 3,
    "predict/test_clock.py::test_a_rehearsal_is_what_a_run_logs_wherever_its_rows_are": 3,
    "predict/test_clock.py::test_a_round_takes_as_long_as_its_straggler": 2,
    "predict/test_conditions.py::test_nothing_that_follows_from_the_bound_is_told_where_it_does_not_hold": COVER,
    "predict/test_drift.py::test_runs_stay_below_the_bound_that_they_log_and_analyze_prints": 3,
    "predict/test_expectations.py::test_an_expectation_does_not_know_the_seed": 2,
    "predict/test_theory.py::test_stationary_consensus_is_where_the_recursion_ends": 3,
    "run/test_console.py::test_a_sweep_goes_on_without_a_console_and_its_code_is_its_own": 2,
    "run/test_console.py::test_training_goes_on_without_a_console": 2,
    "run/test_dashboard.py::test_sixty_runs_are_sixty_rows_with_their_status_and_final_numbers": 2,
    "run/test_disk_full.py::test_a_run_goes_on_while_the_disk_is_full": 2,
    "run/test_ending.py::test_a_signal_ends_it_in_five_seconds": 2,
    "run/test_first_signal.py::test_the_line_that_resumes": 2,
    "run/test_formats.py::test_a_run_without_a_format_is_repeated_from_its_folder": 3,
    "run/test_last_step.py::test_killed_after_its_last_step_and_made_longer": COVER,
    "run/test_no_room.py::test_every_write_that_is_refused": 2,
    "run/test_nothing_left.py::test_a_refusal": 3,
    "run/test_restarts.py::test_a_worker_that_fails": 2,
    "run/test_resume.py::test_on_another_number_of_processes": COVER,
    "run/test_signals.py::test_a_signal_to_a_worker_is_one_line": 3,
    "setup/test_bad_input.py::test_one_line_and_exit_2": 3,
    "setup/test_identity.py::test_a_key_makes_another_run_or_the_same_one_elsewhere": 2,
    "setup/test_identity.py::test_what_means_the_same_is_the_same": 2,
    "setup/test_subclasses.py::test_a_graph_of_ones_own_from_a_built_in_one_runs": 2,
    "setup/test_words.py::test_one_line_names_the_key_and_the_way_out": 3,
    "strategies/test_battery.py::test_every_algorithm_keeps_its_promises": 2,
    "strategies/test_members.py::test_mean_square_contraction_of_random_schedules_is_what_a_sample_shows": 2,
    "strategies/test_members.py::test_the_mean_over_all_models_follows_the_mean_gradient": COVER,
    "strategies/test_members.py::test_when_a_communication_acts_and_on_what": COVER,
    "strategies/test_period.py::test_every_period_with_every_algorithm_wherever_rows_are": COVER,
    "test_oracle.py::test_any_matrix": COVER,
    "test_oracle.py::test_every_topology_is_its_matrix": COVER,
    "test_oracle.py::test_matches_the_paper": 2,
    "test_ownership.py::test_nothing_outlives_a_test_that_fails_nor_a_pytest_that_is_killed": 3,
    "test_package.py::test_every_yaml_composes_builds_and_takes_two_steps": 3,
    "test_peers.py::test_a_public_implementation_ends_with_the_same_models": COVER,
    "test_trajectories.py::test_a_run_is_what_it_was": 3,
}


def name_of(item: Any) -> str:
    """As CASES calls a test."""
    path, _, test = item.nodeid.partition("::")
    return f"{path.removeprefix('tests/')}::{test.partition('[')[0]}"


def mark(items: Sequence[Any]) -> None:
    """Mark as slow what is not drawn."""
    cases = defaultdict(list)
    for item in items:
        if (name := name_of(item)) in CASES and item.get_closest_marker("slow") is None:
            cases[name].append(item)
    for name, some in cases.items():
        some.sort(key=lambda item: zlib.crc32(item.nodeid.encode()))
        drawn = _cover(some) if CASES[name] == COVER else some[: -(-len(some) // CASES[name])]
        for item in some:
            if item not in drawn:
                item.add_marker(pytest.mark.slow)


def _cover(items: Sequence[Any]) -> list[Any]:
    """Each that has a value which no earlier one has."""
    seen: set[tuple[str, str]] = set()
    found = []
    for item in items:
        values = {(name, repr(value)) for name, value in item.callspec.params.items()}
        if not values <= seen:
            found.append(item)
            seen |= values
    return found
