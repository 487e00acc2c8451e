"""`belief-optax doctor`: what runs here, and whether it computes what it should."""

import argparse
import contextlib
import functools
import importlib.metadata
import inspect
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import belief_optax as bo
from belief_optax import optimizers
from belief_optax.cli import float64
from belief_optax.cli.answer import Answer, Table, add_format, needed_rich
from belief_optax.cli.signature import RATES
from belief_optax.execution import native

STEPS = 8  # the first adaptive step of a rectified optimizer is the sixth
SIZE = 1021  # elements of a column: a prime, so that the remainder of a vector loop is tested too
LIMIT = 32.0  # ulp of the largest element of a column: 2e-6 to 4e-6 of it, which is what the tests of the package allow
PACKAGES = ('jax', 'jaxlib', 'optax', 'numpy', 'llvmlite', 'flax', 'orbax-checkpoint', 'rich')


def add(commands: Any) -> None:
  """Declares the command."""
  parser = commands.add_parser(
    'doctor',
    help='versions, devices, the execution in force, donation, and a self-check of what XLA compiles here',
    description='Versions, devices, the execution in force, whether donation works, and a self-check: the first steps '
    "of each optimizer, compiled here, against its equations in NumPy's float64. Exit code 1 if something is off.",
  )
  parser.add_argument(
    '--seconds', type=_seconds, default=10.0, metavar='S', help='no row of the self-check begins later (default: 10)'
  )
  add_format(parser)
  parser.set_defaults(run=run)


def _seconds(text: str) -> float:
  try:
    value = float(text)
  except ValueError:
    value = -1.0
  if not 0 <= value <= 3600:
    raise argparse.ArgumentTypeError(f'must be a number of seconds from 0 to 3600, got {text!r}')
  return value


def run(arguments: argparse.Namespace) -> Answer:
  """The examination."""
  machine, execution, donated = _machine(), _execution(), donation()
  rows = self_check(arguments.seconds, progress=arguments.format != 'json' and sys.stderr.isatty())
  wrong = [row for row in rows if row.verdict == 'wrong']
  problems = [f'{row.optimizer} by {row.path} is {row.ulp:.3g} ulp off: {_ADVICE[row.path]}' for row in wrong]
  if donated:
    problems.append(f'donation: {donated}')
  data = {
    **machine,
    'execution': execution,
    'donation': {'works': not donated, 'why_not': donated},
    'self_check': [row._asdict() for row in rows],
    'limit_ulp': LIMIT,
    'problems': problems,
  }
  return Answer(data, _blocks(data, rows), int(bool(problems)))


_ADVICE = {
  'xla': 'this XLA does not compute what it was given. Look at XLA_FLAGS, or use another jaxlib.',
  'native': "the machine loop does not compute what it was given. Set BELIEF_OPTAX_EXECUTION='xla', and report it.",
}


def _machine() -> dict[str, Any]:
  versions = {'python': platform.python_version(), 'belief_optax': bo.__version__}
  for name in PACKAGES:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      versions[name] = importlib.metadata.version(name)
  kinds: dict[str, int] = {}
  for device in jax.devices():
    kind = f'{device.platform}: {device.device_kind}'
    kinds[kind] = kinds.get(kind, 0) + 1
  return {
    'versions': versions,
    'platform': platform.platform(),
    'devices': kinds,
    'x64': bool(jax.config.read('jax_enable_x64')),
    'xla_flags': os.environ.get('XLA_FLAGS', ''),
  }


def _execution() -> dict[str, Any]:
  found = bo.execution.explain(bo.adabelief(1e-3), jnp.zeros((8, 8)))
  (part,) = found.parts
  return {'mode': found.mode, 'path': 'native' if part.native else 'xla', 'why_not_native': part.reason}


def donation() -> str:
  """Why a step that donates parameters and state copies; '' if it does not."""
  tx, params = bo.adabelief(1e-3), jnp.ones((256, 256))
  state, grads = tx.init(params), jnp.ones((256, 256))
  old = [params, *jax.tree.leaves(state.slots)]
  places = [x.unsafe_buffer_pointer() for x in old]
  with warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter('always')
    params, state = jax.jit(tx.step, donate_argnums=(0, 1))(params, state, grads)
  new = [x.unsafe_buffer_pointer() for x in (params, *jax.tree.leaves(state.slots))]
  kept = sum(not x.is_deleted() for x in old)
  if kept:
    said = f' ({str(warned[0].message).splitlines()[0]})' if warned else ''
    return f'{kept} of {len(old)} donated arrays were not taken{said}'
  moved = len(set(new) - set(places))
  return f'{moved} of {len(new)} results have memory of their own' if moved else ''


# The self-check.


class Row(NamedTuple):
  """What the self-check says of an optimizer by one path.

  Attributes:
    optimizer: its name, with its options.
    path: `'xla'` or `'native'`.
    verdict: `'right'`, `'wrong'`, or `'not checked'`.
    ulp: the largest error of an update, in ulp of the largest element of its column; None if it was not checked.
    step: the step at which that was.
    why: why it was not checked.
  """

  optimizer: str
  path: str
  verdict: str
  ulp: float | None = None
  step: int | None = None
  why: str = ''


@functools.cache
def examined() -> dict[str, Any]:
  """The optimizers that are examined: a rectified one, whose step has most equations, and all of the public ones."""
  found = {'adabelief, rectified': bo.adabelief(1e-3, rectify=True, weight_decay=0.01)}
  for name in optimizers.__all__:
    parameters = inspect.signature(getattr(bo, name)).parameters.values()
    required = {p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    if required <= RATES.keys():  # what needs more is not for everyone
      found[name] = getattr(bo, name)(**{rate: RATES[rate] for rate in required})
  return found


def columns() -> tuple[np.ndarray, np.ndarray]:
  """Gradients [steps, 3, size] and parameters [3, size]: normal; tiny; four of five zero."""
  draw = np.random.default_rng(0)
  grads, params = draw.standard_normal((STEPS, 3, SIZE)), draw.standard_normal((3, SIZE))
  grads[:, 1] *= 1e-6
  params[1] *= 1e-6
  grads[:, 2] *= draw.random((STEPS, SIZE)) < 0.2
  return grads.astype(np.float32), params.astype(np.float32)


def compiled_updates(tx: Any, path: str) -> list[np.ndarray]:
  """The updates that are compiled here."""
  grads, params = columns()
  p, found = jnp.asarray(params), []
  with bo.execution.use('native' if path == 'native' else 'xla'):
    # A function of its own: jax.jit would find the other path's program under `tx.update`.
    update, state = jax.jit(lambda *args: tx.update(*args)), tx.init(p)
    for g in grads:
      u, state = update(jnp.asarray(g), state, p)
      found.append(np.asarray(u, np.float64))
  return found


def exact_updates(tx: Any) -> list[np.ndarray]:
  """The same in NumPy's float64."""
  grads, params = columns()
  p = jnp.asarray(params)
  state = tx.init(p)
  with bo.execution.use('xla'):  # whose equations are plain
    step = float64.trace(tx.update, p, state, p)
  flat, found = jax.tree.leaves(state), []
  for g in grads:
    u, *flat = step(g, *flat, params)
    found.append(u)
  return found


def error(u: np.ndarray, exact: np.ndarray) -> float:
  """The largest error in ulp of the largest element of a column; infinite where one is finite and the other not."""
  if not (np.isfinite(u).all() and np.isfinite(exact).all()):
    return 0.0 if np.array_equal(u, exact, equal_nan=True) else float('inf')
  largest = np.abs(exact).max(-1)
  ulp = np.spacing(np.maximum(largest, np.finfo(np.float32).tiny).astype(np.float32)).astype(np.float64)
  return float((np.abs(u - exact).max(-1) / ulp).max())


def self_check(seconds: float, progress: bool = False) -> list[Row]:
  """Each optimizer by each path, as far as the time goes."""
  end, rows = time.monotonic() + seconds, []
  jobs = [(name, tx, path) for name, tx in examined().items() for path in ('xla', 'native')]
  exact: dict[str, list[np.ndarray] | float64.Unknown] = {}
  for name, tx, path in _followed(jobs, progress):
    if time.monotonic() > end:
      rows.append(Row(name, path, 'not checked', why=f'{seconds:g} s were over; see --seconds'))
    else:
      rows.append(_row(name, tx, path, exact))
  return rows


def _row(name: str, tx: Any, path: str, exact: dict[str, Any]) -> Row:
  not_here = _why_not_native(tx) if path == 'native' else ''
  if name not in exact:
    try:
      exact[name] = exact_updates(tx)
    except float64.Unknown as e:
      exact[name] = e
  if not_here or isinstance(exact[name], float64.Unknown):
    return Row(name, path, 'not checked', why=not_here or str(exact[name]))
  errors = [error(u, of) for u, of in zip(compiled_updates(tx, path), exact[name], strict=True)]
  worst = max(errors)
  return Row(name, path, 'right' if worst <= LIMIT else 'wrong', worst, errors.index(worst) + 1)


def _why_not_native(tx: Any) -> str:
  """Why no machine loop takes its steps; '' where one does."""
  if not isinstance(tx, bo.Recipe):
    return 'it is no recipe'
  if why := native.available():
    return why
  with bo.execution.use('auto'):
    parts = bo.execution.explain(tx, jnp.zeros((3, SIZE))).parts
  return next((part.reason for part in parts if not part.native), '')


def _followed(jobs: list[Any], progress: bool) -> Iterator[Any]:
  """The jobs, with a bar on a terminal."""
  if not progress:
    yield from jobs
    return
  rich = needed_rich()
  with rich['Progress'](console=rich['Console'](stderr=True), transient=True) as bar:
    yield from bar.track(jobs, description='self-check')


# What it says.


def _blocks(data: dict[str, Any], rows: list[Row]) -> list[str | Table]:
  devices = ', '.join(f'{n} x {kind}' for kind, n in data['devices'].items())
  execution = data['execution']
  why = f' ({execution["why_not_native"]})' if execution['why_not_native'] else ''
  facts = [
    ('versions', ', '.join(f'{name} {version}' for name, version in data['versions'].items())),
    ('platform', data['platform']),
    ('devices', devices),
    ('float64', 'on' if data['x64'] else 'off'),
    ('execution', f'{execution["mode"]!r}: {execution["path"]}{why}'),
    (
      'donation',
      'works: a step that donates copies nothing' if data['donation']['works'] else data['donation']['why_not'],
    ),
  ]
  if data['xla_flags']:
    facts.insert(4, ('XLA_FLAGS', data['xla_flags']))
  of = {(row.optimizer, row.path): row for row in rows}
  cell: Callable[[Row], str] = lambda row: 'not checked' if row.ulp is None else f'{row.ulp:.2g} (step {row.step})'
  table = []
  for name in dict.fromkeys(row.optimizer for row in rows):
    pair = [of[name, path] for path in ('xla', 'native')]
    bad = any(row.verdict == 'wrong' for row in pair)
    why = '; '.join(dict.fromkeys(f'{row.path}: {row.why}' for row in pair if row.why))
    table.append((name, *map(cell, pair), '! wrong' if bad else why or 'right'))
  checked = sum(row.ulp is not None for row in rows)
  note = f'{STEPS} steps; ulp of the largest element of a column of {SIZE}; at most {LIMIT:g} are right.'
  said = data['problems'] or [f'No problem was found; {checked} of {len(rows)} rows were checked.']
  return [
    Table('This machine', ('', ''), facts),
    Table("Largest error against the equations in NumPy's float64", ('', 'xla, ulp', 'native, ulp', ''), table, note),
    *said,
  ]
