"""What a comparison found: tables, texts and plots, all of them from the same figures."""

import json
import math
import pathlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from belief_optax.comparison.statistics import Paired, paired
from belief_optax.comparison.tasks import GROUPS
from belief_optax.comparison.tune import BATCH, DECAYS, ROUNDS

Figures = dict[str, Any]
HEADER = ('optimizer', 'rate', 'decay', 'score', 'against the best', 'steps to target', 'basin', 'settings')
MOST = 9  # optimizers that a panel can show apart


def figures_of(path: pathlib.Path, names: Sequence[str]) -> list[tuple[pathlib.Path, list[str]]]:
  """The figures and the optimizers of each: as many as can be told apart, and the first one beside all of them."""
  first, *others = names
  some = [others[i : i + MOST - 1] for i in range(0, len(others), MOST - 1)] or [[]]
  return [(path.with_stem(f'{path.stem}-{i}') if i > 1 else path, [first, *each]) for i, each in enumerate(some, 1)]


class Report:
  """The results of a comparison.

  Every text and plot is made from `as_dict()`, which JSON can keep.

  Args:
    figures: what `as_dict()` of another report gave, or `comparison.main` measured.

  Example:
    >>> from belief_optax import comparison
    >>> report = comparison.main(['sgd'], ['absolute'], progress=False)
    >>> report.optimizers, list(report.tasks)
    (['sgd'], ['absolute'])
  """

  def __init__(self, figures: Figures):
    self.figures = figures

  def as_dict(self) -> Figures:
    """All figures, as numbers, strings, lists and dicts; None stands for what is not finite."""
    return self.figures

  @property
  def tasks(self) -> dict[str, Any]:
    return self.figures['tasks']

  @property
  def optimizers(self) -> list[str]:
    return self.figures['optimizers']

  @property
  def baseline(self) -> str:
    """The optimizer that the others are set against: AdaBelief if it takes part."""
    return 'adabelief' if 'adabelief' in self.optimizers else self.optimizers[0]

  def cells(self, task: str) -> dict[str, Any]:
    """The cells of a task, by optimizer."""
    return self.figures['cells'].get(task, {})

  def scores(self, task: str, optimizer: str) -> np.ndarray:
    """The scores of the test seeds, infinite for a failure."""
    return numbers(self.cells(task)[optimizer]['scores'])

  def paired(self, task: str, one: str, other: str) -> Paired:
    """One optimizer against another one, over the test seeds of a task."""
    return paired(self.scores(task, one), self.scores(task, other), factor=self.tasks[task]['worst'] is None)

  def best(self, task: str) -> str:
    """The optimizer with the fewest failures and, of these, the least mean score (geometric where factors count)."""
    size = (lambda x: np.log(x).mean()) if self.tasks[task]['worst'] is None else np.mean

    def place(name: str) -> tuple[int, float]:
      scores = self.scores(task, name)
      fine = scores[np.isfinite(scores)]
      with np.errstate(divide='ignore'):
        return len(scores) - len(fine), float(size(fine)) if len(fine) else math.inf

    return min(self.cells(task), key=place)

  def leaders(self, task: str) -> list[str]:
    """The best optimizer, then those that tie with it."""
    best = self.best(task)
    return [
      best,
      *(name for name in self.cells(task) if name != best and self.paired(task, name, best).verdict == 'tie'),
    ]

  def flags(self, task: str, optimizer: str) -> list[str]:
    """What makes a cell doubtful: the best setting at an edge of what was tried, and failures."""
    cell, found = self.cells(task)[optimizer], []
    if cell['edges']:
      found.append(f'EDGE: {", ".join(cell["edges"])} not tried')
    if failed := sum(x is None for x in cell['scores']):
      found.append(f'{failed} of {len(cell["scores"])} seeds fail')
    return found

  def row(self, task: str, optimizer: str) -> list[str]:
    """A line of the table of a task, under `HEADER`."""
    cell, best = self.cells(task)[optimizer], self.best(task)
    tuned = len(cell['tuning'])
    flags = '; '.join([str(tuned), *self.flags(task, optimizer)])
    return [
      optimizer,
      f'{cell["rate"]:.3g}' + (' (edge)' if cell['edges'] else ''),
      f'{cell["decay"]:g}' if len({w for _, w, _ in cell['tuning']}) > 1 else '',
      spread(self.scores(task, optimizer)),
      'best' if optimizer == best else against(self.paired(task, optimizer, best)),
      arrivals(numbers(cell['steps_to_target'])),
      'fails' if cell['basin'] is None else f'{">= " if cell["basin"]["open"] else ""}{cell["basin"]["width"]:.2g}',
      flags,
    ]

  def ranked(self, task: str) -> list[str]:
    """The optimizers of a task, by their median score."""
    return sorted(self.cells(task), key=lambda name: (float(np.median(self.scores(task, name))), name))

  def table(self) -> Any:
    """The tables of all tasks as one `rich.table.Table`."""
    from rich import box
    from rich.table import Table

    shown = Table(box=box.SIMPLE, caption=' '.join(self.notes()), caption_justify='left')
    for i, column in enumerate(('task', *HEADER)):
      shown.add_column(column, justify='left' if i < 2 else 'right')
    for task in self.tasks:
      for i, optimizer in enumerate(ranked := self.ranked(task)):
        shown.add_row('' if i else task, *self.row(task, optimizer), end_section=i == len(ranked) - 1)
    return shown

  def notes(self) -> Iterator[str]:
    """What a reader of the table must know."""
    if self.figures['quick']:
      yield 'QUICK: a quarter of the steps and one tuning seed; a smoke test, no evidence.'
    yield (
      'Less is better. Score: median and quartiles of the test seeds. Against the best: the factor of the score, or '
      'the difference where the score has a range, with its 95 % interval over pairs of seeds; an interval that holds '
      '1 (or 0) is a tie. Basin: the largest over the smallest learning rate within 5 % of the best, without decay. '
      'Settings: how many were tried.'
    )

  def markdown(self) -> str:
    """The page: what was done, who leads where, the baseline against the others, every task, and the limits."""
    return '\n\n'.join(text for text in Page(self).sections()) + '\n'

  def plot(self, path: str | pathlib.Path) -> list[pathlib.Path]:
    """Draws the score over the steps and over the learning rate, two panels for each task.

    Args:
      path: the file to write; its ending says the format. Optimizers that one figure cannot hold go to `NAME-2` and so
        on, beside the first of all.

    Returns:
      The paths.
    """
    from belief_optax.comparison.plot import draw

    return [draw(self, one, names) for one, names in figures_of(pathlib.Path(path), self.optimizers)]

  def updated(self, other: 'Report') -> 'Report':
    """This report with the cells of a newer one in it; a task that was changed since loses its older cells."""
    kept = {name: task for name, task in self.tasks.items() if other.tasks.get(name, task) == task}
    merged = {**kept, **other.tasks}
    cells = {
      name: {**(self.cells(name) if name in kept else {}), **other.cells(name)}
      for name in merged
    }  # fmt: skip
    used = [
      name for name in dict.fromkeys([*self.optimizers, *other.optimizers]) if any(name in c for c in cells.values())
    ]
    recipes = {**self.figures['recipes'], **other.figures['recipes']}
    return Report(
      {
        **other.figures,
        'quick': self.figures['quick'] or other.figures['quick'],
        'optimizers': used,
        'recipes': {name: recipes[name] for name in used},
        'tasks': merged,
        'cells': cells,
      }
    )


def numbers(values: Sequence[float | None]) -> np.ndarray:
  """Numbers of JSON, where None stands for a failure."""
  return np.array([np.inf if x is None else x for x in values], np.float64)


def number(x: float) -> str:
  """A number with three digits."""
  if not math.isfinite(x):
    return 'fails'
  return f'{x:,.0f}' if 1000 <= abs(x) < 1e6 else f'{x:.3g}'


def spread(values: np.ndarray) -> str:
  """The median and the quartiles."""
  low, median, high = np.quantile(values, (0.25, 0.5, 0.75), method='nearest')
  return f'{number(median)} ({number(low)} .. {number(high)})' if math.isfinite(median) else 'fails'


def against(found: Paired) -> str:
  """A difference in a few characters."""
  if math.isnan(found.mean) or not math.isfinite(found.mean):
    return found.verdict
  show = lambda x: f'{x:.3f}' if 0.1 <= abs(x) < 10 else number(x)  # near 1 the third decimal says on which side
  return f'{show(found.mean)} ({show(found.low)} .. {show(found.high)}) {found.verdict}'


def arrivals(steps: np.ndarray) -> str:
  """The median of the steps to a target, and how many seeds arrive."""
  reached = np.isfinite(steps)
  count = '' if reached.all() else f' ({reached.sum()} of {len(steps)} arrive)'
  median = np.quantile(steps, 0.5, method='nearest')
  return (number(float(median)) if np.isfinite(median) else 'never') + count


def listed(words: Sequence[str], last: str = 'and') -> str:
  """Words with commas, and an "and" before the last one."""
  return f' {last} '.join([', '.join(words[:-1]), words[-1]] if len(words) > 1 else words) or 'none'


def grid(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """A table in Markdown."""
  lines = ['| ' + ' | '.join(row) + ' |' for row in (header, *rows)]
  return '\n'.join([lines[0], '|' + ' --- |' + ' ---: |' * (len(header) - 1), *lines[1:]])


class Page:
  """The report as a text. Every sentence with a finding is made from the figures."""

  def __init__(self, report: Report):
    self.report = report
    self.figures = report.figures

  def sections(self) -> Iterator[str]:
    yield '# What each optimizer is good for'
    yield from self.opening()
    yield '## Who leads where'
    yield from self.leading()
    yield f'## {self.report.baseline} against each of the others'
    yield from self.baseline()
    yield '## Learning rates'
    yield from self.sensitivity()
    yield '## Every task'
    yield ' '.join(self.report.notes())
    for task in self.report.tasks:
      yield from self.task(task)
    yield '## What this does not say'
    yield LIMITS
    yield self.footer()

  def opening(self) -> Iterator[str]:
    yield (
      'Written by `python -m benchmarks.compare` from what it measured, which is kept in '
      '`benchmarks/results/comparison.json`: no finding is typed by hand.'
    )
    if self.figures['quick']:
      yield '**--quick: a quarter of the steps and one tuning seed. A smoke test, no evidence.**'
    counts = {len(cell['scores']) for task in self.report.tasks for cell in self.report.cells(task).values()}
    fixed = {name: recipe for name, recipe in self.figures['options'].items() if name in self.report.optimizers}
    yield (
      f'{len(self.report.optimizers)} optimizers on {len(self.report.tasks)} tasks. All of them have the same number '
      'of steps, the same starts and batches, the same schedule (5 % warm-up, then a cosine to 0; a constant rate on '
      f'landscapes) and the same search: {BATCH} learning rates, two to a decade, then up to {ROUNDS - 1} times '
      f'{BATCH} more settings nearest to the best so far, until the best has been enclosed on all sides. Where it has '
      'not been, the tables say EDGE. On tasks with held-out data, weight decay of '
      f'{listed([f"{w:g}" for w in DECAYS])} is part of the search for every optimizer that has one; `adam` and '
      '`nadam` are without, `adamw` and `nadamw` with. Settings are chosen on tuning seeds and tuning data. What is '
      f'reported comes from {listed([str(n) for n in sorted(counts)], "or")} other seeds and, where there are data, '
      'from other data. All other options are the defaults'
      + (f', except {listed([f"`{name}({of})`" for name, of in fixed.items()])}.' if fixed else '.')
    )
    if absent := [name for name in GROUPS['all'] if name not in self.report.tasks]:
      yield f'**Not run: {listed(absent)}.** What follows says nothing of them.'
    for path, names in figures_of(pathlib.Path(self.report.figures['plot']), self.report.optimizers):
      yield f'![Score over steps and over learning rates: {listed(names)}]({path})'

  def leading(self) -> Iterator[str]:
    report, rows = self.report, []
    for task in report.tasks:
      best, *ties = report.leaders(task)
      behind = [name for name in report.cells(task) if name not in (best, *ties)]
      rows.append([task, report.tasks[task]['kind'], best, ', '.join(ties), ', '.join(behind)])
    yield grid(['task', 'kind', 'best', 'ties with the best', 'behind'], rows)
    yield 'Best, or a tie with the best, on every task of its kind:'
    kinds: dict[str, list[str]] = {}
    for task, about in report.tasks.items():
      kinds.setdefault(about['kind'], []).append(task)
    lines = []
    for kind, tasks in kinds.items():
      here = [name for name in report.optimizers if all(name in report.leaders(task) for task in tasks)]
      lines.append(f'- {kind} ({", ".join(tasks)}): {listed(here)}')
    yield '\n'.join(lines)
    count = Counter(name for task in report.tasks for name in report.leaders(task))
    tally = [
      f'{name} {count[name]} of {sum(name in report.cells(t) for t in report.tasks)}' for name in report.optimizers
    ]
    yield f'How often each is among the leaders: {", ".join(tally)}.'
    total = sum(len(report.cells(task)) - 1 for task in report.tasks)
    yield f'Of {total} intervals {0.05 * total:.1f} are expected to miss a true tie by chance.'

  def baseline(self) -> Iterator[str]:
    report, base = self.report, self.report.baseline
    others = [name for name in report.optimizers if name != base]
    if not others:
      yield 'No other optimizer took part.'
      return
    found = {
      name: {t: report.paired(t, base, name) for t in report.tasks if {base, name} <= set(report.cells(t))}
      for name in others
    }
    yield (
      f'The factor of the score (a difference on tasks with a range), {base} / the other, with its 95 % interval over '
      f'pairs of seeds. Below 1 (or 0) {base} is better.'
    )
    cell = lambda name, task: against(found[name][task]) if task in found[name] else ''
    yield grid(['', *others], [[task, *(cell(name, task) for name in others)] for task in report.tasks])
    lines = []
    for name in others:
      by = {word: [task for task, p in found[name].items() if p.verdict == word] for word in ('better', 'tie', 'worse')}
      lines.append(f'- {name}: {base} is {"; ".join(f"{word} on {listed(tasks)}" for word, tasks in by.items())}')
    yield (
      '\n'.join(lines).replace('is better on none; tie', 'is better on none; a tie').replace('; tie on', '; a tie on')
    )
    weak = [task for task in report.tasks if base in report.cells(task) and base not in report.leaders(task)]
    doubts = [f'{task} ({"; ".join(flags)})' for task in report.tasks if base in report.cells(task)
              and (flags := report.flags(task, base))]  # fmt: skip
    yield (f'**Weaknesses of {base}.** It is behind the best on {listed(weak)}. Flagged: {listed(doubts)}.')
    if peers := [name for name in others if ':' in name and name.rpartition(':')[2] in report.optimizers]:
      yield '\n'.join(self.cross_check(name) for name in peers)

  def cross_check(self, peer: str) -> str:
    own = peer.rpartition(':')[2]
    tasks = [task for task in self.report.tasks if {own, peer} <= set(self.report.cells(task))]
    gaps = [
      float(np.max(np.abs(self.report.scores(t, own) / self.report.scores(t, peer) - 1)))
      if self.report.cells(t)[own]['rate'] == self.report.cells(t)[peer]['rate'] else math.inf
      for t in tasks
    ]  # fmt: skip
    text = listed(
      [
        f'{gap:.1e} on {t}' if math.isfinite(gap) else f'another rate on {t}'
        for gap, t in zip(gaps, tasks, strict=True)
      ]
    )
    return f'Cross-check, `{peer}` against `{own}`: the largest relative difference of a test score is {text}.'

  def sensitivity(self) -> Iterator[str]:
    report = self.report
    yield (
      'The basin: the largest over the smallest learning rate whose tuning score is within 5 % of the best, without '
      'decay. Wider is easier to tune. ">=" stands where it reaches the end of what was tried.'
    )
    show = lambda cell: '' if cell is None else report_basin(cell)
    names = report.optimizers
    yield grid(['', *names], [[t, *(show(report.cells(t).get(name)) for name in names)] for t in report.tasks])
    rate = lambda cell: '' if cell is None else f'{cell["rate"]:.3g}' + (' EDGE' if cell['edges'] else '')
    yield 'The learning rate that was chosen:'
    yield grid(['', *names], [[t, *(rate(report.cells(t).get(name)) for name in names)] for t in report.tasks])
    edges = [(t, name) for t in report.tasks for name, cell in report.cells(t).items() if cell['edges']]
    total = sum(len(report.cells(t)) for t in report.tasks)
    where = f': {listed([f"{name} on {t}" for t, name in edges])}' if edges else ''
    yield f'The best setting is at an edge of what was tried in {len(edges)} of {total} cells{where}.'

  def task(self, name: str) -> Iterator[str]:
    report, about = self.report, self.report.tasks[name]
    yield (
      f'### {name}\n\n{about["title"]}. {about["steps"]:,} steps. Score: {about["unit"]}. Target: {about["target"]:g}, '
      f'looked at every {about["every"]} steps.'
    )
    yield grid(HEADER, [report.row(name, optimizer) for optimizer in report.ranked(name)])

  def footer(self) -> str:
    machine = self.figures['machine']
    versions = ', '.join(f'{package} {version}' for package, version in machine['versions'].items())
    seconds = sum(cell['seconds'] for task in self.report.tasks for cell in self.report.cells(task).values())
    return f'*{self.figures["date"]}, {seconds / 60:.0f} minutes of cells on {machine["cores"]} cores, {versions}*'


def report_basin(cell: dict[str, Any]) -> str:
  """The width of a basin."""
  return 'fails' if cell['basin'] is None else f'{">= " if cell["basin"]["open"] else ""}{cell["basin"]["width"]:.2g}'


LIMITS = """\
- Every task is small and short. Nothing was trained for more than minutes, and nothing says what holds at scale.
- Only learning rate and weight decay are tuned. Another b1, b2 or eps may serve an optimizer better, AdaBelief's eps
  above all.
- The schedule is the same for all. An optimizer that wants another one is not served.
- The search takes the best of a few settings on few tuning seeds. A lucky setting can be chosen, for any optimizer.
- Test data are the same for all test seeds. The intervals are over starts and batches, not over data sets.
- The target of a task is one number, from Adam or from a round figure. Steps to another one may give another order.
- A tie says that these seeds cannot tell two optimizers apart. Where the interval is wide it says little.
- Steps are counted, not seconds."""


def load(path: str | pathlib.Path) -> Report:
  """Reads the report that is kept in a file of JSON.

  Args:
    path: the file, such as `comparison.json` in the `output` of `main`.

  Returns:
    The `Report`.

  Example:
    >>> import tempfile
    >>> from belief_optax import comparison
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   report = comparison.main(['sgd'], ['absolute'], output=folder, progress=False)
    ...   again = comparison.load(f'{folder}/comparison.json')
    >>> again.markdown() == report.markdown()
    True
  """
  return Report(json.loads(pathlib.Path(path).read_text('utf-8')))
