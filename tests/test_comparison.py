"""The comparison: the search, the statistics, the tasks, and that what is shown is what was measured."""

import doctest
import io
import json
import math
import pathlib
import shutil
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from rich.console import Console

from belief_optax import comparison
from belief_optax.comparison import cells, optimizers, statistics, tasks, train
from belief_optax.comparison.colors import COLORS, color_of, line_of
from belief_optax.comparison.report import Report, figures_of
from belief_optax.comparison.tasks import images, text
from belief_optax.comparison.tasks.cartpole import advance
from belief_optax.comparison.tune import BATCH, DECAYS, Point, search

ROOT = pathlib.Path(__file__).parents[1]
TASKS = tuple(tasks.TASKS)


def bowl(**options):
  """A noisy bowl of three numbers: cheap to compile."""
  loss = lambda p, key: jnp.sum((p - 1 + 0.1 * jax.random.normal(key, [3])) ** 2)
  score = lambda p, held: jnp.sum((p - 1) ** 2) + held
  given = {'steps': 20, 'every': 5, 'seeds': 1, 'target': 0.5, 'tune': jnp.float32(0.25), 'test': jnp.float32(0.5)}
  init = lambda key: jax.random.normal(key, [3])
  return tasks.Task('bowl', 'noise-free', 'a bowl', 'height', init=init, loss=loss, score=score, **given | options)


@pytest.fixture(scope='module')
def bowls():
  """Tasks that compile in a second, beside the others."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(tasks.TASKS, 'bowl', bowl)
    patch.setitem(tasks.TASKS, 'decaying', lambda: bowl(decays=True)._replace(name='decaying'))
    yield


# The search.


def recorded(score):
  asked = []

  def evaluate(points):
    asked.extend(points)
    return [score(p) for p in points]

  return evaluate, asked


@pytest.mark.parametrize('best', [-5, -7, -3, -1, 2, -12])
def test_search_finds_the_rate_of_a_parabola(best):
  evaluate, asked = recorded(lambda p: (p.rate_index - best) ** 2)
  found = search(evaluate, center=-5)
  assert found.best == Point(best)
  assert found.edges == ()
  assert {Point(best - 1), Point(best + 1)} <= set(found.scores)
  assert len(asked) == len(set(asked)) == len(found.scores)  # nothing is asked twice
  assert len(asked) % BATCH == 0


def test_search_finds_rate_and_decay():
  evaluate, asked = recorded(
    lambda p: (p.rate_index + 4) ** 2 + (p.decay_index - 2) ** 2 + p.rate_index * p.decay_index / 4
  )
  found = search(evaluate, center=-5, decays=len(DECAYS))
  lattice = {Point(i, j): evaluate([Point(i, j)])[0] for i in range(-12, 3) for j in range(len(DECAYS))}
  assert found.best == min(lattice, key=lambda p: lattice[p])
  assert found.best.decay_index > 0
  assert found.edges == ()
  assert set(asked[:BATCH]) == {Point(i) for i in range(-7, -2)}  # the first row has no decay


@pytest.mark.parametrize(('sign', 'side'), [(1, 'lower rate'), (-1, 'higher rate')])
def test_best_rate_at_the_edge_is_flagged(sign, side):
  found = search(lambda points: [sign * p.rate_index for p in points], center=0, rounds=3)
  assert found.edges == (side,)
  assert len(found.scores) == 3 * BATCH


def test_largest_decay_is_an_edge_and_no_decay_is_none():
  falls = search(lambda points: [(p.rate_index + 5) ** 2 - p.decay_index for p in points], -5, len(DECAYS), rounds=9)
  assert falls.best.decay == DECAYS[-1]
  assert falls.edges == ('more decay',)
  rises = search(lambda points: [(p.rate_index + 5) ** 2 + p.decay_index for p in points], -5, len(DECAYS))
  assert (rises.best, rises.edges) == (Point(-5), ())


def test_where_all_rates_diverge_smaller_ones_are_tried():
  found = search(lambda points: [abs(p.rate_index + 9) if p.rate_index < -7 else math.nan for p in points], center=-1)
  assert (found.best, found.edges) == (Point(-9), ())


@pytest.mark.parametrize(
  ('options', 'sentence'), [({'rounds': 0}, 'rounds must be'), ({'decays': 9}, 'decays must be')]
)
def test_search_names_what_is_wrong(options, sentence):
  with pytest.raises(ValueError, match=sentence):
    search(lambda points: [0.0] * len(points), 0, **options)


def test_rates_are_two_to_a_decade():
  assert [Point(i).rate for i in (-6, -5, -4, 0, 1)] == [1e-3, 0.003162, 1e-2, 1.0, 3.162]


# The statistics.


def test_paired_interval_is_that_of_scipy():
  draw = np.random.default_rng(0)
  a, b = draw.normal(size=(2, 8))
  low, high = scipy.stats.ttest_rel(a, b).confidence_interval(0.95)
  found = statistics.paired(a, b, factor=False)
  assert (found.mean, found.low, found.high) == pytest.approx(((a - b).mean(), low, high), rel=1e-12)
  logs = statistics.paired(np.exp(a), np.exp(b), factor=True)
  assert (logs.mean, logs.low, logs.high) == pytest.approx(np.exp([(a - b).mean(), low, high]), rel=1e-12)


@pytest.mark.parametrize(
  ('ours', 'theirs', 'verdict'),
  [
    ([1.0, 2.0, 3.1], [1.0, 2.0, 3.0], 'tie'),
    ([1.1, 1.21, 1.33], [1.0, 1.1, 1.2], 'worse'),
    ([0.9, 0.99, 1.09], [1.0, 1.1, 1.2], 'better'),
    ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], 'tie'),
    ([0.1, 0.2, math.inf], [1.0, 2.0, 3.0], 'worse'),  # who fails more is worse, whatever the rest
    ([1.0, 2.0, 3.0], [0.1, math.nan, 0.3], 'better'),
    ([math.inf] * 3, [math.nan] * 3, 'both fail'),
  ],
)
@pytest.mark.parametrize('factor', [False, True])
def test_verdicts(ours, theirs, verdict, factor):
  assert statistics.paired(ours, theirs, factor).verdict == verdict


def test_pairs_need_the_same_seeds():
  with pytest.raises(ValueError, match='same seeds on both sides, got 2 and 3'):
    statistics.paired([1.0, 2.0], [1.0, 2.0, 3.0], factor=False)


def test_basin_ends_where_the_score_crosses_the_limit():
  rates, scores = [1e-3, 1e-2, 1e-1, 1.0], [3.0, 1.0, 1.0, 2.0]
  found = statistics.basin(rates, scores, limit=1.5)
  assert found.width == pytest.approx(10 ** (1 + 0.5 / 2 + 0.5))  # a quarter of a decade below, half of one above
  assert not found.open


@pytest.mark.parametrize(
  ('scores', 'width', 'is_open'),
  [
    ([1.0, 1.0, 9.0, 9.0], 10 ** (1 + 0.05 / 8), True),
    ([9.0, 1.0, 1.02, math.inf], 10 ** (1 + 0.05 / 8), False),  # beside a failure the last good rate is the end
    ([math.nan, 1.0, math.inf, 1.0], 1.0, False),
  ],
)
def test_basin_that_is_open_or_beside_a_failure(scores, width, is_open):
  found = statistics.basin([1e-3, 1e-2, 1e-1, 1.0], scores, limit=1.05)
  assert found.width == pytest.approx(width)
  assert found.open == is_open


def test_within_five_percent_of_a_score_and_of_a_return():
  assert bowl().limit(2.0) == pytest.approx(2.1)
  assert bowl(worst=200.0).limit(0.0) == pytest.approx(10)  # 190 of 200 is within 5 % of 200


# Training.


def test_steps_to_target_must_be_kept():
  task = bowl(steps=20, every=5, target=1.0)
  curves = np.array([[2, 1, 0.5, 0.1], [0.5, 2, 1, 1], [2, 2, 2, 2], [1, 1, 1, 1], [2, 1, 1, np.nan]])
  assert train.steps_to_target(task, curves).tolist() == [10, 15, math.inf, 5, math.inf]
  assert train.results(task, curves).tolist() == [0.1, 1, 2, 1, math.inf]


def test_where_steps_count_a_late_training_counts_more_the_farther_it_is():
  task = bowl(counts=True, steps=20, every=5, target=1.0)
  curves = np.array([[2, 1, 0.5, 0.1], [2, 2, 2, 1.5], [2, 2, 2, 9], [2, 2, np.nan, np.nan]])
  assert train.results(task, curves).tolist() == [10, 20 * 2.5, 20 * 10, math.inf]


@pytest.mark.parametrize('name', ['adamw', 'optax:adamw'])
def test_a_population_is_many_single_trainings(name):
  """Against a plain loop of optax over one member at a time."""
  task, settings = bowl(), [(0.03, 0.1, 4), (0.3, 0.0, 4), (0.1, 1.0, 1007)]
  rates, decays, seeds = map(np.array, zip(*settings, strict=True))
  found = train.program(task, optimizers.contender(name))(
    jnp.float32(rates), jnp.float32(decays), jnp.int32(seeds), task.test
  )
  assert found.shape == (3, 4)
  for row, (rate, decay, seed) in zip(found, settings, strict=True):
    start, draws = jax.random.split(jax.random.key(seed))
    params = task.init(start)
    tx = optax.adamw(lambda t, rate=rate: rate * task.schedule(t), weight_decay=decay)
    state = tx.init(params)
    for t in range(task.steps):
      updates, state = tx.update(jax.grad(task.loss)(params, jax.random.fold_in(draws, t)), state, params)
      params = optax.apply_updates(params, updates)
    assert row[-1] == pytest.approx(float(task.score(params, task.test)), rel=1e-5)


def test_the_schedule_warms_up_and_falls_to_zero():
  task = bowl(steps=200)
  rates = np.array([float(task.schedule(t)) for t in (0, 4, 9, 199)])
  np.testing.assert_allclose(rates, [0.1, 0.5, 1, 0], atol=1e-6)
  middle = float(task.schedule(104))  # half of the way from step 10 to step 200
  assert middle == pytest.approx(0.5, abs=1e-6)
  assert float(bowl(counts=True).schedule(7)) == 1


# Optimizers.


def test_decay_is_tuned_where_an_optimizer_has_one_and_no_sibling_has():
  tuned = {name: optimizers.contender(name).decays for name in ('adabelief', 'adam', 'nadam', 'adamw', 'sgd', 'radam')}
  assert tuned == {'adabelief': True, 'adam': False, 'nadam': False, 'adamw': True, 'sgd': True, 'radam': True}
  assert [optimizers.contender(f'optax:{name}').decays for name in ('adam', 'adamw')] == [False, True]


def test_default_optimizers_exist():
  assert [one.name for one in optimizers.contenders(optimizers.DEFAULT)] == list(optimizers.DEFAULT)
  assert optimizers.contender(optimizers.CROSS_CHECK[1]).factory is optax.adam


@pytest.mark.parametrize(
  'name', ['adamm', 'scale_by_belief', 'optax:nothing', 'optax:clip', 'torch:adam', 'optax:contrib', '']
)
def test_unknown_optimizer_is_a_clear_error(name):
  with pytest.raises(ValueError, match=rf"optimizers must be of .*adabelief, .* got '{name}'"):
    optimizers.contender(name)


@pytest.mark.parametrize(
  ('names', 'on', 'options', 'error', 'sentence'),
  [
    (['adam'], ['didgits'], {}, ValueError, "tasks must be of letters, .*, got 'didgits'"),
    (['adam'], [], {}, ValueError, 'at least one task'),
    ([], ['digits'], {}, ValueError, 'at least one optimizer'),
    (['adam'], ['digits'], {'resume': True}, ValueError, 'resume=True needs output='),
    (['adam'], ['digits'], {'workers': 0}, ValueError, 'workers must be an integer >= 1, got 0'),
    (['adam'], ['digits'], {'quick': 'yes'}, TypeError, "quick must be True or False, got 'yes'"),
  ],
)
def test_bad_arguments_are_clear_errors(names, on, options, error, sentence):
  with pytest.raises(error, match=sentence):
    comparison.main(names, on, **{'progress': False, **options})


def test_a_missing_extra_is_one_sentence(monkeypatch):
  monkeypatch.setitem(sys.modules, 'sklearn', None)
  monkeypatch.setitem(sys.modules, 'rich', None)
  with pytest.raises(ImportError, match=r'needs scikit-learn, rich: pip install "belief_optax\[examples\]"'):
    comparison.main(['adam'], ['digits'])


# Cells and their files.


def without_clock(figures):
  bare = lambda cell: {key: value for key, value in cell.items() if key != 'seconds'}
  of = {task: {name: bare(cell) for name, cell in row.items()} for task, row in figures['cells'].items()}
  return {**{key: value for key, value in figures.items() if key != 'date'}, 'cells': of}


@pytest.fixture(scope='module')
def measured(bowls, tmp_path_factory):  # noqa: ARG001
  tmp_path = tmp_path_factory.mktemp('comparison')
  report = comparison.main(['adabelief', 'adam', 'optax:adam'], ['bowl'], output=tmp_path, progress=False)
  return report, tmp_path


def test_a_resumed_run_gives_the_same_figures(measured, monkeypatch, tmp_path):
  report, folder = measured[0], shutil.copytree(measured[1], tmp_path / 'copy')
  again, calls = cells.measure, []
  monkeypatch.setattr(cells, 'measure', lambda *args: calls.append(args[1].name) or again(*args))
  (folder / 'cells' / 'bowl--adam.json').unlink()
  (folder / 'cells' / 'bowl--optax-adam.json').write_text('{"half a fi')
  names = ['adabelief', 'adam', 'optax:adam']
  resumed = comparison.main(names, ['bowl'], output=folder, progress=False, resume=True)
  assert calls == ['adam', 'optax:adam']
  assert without_clock(resumed.as_dict()) == without_clock(report.as_dict())
  kept = json.loads((folder / 'comparison.json').read_text())
  assert kept == resumed.as_dict()
  assert not list(folder.rglob('*.part'))


def test_cells_of_other_settings_are_not_taken(measured):
  path = measured[1] / 'cells' / 'bowl--adam.json'
  task, adam = tasks.task('bowl', quick=True), optimizers.contender('adam')
  assert cells.load(path, cells.settings(task, adam, rounds=2)) is not None
  others = [
    cells.settings(tasks.task('bowl'), adam, rounds=2),
    cells.settings(task, adam, rounds=3),
    cells.settings(task, adam._replace(options={'b1': 0.5}), rounds=2),
    cells.settings(task._replace(test=jnp.float32(0.75)), adam, rounds=2),
  ]
  assert [cells.load(path, other) for other in others] == [None] * 4


def test_a_cell_says_what_was_done(measured):
  report, folder = measured
  cell = json.loads((folder / 'cells' / 'bowl--adabelief.json').read_text())
  assert cell['settings']['task']['steps'] == 4  # a quick run
  assert cell['settings']['recipe'].startswith('compose(\n  first_moment(b1=0.9')
  assert len(cell['scores']) == len(cell['steps_to_target']) == BATCH
  assert len(cell['tuning']) % BATCH == 0
  assert min(score for _, _, score in cell['tuning']) == next(s for r, _, s in cell['tuning'] if r == cell['rate'])
  ours, peer = (report.cells('bowl')[name] for name in ('adam', 'optax:adam'))
  assert ours['rate'] == peer['rate']
  np.testing.assert_allclose(ours['scores'], peer['scores'], rtol=1e-4)


def test_tuning_and_test_seeds_are_apart(monkeypatch):
  seen = []

  def program(task, _):
    def scores(rates, _, seeds, held):
      seen.append((float(held), sorted(set(seeds.tolist()))))
      return np.ones((len(rates), task.points)) + np.asarray(rates)[:, None]

    return scores

  monkeypatch.setattr(cells, 'program', program)
  cells.measure(bowl(seeds=3), optimizers.contender('adam'), rounds=2)
  assert seen == [(0.25, [1000, 1001, 1002])] * 2 + [(0.5, list(range(15)))]


@pytest.mark.usefixtures('bowls')
def test_decay_is_tuned_on_tasks_that_ask_for_it():
  report = comparison.main(['adam', 'adamw'], ['decaying'], progress=False)
  tried = {name: {decay for _, decay, _ in cell['tuning']} for name, cell in report.cells('decaying').items()}
  assert tried['adam'] == {0}
  assert {0, 0.01} <= tried['adamw']


@pytest.mark.full
def test_workers_find_what_one_process_finds():
  """Two spawned processes on the cheapest task."""
  one, two = (comparison.main(['sgd', 'adagrad'], 'absolute', progress=False, workers=n) for n in (1, 2))
  assert without_clock(one.as_dict()) == without_clock(two.as_dict())


@pytest.mark.usefixtures('bowls')
def test_an_error_names_the_cell(monkeypatch):
  monkeypatch.setattr(cells, 'measure', lambda *_: 1 / 0)
  with pytest.raises(ZeroDivisionError) as caught:
    comparison.main(['adam'], ['bowl'], progress=False)
  assert caught.value.__notes__ == ['adam on bowl']


# What is said.


def cell(scores, **options):
  tuning = [[1e-3, 0.0, 2.0], [1e-2, 0.0, 1.0], [1e-1, 0.0, None]]
  given = {'rate': 1e-2, 'decay': 0.0, 'edges': [], 'tuning': tuning, 'basin': {'width': 3.0, 'open': False}}
  curve = {'steps': [10, 20], 'low': [2.0, 1.0], 'median': [2.0, 1.0], 'high': [3.0, None]}
  return {**given, 'scores': scores, 'steps_to_target': [10.0, 20.0, None], 'curve': curve, 'seconds': 1.0, **options}


def figures(**of_task):
  about = {'kind': 'noise-free', 'title': 'a', 'unit': 'b', 'steps': 20, 'every': 10, 'target': 1.0, 'worst': None}
  names = list(dict.fromkeys(name for row in of_task.values() for name in row))
  return {
    'date': '2026-11-28', 'quick': False, 'machine': {'cores': 2, 'versions': {'jax': '0'}}, 'plot': 'x.png',
    'optimizers': names, 'options': {}, 'recipes': dict.fromkeys(names, ''), 'tasks': dict.fromkeys(of_task, about),
    'cells': of_task,
  }  # fmt: skip


HAND = figures(
  one={'adabelief': cell([1.0, 1.1, 1.2]), 'adam': cell([1.01, 1.09, 1.2]), 'sgd': cell([2.0, 2.2, 2.4])},
  two={
    'adabelief': cell([2.0, 2.1, 2.2], edges=['higher rate']),
    'adam': cell([1.0, 1.1, 1.2]),
    'sgd': cell([0.5, 0.5, None], basin=None),
  },
)


def test_ties_are_ties_and_failures_never_lead():
  report = Report(HAND)
  assert report.leaders('one') in (['adabelief', 'adam'], ['adam', 'adabelief'])
  assert report.leaders('two') == ['adam']
  assert report.paired('one', 'sgd', 'adabelief').mean == pytest.approx(2)


def test_page_says_who_leads_and_what_is_doubtful():
  page = Report(HAND).markdown()
  assert '| two | noise-free | adam |  | adabelief, sgd |' in page
  assert '- noise-free (one, two): adam\n' in page
  assert '- adam: adabelief is better on none; a tie on one; worse on two' in page
  assert (
    '**Weaknesses of adabelief.** It is behind the best on two. Flagged: two (EDGE: higher rate not tried).' in page
  )
  assert 'at an edge of what was tried in 1 of 6 cells: adabelief on two.' in page
  assert '1 of 3 seeds fail' in page
  assert 'How often each is among the leaders: adabelief 1 of 2, adam 2 of 2, sgd 0 of 2.' in page
  assert 'no evidence' not in page
  assert 'no evidence' in Report({**HAND, 'quick': True}).markdown()


def test_table_shows_the_flag():
  console = Console(width=220, record=True, file=io.StringIO())
  console.print(Report(HAND).table())
  shown = console.export_text()
  assert '0.01 (edge)' in shown
  assert 'EDGE: higher rate not tried' in shown
  assert '2.000 (2.000 .. 2.000) worse' in shown


def test_a_report_without_adabelief_has_another_baseline():
  report = Report(figures(one={'adam': cell([1.0, 2.0, 3.0])}))
  assert report.baseline == 'adam'
  assert 'No other optimizer took part.' in report.markdown()


def test_plot_is_drawn(tmp_path):
  (path,) = Report(HAND).plot(tmp_path / 'new' / 'plot.png')
  assert path.read_bytes()[:8] == b'\x89PNG\r\n\x1a\n'


def test_more_optimizers_than_a_figure_can_hold():
  names = ['adabelief', *(f'optimizer {i}' for i in range(10))]
  report = Report(figures(one={name: cell([1.0, 2.0, 3.0]) for name in names}))
  (first, some), (second, rest) = figures_of(pathlib.Path('a.png'), report.optimizers)
  assert (first, second) == (pathlib.Path('a.png'), pathlib.Path('a-2.png'))
  assert some == names[:9]
  assert rest == ['adabelief', *names[9:]]
  page = report.markdown()
  assert f'optimizer 6 and optimizer 7]({report.figures["plot"]})' in page
  assert 'adabelief, optimizer 8 and optimizer 9](x-2.png)' in page
  assert [path for path, _ in figures_of(pathlib.Path('a.png'), ['adam'])] == [pathlib.Path('a.png')]


def test_newer_cells_take_the_place_of_older_ones():
  old, new = Report(HAND), Report(figures(one={'adam': cell([9.0, 9.0, 9.0]), 'lion': cell([1.0, 1.0, 1.0])}))
  both = old.updated(new)
  assert both.optimizers == ['adabelief', 'adam', 'sgd', 'lion']
  assert both.scores('one', 'adam').tolist() == [9, 9, 9]
  assert both.scores('one', 'sgd').tolist() == [2, 2.2, 2.4]
  assert both.cells('two') == old.cells('two')
  changed = figures(one={'lion': cell([1.0, 1.0, 1.0])})
  changed['tasks'] = {'one': {**changed['tasks']['one'], 'steps': 40}}
  assert list(old.updated(Report(changed)).cells('one')) == ['lion']  # cells of another task are no cells of this one


def test_colors_are_apart_and_the_same_for_a_peer():
  assert len(set(COLORS.values())) == len(COLORS)
  assert set(optimizers.DEFAULT) <= set(COLORS)
  assert color_of('optax:adam') == color_of('adam') == COLORS['adam']
  assert (line_of('adam'), line_of('optax:adam')) == ('-', '--')
  assert len({color_of(name) for name in ('mars', 'padam', 'yogi', 'adamax', 'lamb', *COLORS)}) == len(COLORS) + 5


# Tasks.


@pytest.mark.parametrize('name', TASKS)
def test_tasks_fit_together(name):
  """Shapes only; nothing is compiled."""
  task = tasks.task(name)
  assert task.name == name
  assert task.steps % task.every == 0
  assert tasks.task(name, quick=True).steps < task.steps
  params = jax.eval_shape(task.init, jax.random.key(0))
  key = jax.random.key(1)
  assert jax.eval_shape(task.loss, params, key).shape == ()
  for held in (task.tune, task.test):
    assert jax.eval_shape(task.score, params, held).shape == ()
  assert jax.tree.map(jnp.shape, task.tune) == jax.tree.map(jnp.shape, task.test)  # one program for both


def test_groups_name_tasks():
  assert tasks.names(['landscapes', 'beale']) == ('rosenbrock', 'beale', 'absolute')
  assert 'letters_1m' not in tasks.names('all')
  assert set(tasks.names('all')) == set(TASKS) - {'letters_1m'}


def test_held_out_data_are_apart():
  train_, tune_, test_ = images.data()
  assert [len(x) for x, _ in (train_, tune_, test_)] == [1000, 398, 398]
  rows = [{row.tobytes() for row in x} for x, _ in (train_, tune_, test_)]
  assert not rows[0] & rows[2]
  assert not rows[1] & rows[2]
  noisy = tasks.task('noisy_digits')
  np.testing.assert_array_equal(noisy.test[1], test_[1])  # wrong labels are for training alone


def test_letters_are_the_text():
  size, letters = text.data()
  assert letters.max() == size - 1
  task = tasks.task('letters')
  assert task.tune.shape == task.test.shape == (text.HELD, text.CONTEXT + 1)
  params = jax.eval_shape(tasks.task('letters_1m').init, jax.random.key(0))
  assert sum(x.size for x in jax.tree.leaves(params)) == pytest.approx(1e6, rel=0.1)


def test_cart_and_pole_move_as_gymnasium_has_it():
  """The first step from rest, whose figures are known: 0.195 and -0.293."""
  np.testing.assert_allclose(advance(jnp.zeros(4), jnp.int32(1)), [0, 0.195122, 0, -0.292683], atol=1e-6)
  np.testing.assert_allclose(advance(jnp.zeros(4), jnp.int32(0)), [0, -0.195122, 0, 0.292683], atol=1e-6)


def test_landscapes_have_their_minimum_where_they_say():
  for name, minimum in (('rosenbrock', (1.0, 1.0)), ('beale', (3.0, 0.5)), ('absolute', (0.0, 0.0))):
    task = tasks.task(name)
    assert float(task.loss(jnp.array(minimum), jax.random.key(0))) == pytest.approx(0, abs=1e-10)
    assert float(task.score(jnp.array(minimum), ())) == 0


# The program.


@pytest.fixture
def program(monkeypatch):
  monkeypatch.syspath_prepend(ROOT)
  from benchmarks import compare

  return compare


@pytest.mark.parametrize(
  ('arguments', 'sentence'),
  [
    (['--tasks', 'didgits'], "got 'didgits'"),
    (['--optimizers', 'adamm'], "got 'adamm'"),
    (['--workers', '0'], 'argument --workers: must be an integer >= 1, got 0'),
  ],
)
def test_the_program_refuses_what_it_does_not_know(program, arguments, sentence, capsys):
  with pytest.raises(SystemExit) as stopped:
    program.main(arguments)
  assert stopped.value.code == 2
  assert sentence in capsys.readouterr().err


def test_the_whole_run_has_one_cell_of_a_peer(program):
  whole = program.parse([]).pairs
  assert len(whole) == len(tasks.names('all')) * len(optimizers.DEFAULT) + 1
  assert optimizers.CROSS_CHECK in whole
  assert optimizers.CROSS_CHECK not in program.parse(['--tasks', 'digits']).pairs


def test_the_page_is_written_from_the_kept_figures(program):
  """As committed: nothing is typed by hand."""
  assert program.PAGE.read_text('utf-8') == comparison.load(program.RESULTS).markdown()


@pytest.mark.parametrize('name', comparison.__all__)
def test_examples_run(name):
  found = doctest.DocTestFinder().find(getattr(comparison, name), name, module=False, globs={})
  assert sum(len(test.examples) for test in found) > 0
  runner = doctest.DocTestRunner()
  for test in found:
    assert runner.run(test).failed == 0
