"""Guards: steps that are not taken, and steps that wait until enough gradients have come.

Both wrap any optax transformation. Where nothing moves, `jax.lax.cond` hands the state through, so that a step that is
not taken costs nothing and a step that is taken costs what it costs without a guard.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, cast

import jax
import jax.export
import jax.numpy as jnp
import optax
from jax.core import Tracer
from jax.typing import DTypeLike

from belief_optax import execution
from belief_optax.core import arguments, dtypes, watching
from belief_optax.core.piece import comparable
from belief_optax.one_pass import step as step_of
from belief_optax.sharding.placement import varying_axes

__all__ = [
  'AccumulateState',
  'SkipUnhealthyState',
  'accumulate',
  'forget',
  'raise_if_unhealthy',
  'report',
  'skip_unhealthy',
]

Watch = Literal['norm', 'value', 'both']
AxisName = str | tuple[str, ...]

STEADY = 0.01  # the least spread of a history, relative to its mean: full batches hardly differ


class Guarded(optax.GradientTransformationExtraArgs):
  """What a guard returns: a gradient transformation that compares, hashes and prints by its arguments.

  `init(params)` and `update(updates, state, params=None, **extra_args)` are optax's.
  """

  __slots__ = ()

  def step(self, params: Any, state: Any, grads: Any, **extra: Any) -> tuple[Any, Any]:
    """One step: what `update` and `optax.apply_updates` do, as `belief_optax.step` does it.

    Args:
      params: the parameters.
      state: the state, as `init` makes it.
      grads: the gradients, a tree like the parameters.
      **extra: extra arguments, such as `value`, the loss.

    Returns:
      The new parameters, in their dtypes, and the new state.

    Example:
      >>> import belief_optax as bo, jax.numpy as jnp
      >>> tx, params = bo.skip_unhealthy(bo.sgd(0.5)), jnp.ones(2)
      >>> params, state = tx.step(params, tx.init(params), jnp.array([1.0, jnp.nan]))
      >>> print(params, state.skipped)
      [1. 1.] 1
    """
    return cast(Any, self.update).step(params, state, grads, **extra)

  def __repr__(self) -> str:
    return repr(cast(Any, self.update).guard)


# What guards share.


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class _Guard:
  """The arguments of a guard: a value."""

  tx: optax.GradientTransformation

  name: ClassVar[str]

  def _key(self) -> Any:
    return type(self), *(comparable(getattr(self, field.name)) for field in dataclasses.fields(self))

  def __eq__(self, other: object) -> bool:
    return isinstance(other, _Guard) and self._key() == other._key()

  def __hash__(self) -> int:
    return hash(self._key())

  def __repr__(self) -> str:
    fields = [field.name for field in dataclasses.fields(self)][1:]
    return f'{self.name}({self.tx!r}, {", ".join(f"{name}={getattr(self, name)!r}" for name in fields)})'

  @property
  def transformation(self) -> Guarded:
    if not isinstance(self.tx, optax.GradientTransformation):
      raise TypeError(f'tx must be a gradient transformation, got {self.tx!r}.')
    return Guarded(cast(Any, _Init(self)), cast(Any, _Update(self)))

  def init(self, params: Any) -> Any:
    raise NotImplementedError

  def advance(self, params: Any, state: Any, grads: Any, extra: Mapping[str, Any], applies: bool) -> tuple[Any, Any]:
    """New parameters where it `applies` them, else updates, and the next state."""
    raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class _Init:
  guard: _Guard

  def __call__(self, params: Any) -> Any:
    return self.guard.init(params)


@dataclasses.dataclass(frozen=True)
class _Update:
  guard: _Guard

  def __call__(self, updates: Any, state: Any, params: Any = None, **extra_args: Any) -> tuple[Any, Any]:
    return self._run(params, state, updates, extra_args, False)

  def step(self, params: Any, state: Any, grads: Any, **extra: Any) -> tuple[Any, Any]:
    if params is None:
      raise ValueError('step returns parameters, so it needs them: call step(params, state, grads).')
    return self._run(params, state, grads, extra, True)

  def _run(self, params: Any, state: Any, grads: Any, extra: dict[str, Any], applies: bool) -> tuple[Any, Any]:
    traced = any(isinstance(x, Tracer) for x in jax.tree.leaves((params, state, grads, extra)))
    numbers = all(arguments.is_array(x) or isinstance(x, float) for x in jax.tree.leaves(extra))
    if traced or not numbers:  # in a trace there is nothing to compile; what is no number cannot be an argument
      return self.guard.advance(params, state, grads, extra, applies)
    # Who watches sees a step while it is traced: what was compiled unseen is not the same.
    return self._compiled((execution.current(), watching.watched()), params, state, grads, extra, applies)

  @functools.cached_property
  def _compiled(self) -> Any:
    """The step, compiled: an eager `cond` would be compiled at every call. It lives as long as this does."""
    run = lambda _how, *args: self.guard.advance(*args)
    return jax.jit(run, static_argnums=(0, 5))

  def __getstate__(self) -> dict[str, Any]:
    return {'guard': self.guard}


def _act(tx: Any, params: Any, state: Any, grads: Any, extra: Mapping[str, Any], applies: bool) -> tuple[Any, Any]:
  """The step of what is guarded. Its state keeps its dtypes: some states of optax take those of the gradients."""
  if applies:
    result, new = step_of(tx, params, state, grads, **extra)
  else:
    result, new = optax.with_extra_args_support(tx).update(grads, state, params, **extra)
  return result, jax.tree.map(lambda x, old: x if dtypes.of(x) == dtypes.of(old) else x.astype(old.dtype), new, state)


def _still(like: Any, params: Any, grads: Any, applies: bool) -> Any:
  """What a step that is not taken returns: the parameters, or updates that change none of their bits."""
  if applies:
    return params
  # Minus 0, because -0 + 0 is 0.
  zero = lambda u, g: u if u is None else -jnp.zeros_like(g, dtype=u.dtype)
  return jax.tree.map(zero, like, grads, is_leaf=lambda x: x is None)


# Steps that are not taken.


class SkipUnhealthyState(NamedTuple):
  """The state of `skip_unhealthy`.

  Attributes:
    inner_state: the state of what it guards.
    recent: float32 [signals, window], what was seen at the last steps that were taken, the newest last; 0 where there
      was none yet. The signals are the norm of the gradients and the value, as far as they are watched.
    seen: int32, how many of them there are.
    skipped: int32, how many steps were not taken.
    not_finite: int32, for how many of these something was not finite.
    consecutive: int32, how many of the last steps were not taken, one after another.
    failed: bool, whether `max_consecutive` of them ever were. It stays.
  """

  inner_state: Any
  recent: jax.Array
  seen: jax.Array
  skipped: jax.Array
  not_finite: jax.Array
  consecutive: jax.Array
  failed: jax.Array


jax.export.register_namedtuple_serialization(
  SkipUnhealthyState, serialized_name='belief_optax.guards.SkipUnhealthyState'
)


def skip_unhealthy(
  tx: optax.GradientTransformation,
  *,
  window: int = 128,
  sigma: float | None = 6.0,
  watch: Watch = 'norm',
  max_consecutive: int = 10,
  axis_name: AxisName | None = None,
) -> Guarded:
  r"""Takes no step where the gradients are not finite, or far larger than those before them.

  With the global norm $n_t$ of the gradients, and $\mu$ and $s$ the mean and the standard deviation of the last
  `window` norms of steps that were taken, a step is not taken where

  $$n_t \text{ is not finite, or } n_t > \mu + \sigma \max(s, \mu / 100).$$

  Then the parameters and the state of `tx` stay as they are, to the bit: nothing of the gradient is kept, and nothing
  decays. Updates are 0. Only too large is unhealthy. The second test begins when half a window has been seen, as in
  OLMo; until then only what is not finite is skipped. A norm of 0 says nothing of the scale and is not remembered. A
  norm above 1.8e19, whose square is no float32, counts as not finite.

  A norm whose level has changed for good would be skipped for ever, as only steps that were taken are remembered. So
  look at the state now and then: `raise_if_unhealthy` raises once `max_consecutive` steps in a row were skipped, and
  `forget` begins a new history.

  Inside `jax.shard_map` it sums over the axes along which the gradients differ, so that all devices decide alike; the
  state stays the same on each. `jax.pmap`, and `check_vma=False`, do not tell: name the axes.

  Args:
    tx: the optimizer, any optax transformation.
    window: how many norms are remembered.
    sigma: how many standard deviations are too many; None to skip only what is not finite.
    watch: `'norm'` for the norm of the gradients, `'value'` for the loss that `update(..., value=loss)` is given, or
      `'both'`. Where a value is given it must be finite, whatever is watched.
    max_consecutive: how many skipped steps in a row are a failure. The skipping goes on.
    axis_name: the axes of `jax.pmap` or `jax.shard_map` over which the devices decide together.

  Returns:
    An `optax.GradientTransformationExtraArgs` with a `step`; two are equal if their arguments are.

  Raises:
    TypeError: if `tx` is no gradient transformation, or an argument has a wrong type.
    ValueError: if a number is out of range or `watch` unknown; at `update` if the watched value is missing.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp
    >>> tx, params = bo.skip_unhealthy(bo.adamw(0.1)), jnp.ones(2)
    >>> state = tx.init(params)
    >>> updates, state = tx.update(jnp.array([1.0, jnp.inf]), state, params, value=0.5)
    >>> bool((updates == 0).all()), int(state.skipped), int(state.inner_state.count)
    (True, 1, 0)

  References:
    Team OLMo, 2 OLMo 2 Furious (https://arxiv.org/abs/2501.00656) and its SkipStepOptimizer, whose history also holds
    what was skipped.
  """
  if arguments.positive_integer('window', window) < 2:
    raise ValueError(f'window must be an integer >= 2, got {window!r}.')
  if sigma is not None and not (isinstance(sigma, int | float) and not isinstance(sigma, bool)):
    raise TypeError(f'sigma must be a number or None, got {sigma!r}.')
  if sigma is not None and not 0 < sigma < math.inf:
    raise ValueError(f'sigma must be a finite number > 0 or None, got {sigma!r}.')
  arguments.choice('watch', watch, Watch)
  arguments.positive_integer('max_consecutive', max_consecutive)
  axes = (axis_name,) if isinstance(axis_name, str) else () if axis_name is None else axis_name
  if not (isinstance(axes, tuple) and all(isinstance(axis, str) for axis in axes)):
    raise TypeError(f'axis_name must be a name, a tuple of names or None, got {axis_name!r}.')
  return _SkipUnhealthy(tx, int(window), sigma, watch, int(max_consecutive), axes).transformation


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class _SkipUnhealthy(_Guard):
  window: int
  sigma: float | None
  watch: Watch
  max_consecutive: int
  axis_name: tuple[str, ...]

  name = 'skip_unhealthy'

  def init(self, params: Any) -> SkipUnhealthyState:
    shape = (1 + (self.watch == 'both'), self.window if self.sigma is not None else 0)
    none = functools.partial(jnp.zeros, (), jnp.int32)
    return SkipUnhealthyState(
      self.tx.init(params), jnp.zeros(shape, jnp.float32), none(), none(), none(), none(), jnp.zeros((), bool)
    )

  def advance(
    self, params: Any, state: SkipUnhealthyState, grads: Any, extra: Mapping[str, Any], applies: bool
  ) -> tuple[Any, SkipUnhealthyState]:
    norm, value = global_norm(grads, self.axis_name), self._value(extra.get('value'))
    watched = jnp.stack([x for x in self._watched(norm, value) if x is not None])
    finite = jnp.isfinite(norm) & (True if value is None else jnp.isfinite(value))
    healthy = finite & ~self._is_spike(state, watched)
    act = lambda p, s, g: _act(self.tx, p, s, g, extra, applies)
    like = None if applies else jax.eval_shape(act, params, state.inner_state, grads)[0]
    stay = lambda p, s, g: (_still(like, p, g, applies), s)
    result, inner = jax.lax.cond(healthy, act, stay, params, state.inner_state, grads)
    return result, self._counted(state, inner, watched, healthy, finite, norm)

  def _value(self, value: Any) -> Any:
    if value is None:
      return None
    if jnp.ndim(value) or jnp.iscomplexobj(value):
      raise ValueError(f'value must be a real scalar, the loss, got shape {jnp.shape(value)} of {dtypes.of(value)}.')
    value = jnp.asarray(value, jnp.float32)
    axes = _axes(value, self.axis_name)
    return jax.lax.pmean(value, axes) if axes else value

  def _watched(self, norm: Any, value: Any) -> Sequence[Any]:
    if self.watch != 'norm' and value is None:
      raise ValueError(f'skip_unhealthy(watch={self.watch!r}) needs the loss: call update(..., value=loss).')
    return {'norm': (norm,), 'value': (value,), 'both': (norm, value)}[self.watch]

  def _is_spike(self, state: SkipUnhealthyState, watched: Any) -> Any:
    if self.sigma is None:
      return jnp.zeros((), bool)
    return jnp.any(watched > largest_usual(state.recent, state.seen, self.sigma)) & (2 * state.seen >= self.window)

  def _counted(
    self, state: SkipUnhealthyState, inner: Any, watched: Any, healthy: Any, finite: Any, norm: Any
  ) -> SkipUnhealthyState:
    recent, seen = state.recent, state.seen
    if self.sigma is not None:
      remember = healthy & (norm > 0)
      recent = jnp.where(remember, jnp.concatenate([recent[:, 1:], watched[:, None]], 1), recent)
      seen = jnp.minimum(seen + remember, self.window)
    consecutive = jnp.where(healthy, 0, optax.safe_increment(state.consecutive))
    more = lambda count, on: jnp.where(on, optax.safe_increment(count), count)
    return SkipUnhealthyState(
      inner,
      recent,
      seen,
      more(state.skipped, ~healthy),
      more(state.not_finite, ~finite),
      consecutive,
      state.failed | (consecutive >= self.max_consecutive),
    )


def largest_usual(recent: jax.Array, seen: jax.Array, sigma: float) -> jax.Array:
  """The largest value that is no spike, for each signal: `sigma` standard deviations above the mean of its history."""
  window = recent.shape[-1]
  present = jnp.arange(window) >= window - seen
  mean = jnp.sum(jnp.where(present, recent / jnp.maximum(seen, 1), 0), -1)
  # Divided before it is squared, as norms go up to the root of the largest number.
  off = jnp.where(present, recent - mean[:, None], 0) / jnp.sqrt(jnp.maximum(seen - 1, 1).astype(recent.dtype))
  return mean + sigma * jnp.maximum(jnp.sqrt(jnp.sum(off * off, -1)), STEADY * jnp.abs(mean))


def global_norm(grads: Any, axis_name: Sequence[str] = ()) -> jax.Array:
  """The norm of all gradients, summed over the devices along axes: float32, at least 0 or not finite."""
  leaves = [g for g in jax.tree.leaves(grads) if jnp.issubdtype(dtypes.of(g), jnp.inexact)]
  wide = (dtypes.widen(jnp.asarray(g), dtypes.compute_dtype(g)) for g in leaves)
  total = sum((jnp.sum(jnp.real(g * jnp.conj(g))) for g in wide), jnp.zeros((), jnp.float32))
  axes = _axes(total, axis_name)
  return jnp.sqrt(jax.lax.psum(total, axes) if axes else total).astype(jnp.float32)


def _axes(x: Any, named: Sequence[str]) -> tuple[str, ...]:
  """The axes over which devices have to agree on a number: those that are named, and those along which it differs."""
  return tuple(dict.fromkeys([*named, *sorted(varying_axes(x))]))


# What the host reads.


def report(state: Any) -> dict[str, int]:
  """Counts what the guards in a state have skipped, as numbers for a log.

  Args:
    state: a state that holds that of `skip_unhealthy`, alone or inside that of `optax.chain` and other wrappers. It is
      fetched from the device.

  Returns:
    `skipped`, `not_finite`, `spikes` and `consecutive`; of several guards the sums, and the longest run. Where `pmap`
    or `vmap` gives each number an axis, the largest counts.

  Raises:
    ValueError: if there is no such state.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp
    >>> tx, params = bo.skip_unhealthy(bo.sgd(0.5)), jnp.ones(2)
    >>> _, state = tx.update(params * jnp.nan, tx.init(params))
    >>> bo.guards.report(state)
    {'skipped': 1, 'not_finite': 1, 'spikes': 0, 'consecutive': 1}
  """
  found = _fetched('report', state)
  skipped, not_finite, consecutive, _ = ([int(x.max()) for x in column] for column in zip(*found, strict=True))
  spikes = sum(skipped) - sum(not_finite)
  counts = {'skipped': sum(skipped), 'not_finite': sum(not_finite), 'spikes': spikes}
  return {**counts, 'consecutive': max(consecutive)}


def raise_if_unhealthy(state: Any) -> None:
  """Raises if `max_consecutive` steps in a row were skipped since the state was made, or since `forget`.

  It waits for the device, so call it where you log, not at every step.

  Args:
    state: a state that holds that of `skip_unhealthy`, as in `report`.

  Raises:
    RuntimeError: if it has failed.
    ValueError: if there is no such state.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp
    >>> tx, params = bo.skip_unhealthy(bo.sgd(0.5), max_consecutive=1), jnp.ones(2)
    >>> _, state = tx.update(params * jnp.nan, tx.init(params))
    >>> bo.guards.raise_if_unhealthy(state)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    RuntimeError: training is unhealthy: too many steps in a row were skipped (1 skipped in all, 1 of them not ...
  """
  if any(failed.any() for *_, failed in _fetched('raise_if_unhealthy', state)):
    now = report(state)
    raise RuntimeError(
      f'training is unhealthy: too many steps in a row were skipped ({now["skipped"]} skipped in all, '
      f'{now["not_finite"]} of them not finite, {now["consecutive"]} in a row now). Look at the data and the learning '
      'rate, and go on from a checkpoint; guards.forget(state) goes on as it is.'
    )


def forget(state: Any) -> Any:
  """Begins a new history of what is usual, as after `init`: for a norm whose level has changed for good.

  Args:
    state: a state that holds that of `skip_unhealthy`, as in `report`.

  Returns:
    The same state, in which no norm is remembered, none of the last steps was skipped and none has failed. All that the
    optimizer keeps, and the numbers of steps that were skipped, stay.

  Raises:
    ValueError: if there is no such state.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp
    >>> tx, params = bo.skip_unhealthy(bo.sgd(0.5)), jnp.ones(2)
    >>> _, state = tx.update(params, tx.init(params))
    >>> int(state.seen), int(bo.guards.forget(state).seen)
    (1, 0)
  """
  _states('forget', state)
  again = ('recent', 'seen', 'consecutive', 'failed')
  anew = lambda s: s._replace(**{name: jnp.zeros_like(getattr(s, name)) for name in again})
  return jax.tree.map(lambda s: anew(s) if _is_state(s) else s, state, is_leaf=_is_state)


def _is_state(x: Any) -> bool:
  return isinstance(x, SkipUnhealthyState)


def _states(who: str, state: Any) -> list[SkipUnhealthyState]:
  found = [x for x in jax.tree.leaves(state, is_leaf=_is_state) if _is_state(x)]
  if not found:
    raise ValueError(f'{who} needs a state that holds that of skip_unhealthy, got {type(state).__name__}.')
  return found


def _fetched(who: str, state: Any) -> list[tuple[Any, ...]]:
  """What is counted, at once."""
  return jax.device_get([(s.skipped, s.not_finite, s.consecutive, s.failed) for s in _states(who, state)])


# Steps that wait.


class AccumulateState(NamedTuple):
  """The state of `accumulate`.

  Attributes:
    inner_state: the state of what it guards.
    mean: a tree like the parameters, what has come of the mean so far. It begins anew where `mini_step` is 0.
    mini_step: int32, how many gradients are in it.
  """

  inner_state: Any
  mean: Any
  mini_step: jax.Array


jax.export.register_namedtuple_serialization(AccumulateState, serialized_name='belief_optax.guards.AccumulateState')


def accumulate(tx: optax.GradientTransformation, every: int, dtype: DTypeLike = 'float32') -> Guarded:
  r"""Takes one step with the mean of `every` gradients: what the large batch of all of them gives.

  $$\bar g \leftarrow \bar g + g_t / k, \qquad \text{and at every k-th step } u = \mathrm{tx}(\bar g), \quad
    \bar g \leftarrow 0$$

  Until then updates are 0, and nothing but the mean is read or written. The optimizer runs only when its step is taken;
  `optax.MultiSteps` runs it every time. Extra arguments are those of the last of the gradients. A gradient that is not
  finite spoils its own step alone; `skip_unhealthy(accumulate(...))` leaves it out.

  Args:
    tx: the optimizer, any optax transformation.
    every: k: how many gradients a step takes, all of batches of one size.
    dtype: the real dtype of the mean between the steps. Complex parameters have the complex one, and those of 64 bits
      keep 64.

  Returns:
    An `optax.GradientTransformationExtraArgs` with a `step`; two are equal if their arguments are.

  Raises:
    TypeError: if `tx` is no gradient transformation, `every` no integer, or `dtype` no floating dtype.
    ValueError: if `every` is under 1.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp
    >>> tx, params = bo.accumulate(bo.sgd(1.0), every=2), jnp.zeros(2)
    >>> params, state = tx.step(params, tx.init(params), jnp.array([1.0, 2.0]))
    >>> print(params)
    [0. 0.]
    >>> params, state = tx.step(params, state, jnp.array([3.0, 2.0]))
    >>> print(params)
    [-2. -2.]
  """
  every, kept = arguments.positive_integer('every', every), arguments.state_dtype('dtype', dtype)
  if kept is None or jnp.issubdtype(kept, jnp.complexfloating):
    raise TypeError(f"dtype must be a real floating dtype such as 'float32' or 'bfloat16', got {dtype!r}.")
  return _Accumulate(tx, every, kept.name).transformation


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class _Accumulate(_Guard):
  every: int
  dtype: str

  name = 'accumulate'

  def init(self, params: Any) -> AccumulateState:
    zeros = lambda p: jnp.zeros_like(p, dtype=self._dtype(dtypes.of(p)))
    return AccumulateState(self.tx.init(params), jax.tree.map(zeros, params), jnp.zeros((), jnp.int32))

  def _dtype(self, dtype: Any) -> Any:
    wide = jnp.finfo(dtype).bits == 64
    if jnp.issubdtype(dtype, jnp.complexfloating):
      return dtype if wide else jnp.promote_types(self.dtype, jnp.complex64)
    return dtype if wide else jnp.dtype(self.dtype)

  def advance(
    self, params: Any, state: AccumulateState, grads: Any, extra: Mapping[str, Any], applies: bool
  ) -> tuple[Any, AccumulateState]:
    mean = self._added(state.mini_step, state.mean, grads)
    given = jax.tree.map(lambda g, x: None if g is None else x, grads, mean, is_leaf=lambda g: g is None)
    act = lambda p, s, g: _act(self.tx, p, s, g, extra, applies)
    like = None if applies else jax.eval_shape(act, params, state.inner_state, grads)[0]

    def emit(p: Any, inner: Any, g: Any) -> Any:
      result, inner = act(p, inner, g)
      return result if applies else jax.tree.map(lambda u, x: u.astype(x.dtype), result, like), inner

    wait = lambda p, inner, g: (_still(like, p, g, applies), inner)
    last = state.mini_step == self.every - 1
    result, inner = jax.lax.cond(last, emit, wait, params, state.inner_state, given)
    return result, AccumulateState(inner, mean, jnp.where(last, 0, state.mini_step + 1))

  def _added(self, mini_step: Any, mean: Any, grads: Any) -> Any:
    """The mean with one more gradient; where none arrives it stays."""

    def add(x: Any, g: Any) -> Any:
      if g is None:
        return x
      if odd := varying_axes(g) - varying_axes(x):
        raise ValueError(
          f'accumulate keeps one mean for all devices, but the gradients differ along {", ".join(sorted(odd))}: '
          'average them before, as sharding.mean_gradients does.'
        )
      real = dtypes.compute_dtype(g, x)
      before = jnp.where(mini_step == 0, 0, dtypes.widen(x, real))  # 0 times a NaN would be a NaN
      return (before + dtypes.widen(g, real) / self.every).astype(x.dtype)

    return jax.tree.map(add, mean, grads)
