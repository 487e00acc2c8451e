"""The benchmark runs, writes what it promises and refuses what it cannot measure. Times are never asserted."""

import json
import math
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
OURS, BELIEF, ADAM = 'belief_optax.adabelief', 'optax.adabelief', 'optax.adam'


def run(*arguments):
  command = [sys.executable, '-m', 'benchmarks.step', *map(str, arguments)]
  return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def numbers(value):
  """All numbers in a report, with their paths."""
  if isinstance(value, dict):
    return [(f'{k}.{path}', n) for k, v in value.items() for path, n in numbers(v)]
  if isinstance(value, list):
    return [(f'{i}.{path}', n) for i, v in enumerate(value) for path, n in numbers(v)]
  return [('', value)] if isinstance(value, int | float) and not isinstance(value, bool) else []


@pytest.fixture(scope='module')
def quick(tmp_path_factory):
  out = tmp_path_factory.mktemp('benchmarks')
  done = run('--quick', '--out', out)
  assert done.returncode == 0, done.stderr
  (path,) = out.glob('step-*.json')
  return done.stdout, json.loads(path.read_text()), path.with_suffix('.md').read_text()


def test_report_names_machine_and_settings(quick):
  _, report, _ = quick
  assert {'date', 'machine', 'settings', 'sections', 'notes', 'goals'} <= set(report)
  assert {'platform', 'backend', 'device_kind', 'cpu', 'cores', 'versions'} <= set(report['machine'])
  assert {'python', 'belief_optax', 'jax', 'jaxlib', 'optax'} <= set(report['machine']['versions'])
  assert report['settings']['quick'] is True
  assert report['goals'] == []  # a smoke test judges nothing


@pytest.mark.parametrize(
  ('section', 'fields'),
  [
    ('step', {'ms', 'ratio', 'bytes_per_parameter', 'gb_per_s', 'fraction_of_pass', 'samples_ms'}),
    ('trace', {'ms', 'ratio', 'kernels'}),
    ('eager', {'ms', 'ratio'}),
    ('memory', {'temp_bytes', 'copies', 'kernels', 'state_bytes_per_parameter', 'compiled_bytes_per_parameter'}),
  ],
)
def test_sections_have_their_fields(quick, section, fields):
  rows = quick[1]['sections'][section]['rows']
  assert {OURS, BELIEF, ADAM} <= set(rows)
  for row in rows.values():
    assert fields <= set(row)


def test_numbers_are_finite_and_positive(quick):
  may_be_zero = ('temp_bytes', 'copies', 'other_processes_cores')
  found = numbers(quick[1]['sections'])
  assert len(found) > 100
  for path, n in found:
    assert math.isfinite(n), path
    assert n > 0 or (n == 0 and any(name in path for name in may_be_zero)), path


def test_what_does_not_depend_on_the_clock(quick):
  sections = quick[1]['sections']
  step = sections['step']['rows'][OURS]
  assert 28 <= step['bytes_per_parameter'] < 28.1  # p, g, m, s read; p, m, s written
  assert len(step['samples_ms']) == sections['step']['rounds'] == 3
  assert sections['step']['rows'][BELIEF]['ratio'][BELIEF] == {'median': 1, 'low': 1, 'high': 1}
  assert sections['memory']['rows'][OURS]['copies'] == 0
  for name, row in sections['memory']['rows'].items():
    assert row['state_bytes_per_parameter'] == pytest.approx(8, abs=0.1), name


def test_printed_tables_are_the_written_ones(quick):
  printed, report, written = quick
  assert printed.strip() == written.strip()
  for section in report['sections']:
    assert f'**{section}**' in written
  if 'torch' not in report['machine']['versions']:
    assert 'torch is not installed: not measured' in printed


@pytest.mark.parametrize(
  ('arguments', 'sentence'),
  [
    (('--size', 'many'), "argument --size: 'many' is no number"),
    (('--size', '2.5'), "argument --size: '2.5' is no positive integer"),
    (('--leaves', '0'), "argument --leaves: '0' is no positive integer"),
    (('--size', '3', '--leaves', '8'), 'argument --leaves: 3 parameters do not fill 8 arrays'),
    (('--repeats', '2'), 'argument --repeats: quartiles need at least 3 rounds, got 2'),
    (('--sections', 'step,stop'), "argument --sections: 'stop' is none of step, trace, eager, memory"),
    (('--out', __file__), 'argument --out: '),
  ],
)
def test_wrong_value_is_a_clear_error(arguments, sentence, monkeypatch, capsys):
  monkeypatch.syspath_prepend(ROOT)
  from benchmarks import step

  with pytest.raises(SystemExit) as stopped:
    step.main(['--quick', *arguments])
  assert stopped.value.code == 2
  assert sentence in capsys.readouterr().err


def test_wrong_value_ends_the_program_with_2():
  done = run('--bogus')
  assert done.returncode == 2
  assert 'unrecognized arguments: --bogus' in done.stderr
  assert 'Traceback' not in done.stderr
