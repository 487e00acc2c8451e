"""A cell is one optimizer on one task: tuned, then tested on other seeds and data. It is kept as one file of JSON."""

import hashlib
import importlib.metadata
import json
import os
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from belief_optax import __version__
from belief_optax.comparison.optimizers import Contender
from belief_optax.comparison.statistics import basin
from belief_optax.comparison.tasks.base import Task
from belief_optax.comparison.train import program, results, steps_to_target
from belief_optax.comparison.tune import BATCH, DECAYS, ROUNDS, Point, search

PROTOCOL = 1  # counts up when cells of before must not be mixed with those of now
TUNING = 1000  # the first tuning seed; test seeds begin at 0


def settings(task: Task, contender: Contender, rounds: int = ROUNDS) -> dict[str, Any]:
  """Everything that a cell depends on and that can be written down."""
  numbers = {key: value for key, value in task._asdict().items() if isinstance(value, bool | int | float | str)}
  held = hashlib.sha256(b''.join(np.asarray(x).tobytes() for x in jax.tree.leaves((task.tune, task.test)))).hexdigest()
  return {
    'protocol': PROTOCOL,
    'versions': {name: importlib.metadata.version(name) for name in ('jax', 'optax')} | {'belief_optax': __version__},
    'task': numbers,
    'held': held[:16],
    'optimizer': contender.name,
    'recipe': recipe(contender),
    'decays': list(DECAYS) if task.decays and contender.decays else [0.0],
    'rounds': rounds,
    'batch': BATCH,
  }


def recipe(contender: Contender) -> str:
  """The lines of the optimizer at rate 1 and decay 0.1; of a peer its name and options."""
  if ':' in contender.name:
    return f'{contender.name}({", ".join(f"{key}={value!r}" for key, value in contender.options.items())})'
  return repr(contender.make(1.0, 0.1))


def measure(
  task: Task, contender: Contender, rounds: int = ROUNDS, report: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
  """Tunes an optimizer on a task and tests it.

  Args:
    task: what is trained.
    contender: by which optimizer.
    rounds: the most rounds of `BATCH` settings in the search.
    report: told what is being done.

  Returns:
    The cell, of numbers, strings and lists; None stands for what is not finite.
  """
  began = time.perf_counter()
  run = program(task, contender)
  size, rows = BATCH * task.seeds, 0

  def curves(points: Sequence[Point], seeds: np.ndarray, held: Any) -> np.ndarray:
    """Scores [points, seeds, task.points]; the size of the population never changes, so it compiles once."""
    pairs = [(p.rate, p.decay, seed) for p in points for seed in seeds]
    rates, decays, drawn = (np.array(column) for column in zip(*pairs, strict=True))
    scores = run(jnp.float32(rates), jnp.float32(decays), jnp.int32(drawn), held)
    return np.asarray(scores, np.float64).reshape(len(points), len(seeds), -1)

  def evaluate(points: Sequence[Point]) -> list[float]:
    nonlocal rows
    rows += 1
    report(f'round {rows}')
    found = results(task, curves(points, TUNING + np.arange(task.seeds), task.tune))
    return found.mean(1).tolist()  # a setting that fails on one seed has failed

  decays = len(DECAYS) if task.decays and contender.decays else 1
  found = search(evaluate, contender.center, decays, rounds)
  report('test')
  tested = curves([found.best], np.arange(size), task.test)[0]
  row = sorted(p for p in found.scores if p.decay_index == 0)
  least = min(found.scores[p] for p in row)
  width = basin([p.rate for p in row], [found.scores[p] for p in row], task.limit(least))
  finite = np.where(np.isfinite(tested), tested, np.inf)
  shown = np.linspace(0, task.points - 1, min(task.points, 50)).astype(int)
  cell = {
    'settings': settings(task, contender, rounds),
    'rate': found.best.rate,
    'decay': found.best.decay,
    'edges': list(found.edges),
    'tuning': [[p.rate, p.decay, found.scores[p]] for p in sorted(found.scores)],
    'basin': {'width': width.width, 'open': width.open} if np.isfinite(least) else None,
    'scores': results(task, tested).tolist(),
    'steps_to_target': steps_to_target(task, tested).tolist(),
    'curve': {
      'steps': ((shown + 1) * task.every).tolist(),
      **{name: np.quantile(finite[:, shown], q, 0, method='nearest').tolist() for name, q in QUANTILES.items()},
    },
    'seconds': round(time.perf_counter() - began, 2),
  }
  return plain(cell)


QUANTILES = {'low': 0.25, 'median': 0.5, 'high': 0.75}


def plain(value: Any) -> Any:
  """Floats with six digits, and None for what JSON has no number for."""
  if isinstance(value, dict):
    return {key: plain(x) for key, x in value.items()}
  if isinstance(value, list | tuple):
    return [plain(x) for x in value]
  if isinstance(value, float):
    return float(f'{value:.6g}') if np.isfinite(value) else None
  return value


def path_of(folder: pathlib.Path, task: str, optimizer: str) -> pathlib.Path:
  """The file of a cell."""
  return folder / f'{task}--{optimizer.replace(":", "-")}.json'


def load(path: pathlib.Path, expected: dict[str, Any]) -> dict[str, Any] | None:
  """The cell of a file, if it was measured with the same settings; else None."""
  try:
    cell = json.loads(path.read_text('utf-8'))
  except (OSError, ValueError):
    return None
  return cell if isinstance(cell, dict) and cell.get('settings') == plain(expected) else None


def save(path: pathlib.Path, value: Any) -> None:
  """Writes JSON so that a reader sees the old file or the whole new one."""
  path.parent.mkdir(parents=True, exist_ok=True)
  beside = path.with_name(f'{path.name}.{os.getpid()}.part')
  beside.write_text(json.dumps(value, separators=(',', ':')) + '\n', 'utf-8')
  beside.replace(path)
