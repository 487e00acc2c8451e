"""The benchmark of scaling: paper, shapes and programs agree, and the page says what the figures say."""

import itertools
import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

import belief_optax as bo

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture
def scaling(monkeypatch):
  monkeypatch.syspath_prepend(ROOT)
  from benchmarks import scaling

  yield scaling
  jax.config.update('jax_disable_most_optimizations', False)


@pytest.fixture(scope='module')
def quick(tmp_path_factory):
  out = tmp_path_factory.mktemp('scaling')
  command = [sys.executable, '-m', 'benchmarks.scaling', '--quick', '--out', str(out)]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
  return out, json.loads((out / 'scaling.json').read_text())


@pytest.fixture
def rows(quick, scaling):
  return {(row.layout, row.store): row.of for row in scaling.rows_of(quick[1])}


# The compiled programs of a tiny tree.


@pytest.mark.full
def test_every_layout_is_compiled(rows, scaling):
  assert set(rows) == set(itertools.product(scaling.LAYOUTS, ('float32', 'packed16')))
  assert not any('refused' in row for row in rows.values())


@pytest.mark.full
def test_programs_take_the_bytes_of_the_shards(rows, scaling):
  shapes = scaling.TINY['tiny'].shapes()
  for (layout, store), row in rows.items():
    assert row['arguments'] == row['params'] + row['grads'] + row['state']
    whole = bo.state_bytes(jax.eval_shape(bo.adabelief(1e-3, store=store).init, shapes))
    assert (row['state'] == whole) == (layout == 'plain')
    assert row['state'] == pytest.approx(row['paper']['state'] + sum(row['excess'].values()), rel=1e-12)


@pytest.mark.full
def test_what_is_on_the_wire(rows):
  for (layout, _), row in rows.items():
    arrays = {kind: of['arrays'] for kind, of in row['collectives'].items()}
    norms = 4 * (2 * 8 + 1) * 128  # bytes that are reduced and not gathered
    assert row['wire'] == row['paper']['wire'] - (norms * 7 / 8 if layout == 'zero1-jit' else 0)
    assert arrays == {
      'plain': {'all-reduce': 12},
      'zero1-jit': {'all-reduce': 12, 'all-gather': 9},
      'zero1-shard_map': {'reduce-scatter': 9, 'all-gather': 9, 'all-reduce': 3},
    }.get(layout, {})
    assert row['split_params'] == 9 * (layout != 'plain')


@pytest.mark.full
def test_the_page_comes_from_the_figures(quick, scaling):
  out, report = quick
  text = (out / 'scaling.md').read_text()
  assert text == scaling.markdown(report)
  assert '**--quick: a smoke test.**' in text
  assert (out / 'scaling_state.png').stat().st_size > 10_000


# Paper.


def test_paper_is_exact_where_all_is_coded_and_split(scaling):
  shapes = {'a': (64, 64, 128), 'b': (512, 256)}
  shapes = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
  for layout, store in itertools.product(scaling.LAYOUTS, scaling.STORES):
    c = scaling.case(shapes, 8, layout, store, 0)
    state = sum(map(scaling.on_device, jax.tree.leaves(c.state)))
    assert state == scaling.on_paper(64 * 64 * 128 + 512 * 256, 8, layout, store)['state'], (layout, store)
    assert set(scaling.excess(c, 8, layout, store).values()) == {0}


@pytest.mark.parametrize(('tree', 'parameters'), [('1B', 1.24e9), ('8B', 8.03e9), ('70B', 70.6e9)])
def test_parameters_are_as_many_as_those_of_the_public_models(scaling, tree, parameters):
  assert scaling.count(scaling.TREES[tree].shapes()) == pytest.approx(parameters, rel=0.01)


def test_how_fsdp_splits(scaling):
  split = lambda *shape: tuple(scaling.split(shape, 8, 64))
  assert split(8, 16, 32) == (None, None, 'data')
  assert split(7, 16, 16) == (None, 'data')
  assert split(9, 9) == ()
  assert split(7, 8) == ()


def test_codes_are_updated_without_collectives(scaling):
  row = scaling.measured({'w': jax.ShapeDtypeStruct((64, 64, 128), jnp.float32)}, 8, 'fsdp', 'int8', 0)
  assert row['collectives'] == {}
  assert row['arguments'] == row['params'] + row['grads'] + row['state']
  assert row['state'] == row['paper']['state']


# The instruments.


def test_collectives_are_read(scaling):
  program = """
    %a = (f32[2,8]{1,0}, /*index=1*/u16[3]{0}) all-reduce(%x, %y), channel_id=1
    ROOT %b = f32[16]{0} all-gather(f32[2]{0} %z), dimensions={0}
    %c = f32[2]{0} reduce-scatter(%w), dimensions={0}
    %d = pred[] fusion(%b), calls=%all-reduce-like
  """
  assert scaling.collectives(program, 8) == {
    'all-reduce': {'ops': 1, 'arrays': 2, 'bytes': 70, 'wire': 70 * 7 / 4},
    'all-gather': {'ops': 1, 'arrays': 1, 'bytes': 64, 'wire': 64 * 7 / 8},
    'reduce-scatter': {'ops': 1, 'arrays': 1, 'bytes': 8, 'wire': 64 * 7 / 8},
  }
  assert scaling.sizes('(pred[], bf16[3]{0}, u8[2,2]{1,0}, f8e4m3fn[5])') == [1, 6, 4, 5]
  with pytest.raises(ValueError, match='all-gather-start'):
    scaling.collectives('%a = (f32[2], f32[16]) all-gather-start(%x)', 8)


@pytest.mark.parametrize(
  ('arguments', 'sentence'),
  [
    (('--trees', '9B'), "argument --trees: invalid choice: '9B'"),
    (('--stores', 'int2'), "argument --stores: invalid choice: 'int2'"),
    (('--layouts', 'zero2'), "argument --layouts: invalid choice: 'zero2'"),
    (('--devices', '16'), 'argument --devices: invalid choice: 16'),
  ],
)
def test_wrong_value_is_an_error_that_names_the_choices(scaling, capsys, arguments, sentence):
  with pytest.raises(SystemExit) as stopped:
    scaling.main([*arguments])
  assert stopped.value.code == 2
  said = capsys.readouterr().err
  assert sentence in said
  choices = {'trees': scaling.TREES, 'stores': scaling.STORES, 'layouts': scaling.LAYOUTS, 'devices': scaling.DEVICES}
  assert all(str(choice) in said.split(sentence)[1] for choice in choices[arguments[0][2:]])


@pytest.mark.full
def test_some_figures_are_made_anew_and_the_others_kept(scaling, rows, monkeypatch, tmp_path):
  times = itertools.count()
  monkeypatch.setattr(scaling, 'measured', lambda *_: rows['fsdp', 'packed16'] | {'seconds': next(times)})
  only = ['--out', str(tmp_path), '--trees', '1B', '--devices', '8', '--layouts', 'fsdp', '--stores']
  scaling.main([*only, 'int8', 'bfloat16'])
  scaling.main([*only, 'int8'])
  found = json.loads((tmp_path / 'scaling.json').read_text())['1B']['rows']
  assert {key: row['seconds'] for key, row in found.items()} == {'8/fsdp/int8': 2, '8/fsdp/bfloat16': 1}


# The page in the repository.


@pytest.fixture
def kept():
  return json.loads((ROOT / 'benchmarks' / 'results' / 'scaling.json').read_text())


def test_the_page_is_that_of_the_kept_figures(scaling, kept):
  assert (ROOT / 'docs' / 'scaling.md').read_text() == scaling.markdown(kept)
  assert (ROOT / 'docs' / 'scaling_state.png').stat().st_size < 150_000
  grid = itertools.product(scaling.TREES, scaling.DEVICES, scaling.LAYOUTS, scaling.STORES)
  assert [row[:4] for row in scaling.rows_of(kept)] == list(grid)


@pytest.mark.parametrize('tree', ['1B', '8B', '70B'])
def test_the_kept_figures_are_those_of_this_package(scaling, kept, tree):
  """As far as it needs no more than 8 devices and no compiler."""
  model = scaling.TREES[tree]
  shapes = model.shapes()
  layouts = scaling.LAYOUTS if tree == '8B' else ('fsdp',)
  for layout, store in itertools.product(layouts, scaling.STORES):
    row = kept[tree]['rows'][f'8/{layout}/{store}']
    c = scaling.case(shapes, 8, layout, store, model.min_size)
    assert row['state'] == sum(map(scaling.on_device, jax.tree.leaves(c.state))), (layout, store)
    assert row['paper'] == scaling.on_paper(scaling.count(shapes), 8, layout, store)
