"""The benchmark runs, writes what it promises and refuses what it cannot measure. Times are never asserted."""

import json
import math
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
OURS, BELIEF, ADAM = 'belief_optax.adabelief', 'optax.adabelief', 'optax.adam'


def run(*arguments, benchmark='step'):
  command = [sys.executable, '-m', f'benchmarks.{benchmark}', *map(str, arguments)]
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


@pytest.mark.full
def test_report_names_machine_and_settings(quick):
  _, report, _ = quick
  assert {'date', 'machine', 'settings', 'sections', 'notes', 'goals'} <= set(report)
  assert {'platform', 'backend', 'device_kind', 'cpu', 'cores', 'versions'} <= set(report['machine'])
  assert {'python', 'belief_optax', 'jax', 'jaxlib', 'optax'} <= set(report['machine']['versions'])
  assert report['settings']['quick'] is True
  assert report['goals'] == []  # a smoke test judges nothing


@pytest.mark.full
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


@pytest.mark.full
def test_numbers_are_finite_and_positive(quick):
  may_be_zero = ('temp_bytes', 'copies', 'other_processes_cores')
  found = numbers(quick[1]['sections'])
  assert len(found) > 100
  for path, n in found:
    assert math.isfinite(n), path
    assert n > 0 or (n == 0 and any(name in path for name in may_be_zero)), path


@pytest.mark.full
def test_what_does_not_depend_on_the_clock(quick):
  sections = quick[1]['sections']
  step = sections['step']['rows'][OURS]
  assert 28 <= step['bytes_per_parameter'] < 28.1  # p, g, m, s read; p, m, s written
  assert len(step['samples_ms']) == sections['step']['rounds'] == 3
  assert sections['step']['rows'][BELIEF]['ratio'][BELIEF] == {'median': 1, 'low': 1, 'high': 1}
  assert sections['memory']['rows'][OURS]['copies'] == 0
  for name, row in sections['memory']['rows'].items():
    assert row['state_bytes_per_parameter'] == pytest.approx(8, abs=0.1), name


@pytest.mark.full
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


@pytest.mark.full
def test_wrong_value_ends_the_program_with_2():
  done = run('--bogus')
  assert done.returncode == 2
  assert 'unrecognized arguments: --bogus' in done.stderr
  assert 'Traceback' not in done.stderr


# Precision.

STORES = ['float32', 'bfloat16', 'packed16', 'int8']
SECTIONS = ['bytes', 'freeze', 'codes', 'directions', 'training', 'long', 'parameters', 'speed']


of_a_run = pytest.mark.slow  # which takes half a minute of compilation


@pytest.fixture(scope='module')
def precision(tmp_path_factory):
  out = tmp_path_factory.mktemp('precision')
  done = run('--quick', '--out', out, benchmark='precision')
  assert done.returncode == 0, done.stderr
  (path,) = out.glob('precision-*.json')
  return out, json.loads(path.read_text())


@pytest.fixture
def report(monkeypatch):
  monkeypatch.syspath_prepend(ROOT)
  from benchmarks import precision

  return precision


@of_a_run
def test_precision_measures_every_section(precision):
  _, found = precision
  assert list(found) == SECTIONS
  for section in found.values():
    assert section['quick'] is True
    assert {'date', 'seconds'} <= set(section)
    assert {'cpu', 'cores', 'versions'} <= set(section['machine'])
  assert all(math.isfinite(n) for _, n in numbers(found))


@of_a_run
def test_precision_figures_that_do_not_depend_on_the_clock(precision):
  _, found = precision
  rows = found['bytes']['rows']
  expected = {'float32': 8, 'params': 8, 'bfloat16': 4, 'packed16': 4, 'int8': 2}
  for name, state in expected.items():
    assert rows[name]['float32'] == pytest.approx(state, abs=0.05), name
    assert rows[name]['whole'] == pytest.approx(4 + rows[name]['bfloat16'], abs=1e-6), name
  for of in found['codes']['tensors'].values():
    assert set(of) == {*STORES[1:], 'plain bfloat16', 'linear int8'}
    assert of['linear int8']['zeros'] > 0.5
    assert [name for name in STORES[1:] if of[name]['zeros'] > 0] == []
    assert of['packed16']['short'] < of['int8']['short']
  small = found['parameters']['rows']
  assert small['nearest']['mean'] == 1
  assert small['split']['mean'] == pytest.approx(0.8, abs=2**-9)
  assert small['float32']['rms'] < 1e-4
  assert set(found['speed']['rows']) == {BELIEF, *STORES, *(f'{name}, one loop' for name in STORES)}
  assert found['speed']['rows'][BELIEF]['ratio'] == {'median': 1, 'low': 1, 'high': 1}


@of_a_run
def test_the_text_on_precision_comes_from_the_figures(precision, report):
  out, found = precision
  text = (out / 'precision.md').read_text()
  assert text == report.markdown(found)
  assert text.count('**--quick: a smoke test, no measurement.**') == len(SECTIONS)
  read = [name for name in SECTIONS if name != 'long']  # whose table has the verdicts
  read.remove('directions')  # where a smoke test leaves int8 out, of which its reading speaks
  assert text.count('**Reading.**') == len(read)
  plots = re.findall(r'\]\((precision_\w+\.png)\)', text)
  assert sorted(plots) == sorted(path.name for path in out.glob('*.png'))
  assert plots == [f'precision_{name}.png' for name in ('freeze', 'training', 'long', 'parameters')]


def test_a_section_is_measured_again_by_itself(report, tmp_path, monkeypatch):
  """The figures of the others stay, in the order of the text."""
  times = iter(range(9))
  section = report.Section(lambda _: {'run': next(times)}, lambda s: [f'run {s["run"]}'], 'Bytes')
  monkeypatch.setattr(report, 'SECTIONS', {'one': section, 'two': section._replace(title='Two')})
  report.main(['--out', str(tmp_path)])
  report.main(['--out', str(tmp_path), '--sections', 'one'])
  (path,) = tmp_path.glob('*.json')
  assert {name: s['run'] for name, s in json.loads(path.read_text()).items()} == {'one': 2, 'two': 1}
  text = (tmp_path / 'precision.md').read_text()
  assert text.index('run 2') < text.index('run 1')


@pytest.mark.parametrize(
  ('scores', 'word'),
  [
    ([1.0, 2.0, 3.1], 'tie'),
    ([1.1, 2.1, 3.11], 'worse'),
    ([0.9, 1.9, 2.89], 'better'),
    ([1.0, math.nan, 3.0], 'diverges'),
  ],
)
def test_a_difference_is_a_tie_if_its_interval_holds_zero(report, scores, word):
  assert report.verdict(report.interval([a - b for a, b in zip(scores, [1.0, 2.0, 3.0], strict=True)])) == word


def test_an_interval_is_that_of_student(report):
  mean, half = report.interval([1.0, 2.0, 3.0, 4.0])
  assert mean == 2.5
  assert half == pytest.approx(3.182446 * math.sqrt(5 / 3) / 2)  # t of 3 degrees of freedom


def test_the_rate_is_chosen_by_validation_and_the_differences_are_paired(report, monkeypatch):
  """Two seeds; the middle rate is best on validation data, and nothing else is asked of the test data."""

  def train(_task, make, _dtype, rate, drawn):
    loss = report.jnp.abs(rate - 2) + drawn[0]
    return {'loss': loss}, {'loss': 10 * drawn[0] + make(rate)}

  monkeypatch.setattr(report, 'train', train)
  draw = lambda rng, _: (report.np.float32(rng.integers(100)),)
  task = report.Task('', (1.0, 2.0, 3.0), 1, 2, draw, None, None, None)
  rows = report.contest(task, {'a': (lambda rate: rate, 'float32'), 'b': (lambda rate: rate + 3, 'float32')})['rows']
  assert [row['rate'] for row in rows.values()] == [2, 2]
  assert not any(row['at_edge'] for row in rows.values())
  assert rows['b']['figures']['loss']['difference'] == rows['b']['figures']['loss']['equal'] == (3, 0)


def test_unknown_section_is_a_clear_error(report, capsys):
  with pytest.raises(SystemExit) as stopped:
    report.main(['--quick', '--sections', 'sped'])
  assert stopped.value.code == 2
  assert "argument --sections: invalid choice: 'sped'" in capsys.readouterr().err


@pytest.mark.full
def test_a_step_is_measured_beside_its_peers(tmp_path):
  pytest.importorskip('llvmlite')
  done = run(
    '--quick', '--sections', '1000x1K', '1000x1K in one program', 'first', '--out', tmp_path, benchmark='peers'
  )
  assert done.returncode == 0, done.stderr
  (path,) = tmp_path.glob('peers-*.json')
  sections = json.loads(path.read_text())['sections']
  contenders = {'adabelief, one loop', 'adabelief, by XLA', BELIEF, ADAM}
  assert contenders | {'in-place pass'} <= set(sections['1000x1K']['rows'])
  assert contenders == set(sections['first']['rows'])
  assert all(math.isfinite(n) and n > 0 for _, n in numbers([section['rows'] for section in sections.values()]))
  written = path.with_suffix('.md').read_text()
  assert written == done.stdout[:-1]  # print ends the line
  assert ('Not installed, not measured: ' in written) == ('adabelief-pytorch' not in sections['1000x1K']['rows'])


def test_goals_of_the_peers_are_judged_by_the_median(monkeypatch):
  monkeypatch.syspath_prepend(ROOT)
  from benchmarks import peers

  quartiles = lambda median: {'median': median, 'low': 0.0, 'high': 9.0}
  rows = {peers.LOOP: {'ratio': {ADAM: quartiles(0.5)}, 'of_pass': quartiles(0.8)}}
  assert peers.Goal('25M', peers.LOOP, ADAM, 0.5).judge(rows) == (f'/ {ADAM} <= 0.50', quartiles(0.5), True)
  assert peers.Goal('25M', peers.LOOP, ADAM, 0.4).judge(rows)[2] is False
  assert peers.Goal('25M', peers.LOOP, peers.base.PASS, 0.9).judge(rows)[2] is False
  assert peers.Goal('25M', peers.LOOP, peers.FUSED, 1.0).judge(rows) is None  # it was not there
  first = {peers.LOOP: {'ratio': {'first': {BELIEF: quartiles(0.1)}}}}
  assert peers.Goal('first', peers.LOOP, BELIEF, 0.2).judge(first)[2] is True


@pytest.mark.full
def test_measuring_is_measured(tmp_path):
  pytest.importorskip('llvmlite')
  done = run('--quick', '--optimizers', 'adabelief', '--out', tmp_path, benchmark='diagnostics')
  assert done.returncode == 0, done.stderr
  (path,) = tmp_path.glob('diagnostics-*.json')
  sections = json.loads(path.read_text())['sections']
  assert set(sections) == {'adabelief, native', 'adabelief, xla'}
  for section in sections.values():
    assert {'without', 'every=1', 'every=10', 'every=100', 'every=1, all elements'} <= set(section['rows'])
    assert all(math.isfinite(n) and n >= 0 for _, n in numbers(section['rows']))
    assert section['rows']['without']['ratio']['median'] == 1
  assert path.with_suffix('.md').read_text() == done.stdout[:-1]


@pytest.mark.slow  # it compiles ten steps
def test_the_benchmark_of_an_accelerator_runs_anywhere(tmp_path):
  done = run('--quick', '--rounds', '3', '--trees', '4 of 4096 x 1024', '--out', tmp_path, benchmark='gpu')
  assert done.returncode == 0, done.stderr
  (path,) = tmp_path.glob('step-gpu-*.json')
  (tree,) = json.loads(path.read_text())['trees'].values()
  assert (tree['parameters'], tree['arrays']) == (4 * 16 * 8, 4)
  rows = tree['rows']
  assert {'adabelief', 'adabelief, int8', BELIEF, ADAM, 'x + 1 in place'} <= set(rows)
  assert all(math.isfinite(n) and n >= 0 for _, n in numbers(rows))
  assert rows['adabelief, int8']['bytes'] == rows['adabelief']['bytes'] - 2 * 6 * tree['parameters']
  assert '**--quick: a smoke test, no measurement.**' in path.with_suffix('.md').read_text()


@pytest.mark.full
def test_the_benchmark_of_an_accelerator_names_its_trees():
  done = run('--trees', '5 arrays', benchmark='gpu')
  assert done.returncode == 2
  assert "invalid choice: '5 arrays'" in done.stderr
  assert '100M in 8 arrays' in done.stderr


@pytest.mark.full
def test_guards_writes_its_tables_between_the_marks_of_the_page(tmp_path):
  """Its smoke test: two sections, whose text comes from the figures; what people wrote stays."""
  done = run('--quick', '--sections', 'tails', 'max_step', '--out', tmp_path, benchmark='guards')
  assert done.returncode == 0, done.stderr
  (path,) = tmp_path.glob('guards-*.json')
  found = json.loads(path.read_text())
  assert list(found) == ['tails', 'max_step']
  assert found['tails']['rows']['normal']['8'] == 0
  rows = found['max_step']['rows']
  assert rows['AdaBelief']['|x| + |y|'] == 500 < rows['AdaBelief, max_step=1']['|x| + |y|']
  assert rows['AdaBelief, max_step=1']['longest'] == pytest.approx(1, 1e-3)
  page, kept = ((folder / 'guards.md').read_text('utf-8') for folder in (tmp_path, ROOT / 'docs'))
  assert '| AdaBelief, max_step=1 |' in page
  assert '**--quick: a smoke test, no measurement.**' in page
  prose = lambda text: re.sub(r'<!-- (\w+) -->.*?<!-- /\1 -->', '', text, flags=re.DOTALL)
  assert prose(page) == prose(kept)
