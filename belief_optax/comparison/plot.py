"""The plots of a comparison: the score over the steps, and over the learning rate."""

import math
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from belief_optax.comparison.colors import color_of, line_of

if TYPE_CHECKING:
  from belief_optax.comparison.report import Report

STYLE: dict[Any, Any] = {
  'axes.axisbelow': True,
  'axes.grid': True,
  'axes.spines.right': False,
  'axes.spines.top': False,
  'axes.titlesize': 'medium',
  'figure.dpi': 120,
  'font.size': 9,
  'grid.alpha': 0.25,
  'legend.frameon': False,
}


def draw(report: 'Report', path: pathlib.Path, names: Sequence[str]) -> pathlib.Path:
  """Two panels for each task, two tasks in a row, one legend below them."""
  import matplotlib as mpl
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  tasks = list(report.tasks)
  across = min(2, len(tasks))
  down = math.ceil(len(tasks) / across)
  widths = np.linspace(3.2, 1, max(2, len(names)))[: len(names)]  # equal lines stay visible
  with mpl.rc_context(STYLE):
    figure = Figure(figsize=(6.5 * across, 2.6 * down + 0.9), layout='constrained')
    FigureCanvasAgg(figure)
    panels = figure.subplots(down, 2 * across, squeeze=False).reshape(-1, 2)
    for (left, right), task in zip(panels, tasks, strict=False):
      for name, width in zip(names, widths, strict=True):
        if cell := report.cells(task).get(name):
          _curve(left, cell, {**_style(name), 'linewidth': width})
          _rates(right, cell, {**_style(name), 'linewidth': width})
      _finish(left, right, task, report.tasks[task])
    for axes in panels[len(tasks) :].flat:
      axes.set_axis_off()
    # The optimizers of all tasks, not those of the first one: a handle for each, drawn nowhere.
    handles = [panels[0, 0].plot([], [], linewidth=2, **_style(name))[0] for name in names]
    figure.legend(handles, names, loc='outside lower center', ncols=min(len(handles), 5 * across))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
  return path


def _style(name: str) -> dict[str, Any]:
  return {'color': color_of(name), 'linestyle': line_of(name)}


def _curve(axes: Any, cell: dict[str, Any], style: dict[str, Any]) -> None:
  low, median, high = (_finite(cell['curve'][name]) for name in ('low', 'median', 'high'))
  axes.plot(cell['curve']['steps'], median, **style)
  axes.fill_between(cell['curve']['steps'], low, high, color=style['color'], alpha=0.12, linewidth=0)


def _rates(axes: Any, cell: dict[str, Any], style: dict[str, Any]) -> None:
  row = [(rate, score) for rate, decay, score in cell['tuning'] if decay == 0]
  axes.plot([rate for rate, _ in row], _finite([score for _, score in row]), marker='o', markersize=3, **style)
  if {'lower rate', 'higher rate'} & set(cell['edges']):
    rate, score = min(row, key=lambda pair: math.inf if pair[1] is None else pair[1])
    axes.plot(rate, np.nan if score is None else score, 'o', markersize=8, mfc='none', color=style['color'])


def _finite(values: list[float | None]) -> np.ndarray:
  return np.array([np.nan if x is None else x for x in values], np.float64)


def _finish(left: Any, right: Any, task: str, about: dict[str, Any]) -> None:
  linear = about['worst'] is not None
  left.axhline(about['target'], color='black', linewidth=0.8, linestyle=':')
  left.set(title=f'{task}: score', xlabel='step (dotted: the target)')
  right.set(title='result over learning rate, no decay', xlabel='learning rate (ring: best at an edge)', xscale='log')
  for axes in (left, right):
    if not linear:
      axes.set_yscale('log')
  # A diverging rate would flatten all that matters.
  values = np.concatenate([line.get_ydata()[np.isfinite(line.get_ydata())] for line in right.get_lines()] or [[]])
  if not linear and len(values) and values.min() > 0:
    right.set_ylim(values.min() / 1.3, min(values.max() * 1.3, values.min() * 1e3))
