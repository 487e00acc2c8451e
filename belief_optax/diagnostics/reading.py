"""What was measured, as floats, as a table and as a picture."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from belief_optax.diagnostics.measurement import QUANTITIES, TOTAL, Measurements, MeasureState
from belief_optax.stores.convert import state_bytes

if TYPE_CHECKING:
  import os

  from matplotlib.axes import Axes
  from matplotlib.figure import Figure
  from rich.table import Table


def read(state: Any) -> dict[str, float]:
  """Reads what `measure` has measured last, as floats for a logger or a print.

  Args:
    state: a state of `measure`, or anything that holds one: that of a wrapper, a `TrainState`, an `nnx.Optimizer`, or
      the `Measurements` that a `jax.lax.scan` has stacked, one step at a time.

  Returns:
    A flat dict: the quantities of `measure` under their names, those of a group under `group/name`; `step`, the step
    that was measured; `state_bytes`, the bytes of the optimizer's state; and `skipped`, where a part of the state has a
    field of that name, which counts skipped steps. What was not measured is left out.

  Raises:
    ValueError: if nothing in `state` is a state of `measure`, or two are.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp
    >>> tx, params = bo.diagnostics.measure(bo.sgd(0.5), {'bias': '*b'}), {'b': jnp.ones(2), 'w': jnp.ones(2)}
    >>> _, state = tx.update(params, tx.init(params), params)
    >>> values = bo.diagnostics.read(state)
    >>> values['update_max'], values['bias/update_max'], values['rest/update_max'], values['step']
    (0.5, 0.5, 0.5, 1.0)
  """
  last, inner = _measured(state)
  last = jax.device_get(last)
  found = {'step': float(last.step)}
  for group in sorted(last.values, key=lambda name: (name != TOTAL, name)):
    for name, value in zip(QUANTITIES, map(float, last.values[group]), strict=True):
      if value >= 0 or np.isnan(value):
        found[name if group == TOTAL else f'{group}/{name}'] = value
  counters = [x.skipped for x in _nodes(state, lambda x: 'skipped' in getattr(x, '_fields', ()))]
  if counters:
    found['skipped'] = float(sum(_array(x) for x in counters))
  if inner is not None:
    found['state_bytes'] = float(state_bytes(inner))
  return found


def _nodes(tree: Any, chosen: Any) -> list[Any]:
  """The nodes of a tree that are chosen, and those inside of them."""
  nodes = [x for x in jax.tree.leaves(tree, is_leaf=chosen) if chosen(x)]
  inside = (child for node in nodes for child in node)
  return nodes + [x for child in inside for x in _nodes(child, chosen)]


def _measured(state: Any) -> tuple[Measurements, Any]:
  """The only measurements in a state, and the state of the optimizer that was measured, if it is there."""
  own = lambda x: isinstance(x, MeasureState | Measurements)
  nodes = [x for x in jax.tree.leaves(state, is_leaf=own) if own(x)]
  if len(nodes) != 1:
    raise ValueError(f'state must hold the state of one `measure`, but it holds {len(nodes)}.')
  (node,) = nodes
  last, inner = (node.last, node.inner) if isinstance(node, MeasureState) else (node, None)
  return Measurements(_array(last.step), {name: _array(x) for name, x in last.values.items()}), inner


def _array(x: Any) -> Any:
  """The array in a box of Flax, or the array itself."""
  (leaf,) = jax.tree.leaves(x)
  return leaf


def table(state: Any) -> 'Table':
  """Makes a table of what `measure` has measured last.

  Args:
    state: what `read` takes.

  Returns:
    A `rich.table.Table`: a row for each quantity, a column for the total and for each group. `rich.print` shows it.

  Raises:
    ValueError: if `state` holds no measurements.
    ImportError: if rich is not installed.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp
    >>> tx, params = bo.diagnostics.measure(bo.sgd(0.5)), jnp.ones(2)
    >>> _, state = tx.update(params, tx.init(params), params)
    >>> bo.diagnostics.table(state).title
    'step 1'
  """
  try:
    from rich.table import Table
  except ImportError as e:
    raise ImportError('diagnostics.table needs rich: pip install rich') from e
  found = read(state)
  groups = ['', *dict.fromkeys(name.rpartition('/')[0] for name in found if '/' in name)]
  rows = Table(title=f'step {found.pop("step"):.0f}')
  rows.add_column('quantity')
  for group in groups:
    rows.add_column(group or TOTAL, justify='right')
  for name in [*QUANTITIES, 'skipped', 'state_bytes']:
    cells = [found.get(f'{group}/{name}' if group else name) for group in groups]
    if any(cell is not None for cell in cells):
      rows.add_row(
        name, *('' if cell is None else f'{cell:,.0f}' if name in _COUNTS else f'{cell:.4g}' for cell in cells)
      )
  return rows


_COUNTS = ('skipped', 'state_bytes')

# title -> what is drawn, whether the scale is logarithmic
_PANELS: Mapping[str, tuple[Sequence[str], bool]] = {
  'learning rate': (('learning_rate',), False),
  'rectification': (('r_t', 'rectified'), False),
  'root mean squares': (('gradient_rms', 'direction_rms', 'update_rms', 'param_rms'), True),
  'largest elements': (('direction_max', 'update_max'), True),
  'update over parameter': (('update_to_param',), True),
  'what the moments expect': (('gradient_to_root_nu', 'residual_to_gradient'), True),
  'shares of the elements': (('eps_share', 'capped_share', 'lost_share'), False),
  'rounding of the state': (('mean_code_error', 'root_code_error'), False),
  'skipped steps': (('skipped',), False),
}
# The colours of Okabe and Ito, which stay apart for colour-blind readers.
_COLORS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7')


def plot(
  history: Sequence[Mapping[str, float]], path: 'str | os.PathLike[str] | None' = None, group: str = ''
) -> 'Figure':
  """Draws what was measured over the steps: one panel for each kind of quantity that is there.

  Args:
    history: what `read` gave at several steps.
    path: the file that is written; None for none.
    group: the group that is drawn; '' for all parameters.

  Returns:
    The `matplotlib.figure.Figure`, which needs no screen and is not known to pyplot.

  Raises:
    ValueError: if the history is empty, or has nothing of the group.
    ImportError: if matplotlib is not installed.

  Example:
    >>> import belief_optax as bo
    >>> figure = bo.diagnostics.plot([{'step': 1.0, 'update_rms': 0.1}, {'step': 2.0, 'update_rms': 0.2}])
    >>> [axes.get_title() for axes in figure.axes]
    ['root mean squares']
  """
  try:
    from matplotlib.figure import Figure
  except ImportError as e:
    raise ImportError('diagnostics.plot needs matplotlib: pip install matplotlib') from e
  prefix = f'{group}/' if group else ''
  panels = {
    title: ([name for name in names if any(prefix + name in entry for entry in history)], log)
    for title, (names, log) in _PANELS.items()
  }
  panels = {title: (names, log) for title, (names, log) in panels.items() if names}
  if not panels:
    raise ValueError(f'history has nothing to draw{f" of the group {group!r}" if group else ""}.')
  columns = min(3, len(panels))
  rows = -(-len(panels) // columns)
  figure = Figure(figsize=(4.2 * columns, 2.9 * rows), layout='constrained', dpi=150)
  for i, (title, (names, log)) in enumerate(panels.items()):
    axes = figure.add_subplot(rows, columns, i + 1)
    _draw(axes, history, prefix, names, log)
    axes.set_title(title, fontsize='medium')
    if i + columns >= len(panels):
      axes.set_xlabel('step')
  if path is not None:
    figure.savefig(path)
  return figure


def _draw(axes: 'Axes', history: Sequence[Mapping[str, float]], prefix: str, names: Sequence[str], log: bool) -> None:
  drawn = False
  for name, color in zip(names, _COLORS, strict=False):
    points = list(_points(history, prefix + name))
    axes.plot(*zip(*points, strict=True), color=color, linewidth=1.3, label=name)
    drawn |= any(y > 0 for _, y in points)
  if log and drawn:
    axes.set_yscale('log')
  axes.grid(alpha=0.25)
  axes.spines[['top', 'right']].set_visible(False)
  axes.margins(y=0.12)
  # Above the panel a legend hides nothing.
  axes.legend(loc='lower left', bbox_to_anchor=(0, 1.12), ncols=2, frameon=False, fontsize='x-small', borderaxespad=0)


def _points(history: Sequence[Mapping[str, float]], name: str) -> Iterator[tuple[float, float]]:
  return ((entry['step'], entry[name]) for entry in history if name in entry)
