"""Scalars of a step, taken during the step: `measure`."""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.core
import jax.extend.core
import jax.numpy as jnp
import optax
from jax.core import Tracer
from jax.flatten_util import ravel_pytree

from belief_optax import formulas
from belief_optax.core import arguments
from belief_optax.core.piece import comparable
from belief_optax.core.step import COMPILED, Arrays, Plan, calls
from belief_optax.core.watching import watching
from belief_optax.diagnostics.observed import Observed, Sums, moved
from belief_optax.param_groups import Pattern, listing, matches, name_of, pattern_text
from belief_optax.sharding.placement import varying_axes

TOTAL, REST = 'total', 'rest'

SAMPLE = 8192

# What is measured: name -> its value, of what `Sums` holds.
_Quantity = Callable[[Sums], Any]


def _mean(name: str) -> _Quantity:
  return lambda sums: sums.weights[name][0] / jnp.maximum(sums.weights[name][1], 1)


def _rms(name: str) -> _Quantity:
  return lambda sums: jnp.sqrt(_mean(name)(sums))


def _peak(name: str) -> _Quantity:
  return lambda sums: sums.peaks[name]


def _ratio(a: str, b: str) -> _Quantity:
  """Of two roots of sums of squares; 0 where there is nothing to compare with."""
  return lambda sums: jnp.sqrt(formulas.safe_divide(sums.weights[a][0], sums.weights[b][0]))


QUANTITIES: Mapping[str, _Quantity] = {
  'learning_rate': _mean('learning_rate'),
  'r_t': _mean('r_t'),
  'rectified': _mean('rectified'),
  'gradient_rms': _rms('gradient'),
  'param_rms': _rms('param'),
  'direction_rms': _rms('direction'),
  'direction_max': _peak('direction'),
  'update_rms': _rms('update'),
  'update_max': _peak('update'),
  'update_to_param': _ratio('update', 'param'),
  'gradient_to_root_nu': _rms('surprise'),
  'residual_to_gradient': _ratio('residual', 'seen'),
  'eps_share': _mean('eps'),
  'capped_share': _mean('capped'),
  'lost_share': _mean('lost'),
  'mean_code_error': _ratio('mean_code_error', 'mean_code'),
  'root_code_error': _ratio('root_code_error', 'root_code'),
}


class Measurements(NamedTuple):
  """What was measured last.

  Attributes:
    step: int32, the step at which that was; 0 before the first.
    values: for each group, and for `total`, a float32 vector in the order of `QUANTITIES`; -1 stands for what was not
      measured, or has no meaning for its optimizer.
  """

  step: jax.Array
  values: dict[str, jax.Array]


class MeasureState(NamedTuple):
  """The state of `measure`.

  Attributes:
    inner: the state of the optimizer.
    finished: int32, the number of finished steps.
    last: what was measured last.
  """

  inner: Any
  finished: jax.Array
  last: Measurements


class Measure(optax.GradientTransformationExtraArgs):
  """What `measure` returns: a gradient transformation that compares, hashes and prints by its arguments."""

  __slots__ = ()

  def __repr__(self) -> str:
    plan: Settings = cast(Any, self.update).settings
    return f'measure({plan.tx!r}, groups={plan.groups!r}, every={plan.every}, sample={plan.sample})'


def measure(
  tx: optax.GradientTransformation,
  groups: Mapping[str, Pattern] | Callable[[str], str] | None = None,
  every: int = 1,
  sample: int | None = SAMPLE,
) -> Measure:
  r"""Measures what an optimizer does, during its steps, without changing a bit of them.

  The state carries scalars of the last step that was measured, for all parameters and for each group; `read` makes a
  flat dict of floats of them, `table` a table, `plot` a picture of a history:

  - `learning_rate`; `r_t` and `rectified`, whether rectification is active (r_t is 0 before);
  - `gradient_rms`, `param_rms`, `direction_rms` and `direction_max` (what the learning rate multiplies), `update_rms`
    and `update_max`, `update_to_param` (rms of the update over rms of the parameters);
  - `gradient_to_root_nu`: $\sqrt{\operatorname{mean}(g^2 / \hat v)}$, StableAdamW's RMS: far above 1, the second moment
    is too old for these gradients, and a spike may follow;
  - `residual_to_gradient`, the belief: rms of $g_t - m_t$ over rms of $g_t$, small where the mean foretells gradients;
  - `eps_share`: the share of elements where eps is at least half of the denominator, or of what is under its root;
  - `capped_share`: the share of elements that a line has clipped (a line that declares `caps = True`);
  - `lost_share`: the share of elements whose update is not 0, and leaves the parameter in its dtype as it is;
  - `mean_code_error` and `root_code_error`: the rounding of the store, relative to the mean and to the root of the
    second moment.

  What an optimizer does not have is left out. An optax transformation without a recipe has the norms alone, for which
  its step is computed twice where it is measured. Sums are taken in float32.

  The step itself runs as without `measure`, by XLA or the machine loop; beside it the same lines run on a part of each
  array, before that is overwritten. Sharded arrays are measured as a whole under `jax.jit`. Inside `jax.shard_map` sums
  run over the axes along which JAX knows the arrays to differ; with `check_vma=False` each device measures its part.

  Put it around the optimizer and inside of what runs that in a program of its own: `optax.MultiSteps(measure(tx), 4)`.

  Args:
    tx: any gradient transformation; what is inside of a recipe is seen in an `optax.chain`, `by_path`, `zero1`,
      `optax.inject_hyperparams` and other wrappers.
    groups: name -> pattern, as those of `by_path`: a glob over the whole path, a path, or a compiled regular
      expression. The first that matches counts; what none matches is the group `rest`. Or a function path -> name of
      its group, with which `optax.tree.map_params` cannot map the state. None for the total alone.
    every: the first step is measured, and those whose number this divides; the state keeps what was measured last.
    sample: about how many elements of each array are measured, evenly spread as whole rows where that is possible;
      None for all, which takes another pass over memory. Where a line looks at whole arrays all elements are measured.

  Returns:
    An `optax.GradientTransformationExtraArgs` with a `MeasureState`.

  Raises:
    TypeError: if `tx` is no gradient transformation, or an argument has a wrong type.
    ValueError: if `every` or `sample` is under 1, a group is called `total` or `rest`; at `init` if a pattern matches
      no parameter; at `update` if the recipe runs in a program of its own, where it cannot be seen.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp
    >>> tx, params = bo.diagnostics.measure(bo.adam(1e-3)), {'w': jnp.ones(2)}
    >>> updates, state = tx.update({'w': jnp.array([3.0, 4.0])}, tx.init(params), params)
    >>> values = bo.diagnostics.read(state)
    >>> [round(values[name], 4) for name in ('learning_rate', 'gradient_rms', 'direction_rms', 'update_to_param')]
    [0.001, 3.5355, 1.0, 0.001]

  References:
    Wortsman et al., Stable and low-precision training (https://arxiv.org/abs/2304.13013), section 3.4.
  """
  if not isinstance(tx, optax.GradientTransformation):
    raise TypeError(f'tx must be a gradient transformation, got {tx!r}.')
  settings = Settings(
    tx,
    _checked_groups(groups),
    arguments.positive_integer('every', every),
    None if sample is None else arguments.positive_integer('sample', sample),
  )
  return Measure(cast(Any, Init(settings)), cast(Any, Update(settings)))


def _checked_groups(groups: Any) -> Any:
  if groups is None or (callable(groups) and not isinstance(groups, Mapping)):
    return groups
  if not isinstance(groups, Mapping):
    raise TypeError(f'groups must be a mapping from names to patterns, a function or None, got {groups!r}.')
  for name, pattern in groups.items():
    if not isinstance(name, str) or not isinstance(pattern, str | re.Pattern):
      raise TypeError(f'groups must map names to globs or compiled regular expressions, got {name!r}: {pattern!r}.')
    if name in (TOTAL, REST):
      raise ValueError(f'groups must not have the name {name!r}, which has a meaning of its own.')
  return _Named(tuple(groups.items()))


class _Named(tuple[tuple[str, Pattern], ...]):
  """Names and patterns; a function path -> name."""

  __slots__ = ()

  def __call__(self, path: str) -> str:
    return next((name for name, pattern in self if matches(pattern, path)), REST)

  def __repr__(self) -> str:
    return repr(dict(self))

  def check(self, paths: Sequence[str]) -> None:
    """Raises where a pattern matches no parameter."""
    for name, pattern in self:
      if not any(matches(pattern, path) for path in paths):
        wanted = pattern if isinstance(pattern, str) else pattern.pattern
        raise ValueError(
          f'groups: {pattern_text(pattern)} of {name!r} matches no parameter. '
          f'The paths are: {listing(paths, [wanted])}.'
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Settings:
  """The arguments of `measure`."""

  tx: optax.GradientTransformation
  groups: Any
  every: int
  sample: int | None

  def _key(self) -> Any:
    return comparable(self.tx), comparable(self.groups), self.every, self.sample

  def __eq__(self, other: object) -> bool:
    return isinstance(other, Settings) and self._key() == other._key()

  def __hash__(self) -> int:
    return hash(self._key())

  def labels(self, tree: Any) -> tuple[str, ...]:
    """The group of each leaf; None is one."""
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: x is None)
    if self.groups is None:
      return (TOTAL,) * len(leaves)
    found = tuple(self.groups(name_of(path)) for path, _ in leaves)
    if odd := [x for x in found if not isinstance(x, str) or x == TOTAL]:
      raise ValueError(f'groups must give names other than {TOTAL!r}, got {odd[0]!r}.')
    return found


@dataclasses.dataclass(frozen=True)
class Init:
  """`init` of `measure`."""

  settings: Settings

  def __call__(self, params: Any) -> MeasureState:
    labels = self.settings.labels(params)
    if labels and isinstance(self.settings.groups, _Named):
      self.settings.groups.check([name_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)])
    nothing = lambda: jnp.full(len(QUANTITIES), -1, jnp.float32)
    # Of a mapping all names are there, whatever the parameters: optax.tree.map_params calls init with a placeholder.
    named = [*dict(self.settings.groups), REST] if isinstance(self.settings.groups, _Named) else labels
    values = {name: nothing() for name in dict.fromkeys([*named, TOTAL])}
    zero = lambda: jnp.zeros([], jnp.int32)
    return MeasureState(self.settings.tx.init(params), zero(), Measurements(zero(), values))


@dataclasses.dataclass(frozen=True)
class Update:
  """`update` of `measure`."""

  settings: Settings

  def __call__(self, updates: Any, state: MeasureState, params: Any = None, **extra: Any) -> tuple[Any, MeasureState]:
    if not isinstance(state, MeasureState):
      raise ValueError(f'measure needs a MeasureState, as its init makes it, but got {type(state).__name__}.')
    tx = optax.with_extra_args_support(self.settings.tx)
    step = jnp.asarray(optax.safe_increment(state.finished))
    every = self.settings.every
    # Where every step is due XLA is not told so: outside of a branch it keeps whole arrays of what a store decodes.
    notebook = _Notebook(self.settings, (step == 1) | (step % every == 0) if every > 1 else step > 0)
    with watching(notebook.look):
      new, inner = tx.update(updates, state.inner, params, **extra)
    if not notebook.pages:
      notebook.compare(functools.partial(tx.update, **extra), updates, state.inner, params)
    last = _last(tuple(state.last.values), notebook.pages, notebook.due, step, state.last)
    return new, MeasureState(inner, step, last)


def _program() -> Any:
  """Which program is being traced: something that compares equal as long as it is the same."""
  home: Any = (
    jax.extend.core if hasattr(jax.extend.core, 'get_opaque_trace_state') else jax.core
  )  # where older JAX has it
  return home.get_opaque_trace_state(convention='flax')


Page = dict[str, Sums]  # group -> what is known of it


class _Notebook:
  """What is measured of the recipes of one step.

  Attributes:
    settings: the arguments of `measure`.
    due: whether this step is measured.
    pages: what was measured, for each recipe.
  """

  def __init__(self, settings: Settings, due: Any) -> None:
    self.settings, self.due = settings, due
    self.pages: list[Page] = []
    self._program = _program()

  def look(self, plan: Plan, arrays: Arrays) -> Arrays:
    """Measures a recipe; the arrays that it returns are those, read before they are overwritten."""
    if _program() != self._program:
      raise ValueError(
        'measure: a wrapper runs the recipe in a program of its own (as optax.MultiSteps and optax.apply_if_finite do '
        'by lax.cond), where it cannot be seen: put measure inside of it, around the recipe.'
      )
    labels = self.settings.labels(plan.tree.unflatten(range(plan.tree.num_leaves)))
    page = functools.partial(_page, plan, labels, self.settings.sample)
    found = self._measured(page, arrays, _compiled(plan, labels, self.settings.sample))
    self.pages.append(found)
    return arrays._replace(**_afterwards(arrays.finished, found))

  def compare(self, update: Any, updates: Any, state: Any, params: Any) -> None:
    """Measures what is no recipe: its step is taken again."""
    page = functools.partial(_compared, update, self.settings)
    self.pages.append(self._measured(page, (updates, state, params), page))

  def _measured(self, page: Any, arrays: Any, compiled: Any) -> Page:
    arrays = jax.tree.map(jax.lax.stop_gradient, arrays)
    if not any(isinstance(x, Tracer) for x in jax.tree.leaves((arrays, self.due))):
      return compiled(arrays) if self.due else {}
    # One vector leaves the branch: XLA copies each constant but one that a branch returns.
    nothing, restore = ravel_pytree(jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(page, arrays)))
    found = jax.lax.cond(self.due, lambda arrays: ravel_pytree(page(arrays))[0], lambda _: nothing, arrays)
    return restore(found)


def _afterwards(finished: Any, found: Page) -> dict[str, Any]:
  """What makes a step begin after it was measured.

  XLA copies an array that is overwritten, unless it sees that all others have read it before. So the step is made to
  depend on what was read, in a way that changes nothing: no number is equal to itself, and is not.
  """
  if not found or not isinstance(finished, Tracer):
    return {}
  read = functools.reduce(jnp.add, (x.sum() for x in jax.tree.leaves(found)))
  never = (read != read) & (read == read)
  return {'after': never, 'finished': finished + never.astype(finished.dtype)}


def _page(plan: Plan, labels: tuple[str, ...], sample: int | None, arrays: Arrays) -> Page:
  """What is known of the arrays of a recipe, by group."""
  lines = plan.lines.unflatten(arrays.hyper)
  every = None if not all(line.elementwise for line in lines) else sample
  with jax.numpy_dtype_promotion('standard'):
    found = calls(plan, arrays, functools.partial(Observed, sample=every))
    moving = (label for label, g in zip(labels, arrays.grads, strict=True) if g is not None)
    page: Page = {}
    for label, call in zip(moving, found, strict=True):
      sums = _everywhere(call.rule(*call.arrays, call.scalars[:-1], call.scalars[-1]), call.arrays)
      _add(page, label, sums)
  return page


@functools.lru_cache(COMPILED)
def _compiled(plan: Plan, labels: tuple[str, ...], sample: int | None) -> Callable[[Arrays], Page]:
  return jax.jit(functools.partial(_page, plan, labels, sample))


def _compared(update: Any, settings: Settings, arrays: Any) -> Page:
  """What is known of any transformation: its step is taken again, behind a barrier, so that both round alone."""
  updates, state, params = jax.lax.optimization_barrier(arrays)
  new, _ = update(updates, state, params)
  leaves, tree = jax.tree.flatten(updates, is_leaf=lambda x: x is None)
  us = tree.flatten_up_to(new)
  ps = [None] * len(leaves) if params is None else tree.flatten_up_to(params)
  page: Page = {}
  for label, g, u, p in zip(settings.labels(updates), leaves, us, ps, strict=True):
    if g is not None:
      sums = _everywhere(moved(g, u, p), (g, u, p))
      _add(page, label, sums)
  return page


def _add(page: Page, label: str, sums: Sums) -> None:
  page[label] = page[label] + sums if label in page else sums


def _everywhere(sums: Sums, arrays: Any) -> Sums:
  """The sums over all devices, inside of `jax.shard_map`, along the axes on which one of the arrays differs."""
  axes = tuple(sorted({axis for x in jax.tree.leaves(arrays) for axis in varying_axes(x)}))
  if not axes:
    return sums
  of = lambda collective, values: {name: collective(x, axes) for name, x in values.items()}
  return Sums(of(jax.lax.psum, sums.weights), of(jax.lax.pmax, sums.peaks))


@functools.partial(jax.jit, static_argnums=0, inline=True)
def _last(groups: tuple[str, ...], pages: list[Page], due: Any, step: Any, last: Measurements) -> Measurements:
  """What is measured of this step, or what was measured last."""
  known: Page = {}
  for page in pages:
    for name, sums in page.items():
      for label in dict.fromkeys([name, TOTAL]):
        _add(known, label, sums)
  if unknown := set(known) - set(groups):
    raise ValueError(f'measure: the groups {sorted(unknown)} are not those of init, {sorted(groups)}.')
  new = Measurements(step, {name: _vector(known.get(name, Sums({}, {}))) for name in groups})
  return jax.tree.map(functools.partial(jnp.where, due), new, last)


def _vector(sums: Sums) -> Any:
  return jnp.stack([_value(of, sums) for of in QUANTITIES.values()])


def _value(of: _Quantity, sums: Sums) -> Any:
  try:
    return of(sums).astype(jnp.float32)
  except KeyError:
    return jnp.float32(-1)
