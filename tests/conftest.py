"""Runs before any test module, and so before jax: eight CPU devices for tests of meshes, and the tiers of tests."""

import collections
import os
import pathlib
import sys
import zlib

import pytest

_COUNT = '--xla_force_host_platform_device_count'

if 'jax' in sys.modules:
  raise RuntimeError('jax was imported before tests/conftest.py, which sets the number of its CPU devices.')
if _COUNT not in os.environ.get('XLA_FLAGS', ''):
  os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {_COUNT}=8'.strip()
os.environ.setdefault('JAX_PLATFORMS', 'cpu')

# What these say of a row it takes a few rows to find out; the others are the full matrix.
BY_ROW = ('test_contracts', 'test_core', 'test_engine', 'test_execution', 'test_faults', 'test_step')
# Of these `make test` takes every n-th case: one more is another number, shape or preset of the same kind.
EVERY = {
  'test_average::test_it_is_the_average_of_the_parameters_after_each_step': 2,
  'test_average::test_parameters_of_16_bits_are_averaged_as_they_land': 4,
  'test_checkpoints::test_another_store': 3,
  'test_checkpoints::test_other_sizes': 2,
  'test_checkpoints::test_the_way_from_one_store_to_another': 2,
  'test_core::test_arithmetic_is_in_float32': 2,
  'test_core::test_count_stops_at_the_last_integer': 3,
  'test_core::test_numbers_may_be_arrays': 3,
  'test_core::test_numbers_on_the_edge_are_taken': 13,
  'test_core::test_pieces_stand_alone_in_a_chain': 3,
  'test_core::test_schedules_are_called_with_the_finished_steps': 3,
  'test_diagnostics::test_not_a_bit_of_the_training_changes': 3,
  'test_direction::test_meshes_of_any_size': 5,
  'test_direction::test_no_step_is_beyond_the_limit_whatever_the_codes_hold': 5,
  'test_direction::test_the_error_of_a_direction_is_that_of_its_element': 2,
  'test_direction::test_the_mean_of_a_constant_gradient_has_no_bias': 2,
  'test_direction::test_the_root_of_a_second_moment_has_no_bias_after_gradients_fell': 3,
  'test_docs::test_examples_run': 3,
  'test_engine::test_a_dead_optimizer_leaves_no_schedule_no_mask_and_no_parameters': 2,
  'test_engine::test_a_slot_that_another_line_writes_is_rounded_after_it': 4,
  'test_engine::test_every_store_takes_the_steps_of_float32': 5,
  'test_engine::test_the_rule_is_the_body_of_a_kernel': 5,
  'test_execution::test_dtypes_of_parameters': 4,
  'test_execution::test_parts_are_dithered_as_the_whole_array_is': 4,
  'test_execution::test_sharded_steps': 3,
  'test_faults::test_a_bad_element_among_good_ones_is_seen_in_every_store': 5,
  'test_faults::test_a_gradient_whose_square_is_flushed_is_no_long_step': 3,
  'test_faults::test_a_rate_outside_its_range_is_seen_when_it_arrives': 5,
  'test_faults::test_a_spike_is_no_long_step': 3,
  'test_faults::test_strict_promotion': 7,
  'test_faults::test_the_debiased_residual_of_one_gradient_is_that_gradient': 5,
  'test_guards::test_one_bad_worker_of_eight_stops_all': 2,
  'test_hlo::test_eager_update_of_many_leaves_compiles_one_program': 10,
  'test_interop::test_flax_names': 3,
  'test_interop::test_round_trips_through_a_file': 4,
  'test_interop::test_round_trips_through_numpy': 5,
  'test_interop::test_the_state_can_be_donated': 4,
  'test_interop::test_there_and_back_is_the_same': 3,
  'test_interop::test_warm_started_steps_on_noise_are_those_of_training_from_the_start': 2,
  'test_numerics::test_16_bits_are_computed_in_float32': 4,
  'test_numerics::test_a_rate_of_zero_keeps_nothing': 3,
  'test_numerics::test_complex_parameters': 3,
  'test_numerics::test_no_operation_ever_gives_nan': 3,
  'test_numerics::test_optax': 7,
  'test_numerics::test_rates_that_are_float32_arrays': 2,
  'test_numerics::test_schedules': 6,
  'test_numerics::test_the_derivative_through_ten_updates_is_finite': 9,
  'test_numerics::test_what_would_never_move_is_refused': 2,
  'test_pieces::test_a_complex_problem_is_two_real_ones': 3,
  'test_pieces::test_sharded_arrays_give_the_same': 4,
  'test_presets::test_a_learning_rate_may_be_a_schedule_or_injected': 9,
  'test_presets::test_kinds_of_weight_decay': 3,
  'test_recipes::test_norms_of_extreme_arrays': 4,
  'test_rounding::test_half_precision_is_never_nan': 3,
  'test_rounding::test_plain_training_loops_land_on_it': 3,
  'test_rounding::test_split_is_float32_training_bit_for_bit': 2,
  'test_rounding::test_step_is_in_place_and_local': 2,
  'test_rows::test_codes_of_untouched_rows_stay_bit_for_bit': 4,
  'test_sharding::test_fsdp': 9,
  'test_sharding::test_state_in_host_memory_takes_the_same_steps': 3,
  'test_sharding::test_state_is_made_in_host_memory': 3,
  'test_sharding::test_zero1_in_shard_map': 7,
  'test_sharding::test_zero1_under_jit': 7,
  'test_state_surgery::test_a_result_has_buffers_of_its_own': 4,
  'test_step::test_a_recipe_inside_of_a_wrapper_is_one_pass_in_place': 2,
  'test_step::test_a_step_inside_of_a_wrapper_has_the_same_numbers': 3,
  'test_step::test_a_step_is_an_update_that_is_applied': 3,
  'test_stores::test_sharded_update_is_local_and_has_the_same_bits': 3,
}
# Files that take longest go first, so that no worker is left alone with one of them.
LONGEST = (
  'test_numerics', 'test_core', 'test_docs', 'test_contracts', 'test_interop', 'test_diagnostics', 'test_presets',
  'test_hlo', 'test_recorded', 'test_guards', 'test_execution', 'test_stores', 'test_step', 'test_faults',
)  # fmt: skip


def pytest_configure() -> None:
  """Keeps what XLA has compiled: the next run of the same tests takes a third of the time.

  Each worker has a folder of its own, as entries are not written in one piece. What the tests start as processes of
  their own keeps nothing, as some of these are killed.
  """
  import jax

  worker = os.environ.get('PYTEST_XDIST_WORKER', 'alone')
  jax.config.update('jax_compilation_cache_dir', str(pathlib.Path(__file__).parents[1] / 'out' / 'jax_cache' / worker))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
  jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
  """Marks what `make test` leaves to the full matrix, and keeps a third of everything where TEST_THIRD says which."""
  seen = collections.Counter[str]()
  for item in items:
    row = getattr(item, 'callspec', None) and item.callspec.params.get('row')  # pyright: ignore[reportAttributeAccessIssue]
    file = item.path.stem
    if row and file in BY_ROW and not row.covering:
      item.add_marker(pytest.mark.full)
    if item.get_closest_marker('full'):
      continue
    test = f'{file}::{getattr(item, "originalname", item.name)}'
    if seen[test] % EVERY.get(test, 1):
      item.add_marker(pytest.mark.full)
    seen[test] += 1
  place = {name: i for i, name in enumerate(LONGEST)}
  items.sort(key=lambda item: place.get(item.path.stem, len(place)))
  if turn := os.environ.get('TEST_THIRD'):
    mine = [item for item in items if zlib.crc32(item.nodeid.encode()) % 3 == int(turn) % 3]
    config.hook.pytest_deselected(items=[item for item in items if item not in set(mine)])
    items[:] = mine
