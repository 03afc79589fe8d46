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
    "commands/test_design.py::test_every_candidate_is_another_algorithm_that_agrees": 2,
    "commands/test_list.py::test_what_is_not_there_is_refused_with_what_may_be_meant": 3,
    "commands/test_sweeps.py::test_a_bad_objective_is_refused_in_one_line": 3,
    "commands/test_sweeps.py::test_every_launcher_tells_of_what_failed": 3,
    "commands/test_time.py::test_bad_words": 3,
    "commands/test_time.py::test_it_is_what_training_with_the_cluster_logs": 3,
    "commands/test_verify.py::test_a_line_that_differs": 3,
    "commands/test_verify.py::test_a_network": 2,
    "compare/test_page.py::test_curves_are_chosen_and_the_table_is_sorted": 2,
    "cooperation/test_equal.py::test_every_algorithm": 4,
    "cooperation/test_equal.py::test_other_axes": 3,
    "cooperation/test_equal.py::test_running_statistics": 3,
    "cooperation/test_faults.py::test_a_process_that_ends_sooner_is_named_by_the_others": 3,
    "cooperation/test_state.py::test_it_goes_on_to_the_bit": 6,
    "cooperation/test_state.py::test_processes_go_on_and_so_does_one_process_with_the_models_of_all": 3,
    "cooperation/test_step_of_a_framework.py::test_it_is_the_same_step": 3,
    "data/test_data_cache.py::test_a_data_set_that_is_none": 3,
    "data/test_partitions.py::test_a_partition_is_the_same_wherever_rows_are": 2,
    "data/test_small_shares.py::test_it_is_the_same_wherever_rows_are": 2,
    "data/test_splits.py::test_a_file_that_is_no_split_for_the_run_is_refused_in_a_line": 3,
    "fleet/test_local.py::test_equal_to_the_product": 3,
    "fleet/test_lowering.py::test_every_topology_wherever_its_rows_are": 3,
    "fleet/test_lowering.py::test_plans_run_as_they_are_drawn": 3,
    "fleet/test_lowering.py::test_two_hundred_random_matrices": 3,
    "fleet/test_plan.py::test_a_plan_is_its_matrix_and_never_dear": 4,
    "fleet/test_shared.py::test_every_kind_of_algorithm_goes_the_same_way": 3,
    "fleet/test_shared.py::test_every_verb_is_that_of_one_process": 3,
    "host/test_child.py::test_it_dies_with_the_command": 2,
    "host/test_sizes.py::test_a_size_is_refused_by_arithmetic": 3,
    "host/test_sizes.py::test_a_yaml_that_stands_for_too_much_or_for_nothing": 3,
    "loop/test_consensus.py::test_consensus_is_that_of_the_rows_before_the_latest_mixing": 3,
    "loop/test_consensus.py::test_with_a_delay_it_is_of_the_rows_when_they_were_sent": COVER,
    "loop/test_devices.py::test_nothing_lies_elsewhere_and_nobody_waits": COVER,
    "loop/test_norm_stats.py::test_a_run_keeps_them_and_its_model_has_them": 2,
    "loop/test_norm_stats.py::test_averaged_statistics_are_W_times_the_rows_at_every_mixing": 4,
    "loop/test_norm_stats.py::test_only_average_is_charged_and_in_the_same_messages": 2,
    "loop/test_norm_stats.py::test_statistics_do_not_depend_on_placement": 4,
    "loop/test_optim.py::test_bf16_computes_in_halves_and_keeps_whole_numbers": 2,
    "loop/test_stepping.py::test_threads_wait_asleep_unless_the_user_says_otherwise": 2,
    "loop/test_train.py::test_averaging_every_step_is_one_large_batch": 2,
    "loop/test_train.py::test_mean_recursion": 2,
    "loop/test_train.py::test_the_same_config_gives_the_same_trajectory_wherever_its_rows_are": 4,
    "mixing/test_negative_weights.py::test_a_weight_of_zero_is_zero": 3,
    "mixing/test_negative_weights.py::test_matcha_knows_its_worst_case": 3,
    "mixing/test_thousands.py::test_matcha_of_many_is_what_matcha_of_few_is": 2,
    "mixing/test_thousands.py::test_no_mixing_of_the_registry_makes_anything_of_the_square": 3,
    "mixing/test_thousands.py::test_nor_does_what_is_sent_between_two_processes": 3,
    "predict/test_clock.py::test_a_cluster_that_cannot_be_is_one_line": 3,
    "predict/test_clock.py::test_a_rehearsal_is_what_a_run_logs_wherever_its_rows_are": 9,
    "predict/test_clock.py::test_a_round_takes_as_long_as_its_straggler": 6,
    "predict/test_clock.py::test_a_step_takes_its_mean": 3,
    "predict/test_conditions.py::test_nothing_that_follows_from_the_bound_is_told_where_it_does_not_hold": COVER,
    "predict/test_conditions.py::test_the_largest_step_is_one_that_the_proof_carries": 3,
    "predict/test_conditions.py::test_the_windows_of_a_cycle": 3,
    "predict/test_cycles.py::test_a_schedule_that_repeats_is_priced_by_its_product": 3,
    "predict/test_cycles.py::test_it_is_what_rounds_take_in_the_long_run": 2,
    "predict/test_drift.py::test_lemmas_and_theorem": 3,
    "predict/test_drift.py::test_runs_stay_below_the_bound_that_they_log_and_analyze_prints": 5,
    "predict/test_drift.py::test_there_is_no_number_where_an_assumption_fails_and_it_is_named": 2,
    "predict/test_expectations.py::test_an_expectation_does_not_know_the_seed": 2,
    "predict/test_foresight.py::test_it_is_said_before_the_start": 3,
    "predict/test_foresight.py::test_nothing_is_said_of_what_comes": 3,
    "predict/test_theory.py::test_runs_stay_below_the_bound_that_they_log": 2,
    "predict/test_theory.py::test_runs_without_curvature_end_at_the_exact_consensus": 3,
    "predict/test_theory.py::test_stationary_consensus_is_where_the_recursion_ends": 6,
    "run/test_again.py::test_another_run_in_the_folder_is_not_taken_for_this_one": 2,
    "run/test_at_once.py::test_ten_runs": 2,
    "run/test_checkpoints.py::test_sigusr1_saves_the_run_and_lets_it_go_on": 2,
    "run/test_checkpoints.py::test_the_first_signal_saves_the_run": 3,
    "run/test_checkpoints.py::test_what_is_no_interval": 3,
    "run/test_console.py::test_a_refusal_is_a_refusal_without_a_console": 3,
    "run/test_console.py::test_a_sweep_goes_on_without_a_console_and_its_code_is_its_own": 2,
    "run/test_console.py::test_training_goes_on_without_a_console": 2,
    "run/test_copies.py::test_a_copy_is_refused": 3,
    "run/test_copies.py::test_what_only_looks_like_it_is_not": 2,
    "run/test_dashboard.py::test_pictures_stay_small_whatever_the_number_of_workers": 3,
    "run/test_dashboard.py::test_sixty_runs_are_sixty_rows_with_their_status_and_final_numbers": 2,
    "run/test_disk_full.py::test_a_full_disk_costs_a_checkpoint": 2,
    "run/test_disk_full.py::test_a_run_goes_on_while_the_disk_is_full": 2,
    "run/test_ending.py::test_a_signal_ends_it_in_five_seconds": 2,
    "run/test_ending.py::test_one_that_fails_ends_the_run_at_once": 2,
    "run/test_final.py::test_the_file_is_a_state_dict_to_anybody": 2,
    "run/test_first_signal.py::test_the_line_that_resumes": 2,
    "run/test_foreign_folder.py::test_a_part_that_a_stranger_names_is_imported_for_trust_alone": 3,
    "run/test_foreign_folder.py::test_files_outside_the_folder_are_not_read": 3,
    "run/test_foreign_folder.py::test_not_even_your_own_word_makes_a_model_of_python_itself": 3,
    "run/test_foreign_folder.py::test_what_hydra_would_act_on_is_refused": 3,
    "run/test_formats.py::test_a_run_without_a_format_is_repeated_from_its_folder": 4,
    "run/test_last_step.py::test_it_is_verified": 2,
    "run/test_last_step.py::test_killed_after_its_last_step_and_made_longer": 7,
    "run/test_no_room.py::test_a_disk_that_takes_nothing_more_while_training": 2,
    "run/test_no_room.py::test_every_write_that_is_refused": 2,
    "run/test_nothing_left.py::test_a_command_that_ends_before_it_starts": 3,
    "run/test_nothing_left.py::test_a_look": 2,
    "run/test_nothing_left.py::test_a_refusal": 3,
    "run/test_nothing_left.py::test_other_verbs": 3,
    "run/test_restarts.py::test_a_worker_that_fails": 2,
    "run/test_resume.py::test_a_damaged_checkpoint_falls_back_to_the_one_before": 2,
    "run/test_resume.py::test_every_axis": 2,
    "run/test_resume.py::test_on_another_number_of_processes": 3,
    "run/test_resume_of_stops.py::test_shares_that_fill_no_batch": 2,
    "run/test_resume_of_stops.py::test_what_ends_a_run": 2,
    "run/test_signals.py::test_a_signal_during_the_final_save_lets_it_be_finished": 3,
    "run/test_signals.py::test_a_signal_to_a_worker_is_one_line": 3,
    "run/test_signals.py::test_every_signal_that_ends_leaves_a_summary": 3,
    "run/test_signals.py::test_many_interrupts_in_a_row_leave_a_summary": 2,
    "run/test_signals.py::test_what_is_ignored_at_the_start_stays_ignored": 2,
    "run/test_watch.py::test_a_signal_ends_a_run_with_a_stopped_worker_at_once": 2,
    "run/test_watch.py::test_a_suspended_command_can_go_on_however_long_it_was_suspended": 2,
    "setup/test_bad_input.py::test_one_line_and_exit_2": 3,
    "setup/test_bad_input.py::test_the_other_verbs_end_alike": 2,
    "setup/test_bad_input.py::test_what_every_verb_asks": 3,
    "setup/test_files.py::test_a_file_that_holds_no_w_is_refused_in_a_line": 2,
    "setup/test_files.py::test_w_is_read_from_every_format": 2,
    "setup/test_identity.py::test_a_key_makes_another_run_or_the_same_one_elsewhere": 4,
    "setup/test_identity.py::test_what_means_the_same_is_the_same": 4,
    "setup/test_lengths.py::test_a_run_of_so_many_rounds_has_as_many_communications": 2,
    "setup/test_lengths.py::test_looked_at_after_each_second_round": 2,
    "setup/test_lengths.py::test_refused_in_one_line": 3,
    "setup/test_loading.py::test_every_yaml_is_what_hydra_composes": 12,
    "setup/test_loading.py::test_it_is_what_hydra_composes": 2,
    "setup/test_odd_values.py::test_one_line_that_names_the_key": 3,
    "setup/test_odd_values.py::test_own_code_that_breaks_is_named_with_its_file_and_line": 3,
    "setup/test_option_words.py::test_the_words_of_the_runs_own_keys": 3,
    "setup/test_option_words.py::test_values_are_completed": 3,
    "setup/test_papers.py::test_a_config_cites_what_it_uses_and_nothing_else": 3,
    "setup/test_subclasses.py::test_a_graph_of_ones_own_from_a_built_in_one_runs": 3,
    "setup/test_user_code.py::test_before_a_run": 3,
    "setup/test_words.py::test_flags_of_a_sweep_stand_anywhere": 2,
    "setup/test_words.py::test_flags_stand_anywhere": 3,
    "setup/test_words.py::test_one_line_names_the_key_and_the_way_out": 3,
    "setup/test_words.py::test_text_is_taken_as_it_is": 3,
    "setup/test_words.py::test_what_can_only_be_meant_is_taken": 3,
    "strategies/test_correction.py::test_is_what_slow_loops_make_of_it": COVER,
    "strategies/test_axes.py::test_a_combination_goes_the_same_way_and_others_are_refused": 4,
    "strategies/test_merge.py::test_is_what_slow_loops_make_of_it": 3,
    "strategies/test_outer.py::test_is_what_slow_loops_make_of_it": 6,
    "strategies/test_outer.py::test_keeps_every_promise_of_the_contract": 2,
    "strategies/test_correction.py::test_lazy_mixes_with_half_of_W": 3,
    "strategies/test_correction.py::test_scaffold_with_sampled_clients": 3,
    "strategies/test_battery.py::test_an_algorithm_written_as_the_readme_tells_keeps_them_too": 3,
    "strategies/test_battery.py::test_every_algorithm_keeps_its_promises": 3,
    "strategies/test_battery.py::test_who_breaks_a_promise_is_named": 2,
    "strategies/test_members.py::test_clients_not_drawn_compute_nothing_and_keep_what_they_had": 2,
    "strategies/test_members.py::test_mean_square_contraction_of_random_schedules_is_what_a_sample_shows": 4,
    "strategies/test_members.py::test_the_mean_over_all_models_follows_the_mean_gradient": COVER,
    "strategies/test_members.py::test_when_a_communication_acts_and_on_what": COVER,
    "strategies/test_period.py::test_adacomm_by_the_clock_is_the_same_wherever_rows_are": 2,
    "strategies/test_weights_by.py::test_every_mean_is_by_samples": COVER,
    "strategies/test_period.py::test_every_period_with_every_algorithm_wherever_rows_are": 8,
    "tasks/test_engines.py::test_fifty_steps_are_the_same_whichever_engine_takes_them": 2,
    "tasks/test_language.py::test_bad_text_is_one_line": 3,
    "tasks/test_models.py::test_every_network_learns": 3,
    "tasks/test_models.py::test_networks_of_others_are_placed_like_ours": 3,
    "tasks/test_models.py::test_refused_in_one_line": 3,
    "tasks/test_regression.py::test_refused_in_one_line": 3,
    "tasks/test_regression.py::test_steps_are_those_of_torch_in_every_engine_wherever_rows_are": 2,
    "test_combinations.py::test_a_row_is_what_the_code_says": 6,
    "test_errors_page.py::test_the_words_are_refused_so": 3,
    "test_experiments.py::test_every_word_of_the_page_is_one": 3,
    "test_experiments.py::test_it_trains": 3,
    "test_from_python.py::test_words_that_cannot_work_raise_and_leave_nothing": 3,
    "test_invariants.py::test_a_law_is_kept_by_random_configs": 2,
    "test_oracle.py::test_any_matrix": COVER,
    "test_oracle.py::test_every_topology_is_its_matrix": 3,
    "test_oracle.py::test_matches_the_paper": 4,
    "test_ownership.py::test_nothing_outlives_a_test_that_fails_nor_a_pytest_that_is_killed": 3,
    "test_package.py::test_every_yaml_composes_builds_and_takes_two_steps": 6,
    "test_peers.py::test_a_public_implementation_ends_with_the_same_models": 3,
    "test_studies.py::test_every_way_of_a_study_is_one_that_coopsgd_takes": 5,
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
