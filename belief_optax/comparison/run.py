"""The whole comparison: cell by cell, in one process or in several, resumable."""

import concurrent.futures
import contextlib
import datetime
import functools
import importlib.metadata
import importlib.util
import multiprocessing
import os
import pathlib
import platform
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import jax

import belief_optax as bo
from belief_optax.comparison import cells
from belief_optax.comparison.optimizers import OPTIONS, contender, contenders
from belief_optax.comparison.report import Report
from belief_optax.comparison.tasks import names as task_names
from belief_optax.comparison.tasks import task as task_of
from belief_optax.comparison.tune import ROUNDS

QUICK_ROUNDS = 2


def main(
  names: str | Iterable[str],
  tasks: str | Iterable[str],
  quick: bool = True,
  output: str | os.PathLike[str] | None = None,
  progress: bool = True,
  *,
  workers: int = 1,
  resume: bool = False,
) -> Report:
  """Compares optimizers on equal terms: the same budget, search, starts and batches for all of them.

  Args:
    names: optimizers of belief_optax, or `optax:NAME`.
    tasks: tasks (`digits`, `letters`, `cartpole`, ...) or groups of them (`all`, `landscapes`, `tables`, `images`,
      `physics`).
    quick: whether to take a quarter of the steps and one tuning seed: a smoke test, no evidence.
    output: a folder for the cells, `comparison.json`, `comparison.md` and `comparison.png`; None keeps nothing.
    progress: whether to show it, on stderr.
    workers: how many processes share the cells; 1 works in this one.
    resume: whether to take cells from `output` that an earlier run has finished with the same settings.

  Returns:
    A `Report`.

  Raises:
    ImportError: if scikit-learn, matplotlib or rich is missing.
    TypeError: if a flag is no bool or `workers` no integer.
    ValueError: if an optimizer or a task is unknown, none is named, or `workers` is below 1.

  Example:
    >>> from belief_optax import comparison
    >>> report = comparison.main(['adabelief', 'sgd'], ['absolute'], progress=False)
    >>> report.as_dict()['cells']['absolute']['adabelief']['edges']
    []
  """
  found = [one.name for one in contenders(names)]
  wanted = [(task, name) for task in task_names(tasks) for name in found]
  return compare(wanted, quick, output, progress, workers=workers, resume=resume)


def compare(
  wanted: Iterable[tuple[str, str]],
  quick: bool = True,
  output: str | os.PathLike[str] | None = None,
  progress: bool = True,
  *,
  workers: int = 1,
  resume: bool = False,
) -> Report:
  """`main` for any pairs of task and optimizer."""
  needs_extra()
  for flag, value in (('quick', quick), ('progress', progress), ('resume', resume)):
    bo.core.flag(flag, value)
  workers = bo.core.positive_integer('workers', workers)
  if resume and output is None:
    raise ValueError('resume=True needs output=, the folder of the run that is to be resumed.')
  folder = None if output is None else pathlib.Path(output)
  if folder is not None:
    folder.mkdir(parents=True, exist_ok=True)
  wanted = list(dict.fromkeys(wanted))
  done: dict[tuple[str, str], Any] = {}
  if resume and folder is not None:
    for task, name in wanted:
      expected = cells.settings(task_of(task, quick), contender(name), rounds(quick))
      if (cell := cells.load(cells.path_of(folder / 'cells', task, name), expected)) is not None:
        done[task, name] = cell
  with _shown(progress, len(wanted), len(done)) as show:
    for pair, cell in _measured([pair for pair in wanted if pair not in done], quick, workers, show):
      done[pair] = cell
      if folder is not None:
        cells.save(cells.path_of(folder / 'cells', *pair), cell)
      show(f'{pair[0]}, {pair[1]}: {cell["seconds"]:.1f} s', finished=True)
  report = assembled({pair: done[pair] for pair in wanted}, quick)
  if folder is not None:
    write(report, folder)
  return report


def rounds(quick: bool) -> int:
  """The most rounds of a search."""
  return QUICK_ROUNDS if quick else ROUNDS


def needs_extra() -> None:
  """Raises an ImportError where the extra `examples` is missing."""
  extra = {'scikit-learn': 'sklearn', 'matplotlib': 'matplotlib', 'rich': 'rich'}
  missing = [package for package, module in extra.items() if not _importable(module)]
  if missing:
    raise ImportError(f'the comparison needs {", ".join(missing)}: pip install "belief_optax[examples]".')


def _importable(module: str) -> bool:
  if module in sys.modules:
    return sys.modules[module] is not None
  return importlib.util.find_spec(module) is not None


def _one(pair: tuple[str, str], quick: bool, report: Any = lambda _: None) -> Any:
  task, name = pair
  try:
    return cells.measure(task_of(task, quick), contender(name), rounds(quick), report)
  except Exception as e:
    e.add_note(f'{name} on {task}')
    raise


def _measured(pairs: list[tuple[str, str]], quick: bool, workers: int, show: Any) -> Iterator[tuple[Any, Any]]:
  if workers == 1 or len(pairs) < 2:
    for pair in pairs:
      yield pair, _one(pair, quick, lambda what, pair=pair: show(f'{pair[0]}, {pair[1]}: {what}'))
    return
  # One thread each: two small programs side by side use two cores better than one does.
  pool = concurrent.futures.ProcessPoolExecutor(workers, multiprocessing.get_context('spawn'), _single_threaded)
  with pool:
    running = {pool.submit(functools.partial(_one, pair, quick)): pair for pair in pairs}
    try:
      for one in concurrent.futures.as_completed(running):
        yield running[one], one.result()
    except BaseException:
      pool.shutdown(wait=False, cancel_futures=True)
      raise


def _single_threaded() -> None:
  """Before the backend of a worker starts."""
  os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} --xla_cpu_multi_thread_eigen=false'.strip()
  jax.config.update('jax_platforms', 'cpu')


@contextlib.contextmanager
def _shown(progress: bool, total: int, done: int) -> Iterator[Any]:
  from rich.console import Console
  from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

  console = Console(stderr=True, highlight=False)
  columns = (
    TextColumn('{task.description:36}'),
    BarColumn(),
    MofNCompleteColumn(),
    TimeElapsedColumn(),
    TimeRemainingColumn(),
  )
  bars = Progress(*columns, console=console, disable=not (progress and console.is_terminal), transient=True)
  with bars:
    bar = bars.add_task('compiling', total=total, completed=done)

    def show(what: str, finished: bool = False) -> None:
      bars.update(bar, advance=int(finished), description=what)
      if progress and finished and not console.is_terminal:
        console.print(what)

    yield show


def machine() -> dict[str, Any]:
  """Where the figures come from."""
  versions = {name: importlib.metadata.version(name) for name in ('jax', 'optax', 'scikit-learn')}
  cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
  return {
    'cores': cores,
    'platform': platform.platform(),
    'versions': {'python': platform.python_version(), 'belief_optax': bo.__version__, **versions},
  }


def assembled(done: dict[tuple[str, str], Any], quick: bool) -> Report:
  """The report of cells."""
  names = list(dict.fromkeys(name for _, name in done))
  found = dict.fromkeys(task for task, _ in done)
  recipes = {name: next(cell for (_, own), cell in done.items() if own == name)['settings']['recipe'] for name in names}
  about = {task: next(cell for (own, _), cell in done.items() if own == task)['settings']['task'] for task in found}
  bare = lambda cell: {key: value for key, value in cell.items() if key != 'settings'}
  return Report(
    {
      'date': datetime.datetime.now(datetime.UTC).isoformat(timespec='minutes'),
      'quick': quick,
      'machine': machine(),
      'plot': 'comparison.png',
      'optimizers': names,
      'options': {
        name: ', '.join(f'{key}={x}' for key, x in OPTIONS[name].items()) for name in names if name in OPTIONS
      },
      'recipes': recipes,
      'tasks': {task: {'worst': None, **about[task]} for task in found},
      'cells': {task: {name: bare(done[task, name]) for name in names if (task, name) in done} for task in found},
    }
  )


def write(report: Report, folder: pathlib.Path) -> None:
  """Figures, text and plot into a folder."""
  cells.save(folder / 'comparison.json', report.as_dict())
  (folder / 'comparison.md').write_text(report.markdown(), 'utf-8')
  report.plot(folder / 'comparison.png')
