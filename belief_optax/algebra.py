"""Lines of mathematics, and the one place that turns a list of them into a gradient transformation.

An optimizer is a short list of named steps in the order in which its paper writes them. A `Line` is one of these
steps: an immutable value that knows one equation on ONE array. `compose` makes a list of lines an
`optax.GradientTransformationExtraArgs`. Trees, dtypes, None leaves, the step count, masks, storage and jit are known
here and nowhere else.

A step has three rhythms. Python numbers are folded on the host, in float64, when the step is traced; `Line.scalars`
runs once per step; `Line.step` once per array.
"""

import dataclasses
import functools
import inspect
import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np
import optax

from belief_optax import arguments, dtypes, formulas, trees
from belief_optax.masks import full_mask
from belief_optax.slots import Slot
from belief_optax.stores import FLOAT32, Route, Store, codes, resolve


@dataclasses.dataclass(frozen=True)
class Leaf:
  """What is known about ONE array during one step, in compute dtype.

  Attributes:
    g: the gradient that the moments see.
    u: the direction so far. It begins as the gradient; the last one is the update.
    p: the parameter, or None.
    stored: the parameter in its own dtype, as it is between the steps, or None.
    slots: what is carried to the next step, by name.
    mu_hat: the estimate of the gradient's mean. It begins as the mean that was carried here.
    nu_hat: the estimate of its second (central) moment.
  """

  g: Any
  u: Any
  p: Any
  stored: Any
  slots: Mapping[str, Any]
  mu_hat: Any = None
  nu_hat: Any = None

  def set(self, **changes: Any) -> 'Leaf':
    return dataclasses.replace(self, **changes)

  def keep(self, **slots: Any) -> 'Leaf':
    """Replaces what is carried to the next step."""
    return self.set(slots={**self.slots, **slots})

  def mean(self, mu_hat: Any) -> 'Leaf':
    """Replaces the estimate of the mean, which is the direction until a piece says more."""
    return self.set(mu_hat=mu_hat, u=mu_hat)

  def redirect(self, u: Any) -> 'Leaf':
    """Replaces the direction. As long as the direction IS the gradient, the moments see the new one."""
    return self.set(u=u, g=u if self.g is self.u else self.g)


class State(NamedTuple):
  """The state of a composition.

  Attributes:
    count: int32, the number of finished steps; it stops at 2^31 - 1.
    slots: for each name (`mu`, `nu`, ...) a tree with the structure of the parameters. What a store keeps together
      stands under both names (`mu+nu.packed16`); `decode_state` makes plain arrays of it.
    ages: for each decay rate that is a schedule -log of the product of its values so far, as a sum and what rounding
      has lost of it; empty for numbers.
  """

  count: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride]
  slots: dict[str, Any]
  ages: dict[str, tuple[jax.Array, jax.Array]]


@dataclasses.dataclass(frozen=True)
class Now:
  """The clock of one step: it turns hyperparameters into scalars, once per step.

  Attributes:
    count: the steps that were finished before this one, which is what a schedule is called with.
    ages: the ages of scheduled decay rates, this step included.
    ages_before: the same, this step excluded.
  """

  count: jax.Array
  ages: Mapping[str, jax.Array]
  ages_before: Mapping[str, jax.Array]

  @property
  def step(self) -> jax.Array:
    """The integer t = 1, 2, ... of the equations."""
    return jnp.asarray(optax.safe_increment(self.count))

  @property
  def t(self) -> jax.Array:
    """The same as a real number (the integer would overflow when it is multiplied)."""
    return self.step.astype(dtypes.real_dtype())

  def __call__(self, hyperparameter: Any, ahead: int = 0) -> Any:
    """The value now or, with ahead=1, at the next step: a number as it is, all else in float32 or wider."""
    value = arguments.at(hyperparameter, self.step if ahead else self.count)
    if np.ndim(value):
      raise ValueError(f'a schedule must give a scalar, but {_show(hyperparameter)} gave shape {np.shape(value)}.')
    value = value.item() if isinstance(value, np.generic) else value  # a NumPy scalar would widen float32 under x64
    return value if isinstance(value, numbers.Real) else jnp.asarray(value).astype(dtypes.real_dtype())

  def age(self, name: str, rate: Any, ahead: int = 0) -> Any:
    """X = -log(b_1 ... b_{t + ahead}) of the decay rate `rate`, the field `name` of its line; ahead is -1, 0 or 1."""
    if name not in self.ages:
      return (self.t + ahead) * formulas.decay_exponent(self(rate))
    if ahead < 0:
      return self.ages_before[name]
    return self.ages[name] + (formulas.decay_exponent(self(rate, ahead)) if ahead else 0)

  def mass(self, name: str, rate: Any, ahead: int = 0) -> Any:
    """1 - b_1 ... b_{t + ahead}."""
    return formulas.bias_mass(self.age(name, rate, ahead))


@dataclass_transform(
  frozen_default=True, field_specifiers=(arguments.hyper, arguments.optional_hyper, arguments.option)
)
class Line:
  """One line of an algorithm: a value of hyperparameters with its equation on one array.

  Subclass it, declare the hyperparameters as fields (`arguments.hyper`, `arguments.option`) and decorate the class with
  `piece`. Two lines are equal if their class and fields are; arrays are compared by identity.

  Attributes:
    needs: what must stand in the record before this line (`mu_hat`, `nu_hat`, or the name of a slot).
    gives: what stands there after it.
    ages: the fields that are decay rates whose mass this line asks `Now` for.
    reads_params: whether `step` reads the parameter.
    splits_complex: whether all lines of its composition see a complex number as two real ones.
    elementwise: whether an element depends only on the same element of other arrays.
    widens: whether the update keeps the dtype in which it was computed, instead of that of the gradient.
  """

  needs: ClassVar[Any] = ()
  gives: ClassVar[tuple[str, ...]] = ()
  ages: ClassVar[tuple[str, ...]] = ()
  reads_params: ClassVar[bool] = False
  splits_complex: ClassVar[bool] = False
  elementwise: ClassVar[bool] = True
  widens: ClassVar[bool] = False
  piece: ClassVar[Callable[..., 'Recipe']]

  @property
  def slots(self) -> tuple[Slot, ...]:
    """What this line carries from step to step."""
    return ()

  @property
  def where(self) -> Any:
    """The leaves to which this line applies: a callable, or a value with a `tree` of bools; None for all."""
    return None

  def scalars(self, now: Now) -> Any:
    """Once per step: everything that `step` needs and that is the same for all arrays."""
    return None

  def check(self, p: Any) -> None:
    """At `init`, once per array: raises where this line cannot serve a parameter."""

  def begin(self, x: Leaf) -> Leaf:
    """Once per array, before the first line of the composition: what they all see of it."""
    return x

  def step(self, x: Leaf, k: Any) -> Leaf:
    """Once per array: the equation."""
    raise NotImplementedError

  def __init_subclass__(cls, **kwargs: Any) -> None:
    super().__init_subclass__(**kwargs)
    dataclasses.dataclass(frozen=True, eq=False, repr=False)(cls)

  def __post_init__(self) -> None:
    for field in dataclasses.fields(self):  # pyright: ignore[reportArgumentType]
      value = getattr(self, field.name)
      if not isinstance(value, _Hole):
        object.__setattr__(self, field.name, field.metadata['normal'](field.name, value))

  def fields(self) -> dict[str, Any]:
    return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # pyright: ignore[reportArgumentType]

  def _key(self) -> tuple[Any, ...]:
    return type(self), *(_Identity(v) if arguments.is_array(v) else v for v in self.fields().values())

  def __eq__(self, other: object) -> bool:
    return isinstance(other, Line) and self._key() == other._key()

  def __hash__(self) -> int:
    return hash(self._key())

  def __repr__(self) -> str:
    return f'{type(self).__name__}({", ".join(f"{n}={_show(v)}" for n, v in self.fields().items())})'

  def __reduce__(self) -> Any:
    # The class is reached through its piece, which has taken its name in the module.
    return _rebuild, (type(self).piece, tuple(self.fields().values()))


def piece(cls: type[Line]) -> Callable[..., 'Recipe']:
  """Makes a `Line` class a public piece: a function with its signature that returns a one-line `Recipe`.

  Args:
    cls: a subclass of `Line`. Its fields become the arguments, its docstring that of the piece.

  Returns:
    The piece, which takes the place of the class; the class itself is its attribute `line`.

  Example:
    >>> import belief_optax as bo
    >>> from belief_optax.arguments import FINITE, hyper
    >>> @bo.piece
    ... class shift(bo.Line):
    ...   by: float = hyper(1.0, allowed=FINITE)
    ...   def scalars(self, now):  # once per step
    ...     return now(self.by)
    ...   def step(self, x, k):  # once per array: u <- u + by
    ...     return x.redirect(x.u + k)
    >>> bo.compose(shift(2.0), bo.scale(0.5))
    compose(
      shift(by=2.0),
      scale(factor=0.5),
    )
  """

  def make(*args: Any, **kwargs: Any) -> 'Recipe':
    return _recipe((cls(*args, **kwargs),))

  for name in ('__module__', '__name__', '__qualname__', '__doc__'):
    setattr(make, name, getattr(cls, name))
  signature = inspect.signature(cls)
  make.__signature__ = signature.replace(return_annotation=Recipe)  # pyright: ignore[reportFunctionMemberAccess]
  make.line = cls  # pyright: ignore[reportFunctionMemberAccess]
  cls.piece = staticmethod(make)  # pyright: ignore[reportFunctionMemberAccess]
  return make


class Recipe(optax.GradientTransformationExtraArgs):
  """A gradient transformation that is also the list of its lines.

  It is a value: equal recipes are `==`, hash alike, pickle, and share one jit cache entry. Its `init` and `update` are
  optax's, so it works wherever an optax transformation does, alone or in a chain.

  `init(params)` returns a `State`; `update(updates, state, params=None, **extra_args)` returns new updates and the next
  `State`, and compiles itself when it is called outside of `jax.jit`.
  """

  __slots__ = ()
  init: 'Init'  # pyright: ignore[reportIncompatibleVariableOverride]
  update: 'Update'  # pyright: ignore[reportIncompatibleVariableOverride]

  @property
  def lines(self) -> tuple[Line, ...]:
    return self.update.lines

  @property
  def store(self) -> Store:
    return self.update.store

  @property
  def routes(self) -> tuple[Route, ...]:
    """Where its store keeps each slot."""
    return _routes(self.lines, self.store)

  def __repr__(self) -> str:
    store = f'  store={self.store!r},\n' if self.store != FLOAT32 else ''
    if len(self.lines) == 1 and not store:
      return repr(self.lines[0])
    return 'compose(\n' + ''.join(f'  {line!r},\n' for line in self.lines) + f'{store})'


def compose(*pieces: Recipe, store: Any = None) -> Recipe:
  """Composes pieces, in the order in which their equations are applied, into one gradient transformation.

  Args:
    *pieces: pieces and other compositions, whose lines are taken in order.
    store: how the slots are kept between the steps: `'float32'`, `'params'`, `'bfloat16'`, `'packed16'`, `'int8'`,
      `'int4'`, a `stores.Store`, or a mapping from slots to one of these; None for the store of the compositions, or
      float32.

  Returns:
    A `Recipe`: an `optax.GradientTransformationExtraArgs` that runs all lines in one pass over memory.

  Raises:
    TypeError: if an argument is no piece (put optax transformations beside it in `optax.chain`).
    ValueError: if two pieces own the same slot, two schedules the same decay rate, two compositions have different
      stores, or a store does not fit.

  Example:
    >>> import belief_optax as bo
    >>> bo.compose(bo.first_moment(0.9), bo.scale_by_learning_rate(0.1))
    compose(
      first_moment(b1=0.9, dtype=None),
      scale_by_learning_rate(learning_rate=0.1, flip_sign=True),
    )
  """
  for one in pieces:
    if not isinstance(one, Recipe):
      hint = ' Put it beside the composition in optax.chain.' if isinstance(one, optax.GradientTransformation) else ''
      raise TypeError(f'compose takes pieces, got {one!r}.{hint}')
  found = {one.store for one in pieces} - {FLOAT32}
  if store is None and len(found) > 1:
    raise ValueError(f'the compositions have different stores, {", ".join(map(repr, found))}: choose one by store=.')
  chosen = next(iter(found), FLOAT32) if store is None else resolve('store', store)
  return _recipe(tuple(line for one in pieces for line in one.lines), chosen)


def _recipe(lines: tuple[Line, ...], store: Store = FLOAT32) -> Recipe:
  owners: dict[str, Line] = {}
  for line in lines:
    for slot in line.slots:
      if slot.name in owners:
        raise ValueError(f'{line!r} and {owners[slot.name]!r} both own the slot {slot.name!r}.')
      owners[slot.name] = line
  _scheduled_rates(lines)  # raises where two schedules claim one rate
  _routes(lines, store)  # raises where the store does not fit
  return Recipe(Init(lines, store), Update(lines, store))  # pyright: ignore[reportArgumentType]


def _routes(lines: Iterable[Line], store: Store) -> tuple[Route, ...]:
  return store.routes(tuple(slot for line in lines for slot in line.slots))


def keys_of(routes: Iterable[Route]) -> list[str]:
  """The names in `State.slots`."""
  return [key for route in routes for key in route.keys]


def when(condition: bool, *pieces: Recipe) -> tuple[Recipe, ...]:
  """Makes a place in a composition depend on an option.

  Args:
    condition: whether the pieces stand there.
    *pieces: the pieces.

  Returns:
    The pieces if the condition holds, else none.

  Example:
    >>> import belief_optax as bo
    >>> amsgrad = False
    >>> bo.compose(bo.second_moment(0.9), *bo.when(amsgrad, bo.running_max()), bo.precondition(1e-8))
    compose(
      second_moment(b2=0.9, initial=0.0),
      precondition(eps=1e-08, eps_root=0.0),
    )
  """
  return pieces if condition else ()


@dataclasses.dataclass(frozen=True)
class Init:
  """`init` of a composition: params -> State."""

  lines: tuple[Line, ...]
  store: Store = FLOAT32

  def __call__(self, params: Any) -> State:
    _check_needs(self.lines)
    trees.check_inexact('parameter', params)
    leaves = jax.tree.leaves(params)
    for line in self.lines:
      for p in leaves:
        line.check(p)
      if leaves:  # optax.tree.map_params calls init with a childless placeholder, which fits no mask
        _mask(line, params)
    slots = {key: tree for route in _routes(self.lines, self.store) for key, tree in self._kept(route, params).items()}
    zero = functools.partial(jnp.zeros, [], dtypes.real_dtype())
    ages = {name: (zero(), zero()) for name in _scheduled_rates(self.lines)}
    return State(jnp.zeros([], jnp.int32), slots, ages)

  def _kept(self, route: Route, params: Any) -> dict[str, Any]:
    pairs = _splits_complex(self.lines)
    first = lambda p, on: route.store.init(route.group, [slot.init(p, pairs) for slot in route.group], p, on)
    leaves, treedef = jax.tree.flatten(params)
    mask = full_mask(repr(route.store), route.store.where, params) if leaves else None
    everywhere = [True] * len(leaves)
    kept = [first(p, on) for p, on in zip(leaves, everywhere if mask is None else jax.tree.leaves(mask), strict=True)]
    return {key: treedef.unflatten([parts[i] for parts in kept]) for i, key in enumerate(route.keys)}


@dataclasses.dataclass(frozen=True)
class Update:
  """`update` of a composition: updates, State, params -> updates, State."""

  lines: tuple[Line, ...]
  store: Store = FLOAT32

  def __call__(self, updates: Any, state: State, params: Any = None, **extra_args: Any) -> tuple[Any, State]:
    del extra_args  # optax's contract: unknown extra arguments are for other transformations
    if self._reader is not None and params is None:
      raise ValueError(f'{self._reader!r} needs the parameters: call update(updates, state, params).')
    check_state('update', self._keys, state)
    if params is not None:
      trees.check_complex(updates, params)
    static, data = self._split
    return _update(static, self.store, data, updates, state, params if self._reader else None)

  @functools.cached_property
  def _keys(self) -> list[str]:
    return keys_of(_routes(self.lines, self.store))

  @functools.cached_property
  def _reader(self) -> Line | None:
    return next((line for line in self.lines if line.reads_params), None)

  @functools.cached_property
  def _split(self) -> tuple[tuple[Line, ...], list[Any]]:
    """The lines with holes where arrays stood, and the arrays."""
    static, data = [], []
    for line in self.lines:
      arrays = {name: value for name, value in line.fields().items() if arguments.is_array(value)}
      holes = {name: _Hole(len(data) + i) for i, name in enumerate(arrays)}
      data.extend(arrays.values())
      static.append(dataclasses.replace(line, **holes) if holes else line)  # pyright: ignore[reportArgumentType]
    return tuple(static), data


@functools.partial(jax.jit, static_argnums=(0, 1))
def _update(
  static: tuple[Line, ...], store: Store, data: list[Any], updates: Any, state: State, params: Any
) -> tuple[Any, State]:
  """One step of a composition: scalars once, then one rule per array, traced once per shape."""
  lines = [_fill(line, data) for line in static]
  updates, params = jax.tree.map(jnp.asarray, (updates, params))  # Python numbers, under jax.disable_jit
  grads, treedef = jax.tree.flatten(updates, is_leaf=lambda x: x is None)
  align = functools.partial(trees.align, treedef)
  slots = {name: align(f'state.slots[{name!r}]', tree) for name, tree in state.slots.items()}
  ps = [None] * len(grads) if params is None else align('params', params)
  everywhere = [True] * len(grads)
  masks = [everywhere if line.where is None else align('mask', _mask(line, params)) for line in lines]
  trees.check_inexact('update', updates)

  rates = _scheduled_rates(lines)
  before = Now(state.count, {}, {})
  ages = {name: formulas.two_sum(state.ages[name], formulas.decay_exponent(before(b))) for name, b in rates.items()}
  now = Now(state.count, {n: age[0] for n, age in ages.items()}, {n: age[0] for n, age in state.ages.items()})
  rule, scalars = _rule(lines, _routes(lines, store), now)
  cast = functools.cache(lambda real: [k.astype(real) if jnp.issubdtype(k.dtype, jnp.inexact) else k for k in scalars])

  kept = {name: list(leaves) for name, leaves in slots.items()}
  for i, (g, p) in enumerate(zip(grads, ps, strict=True)):
    if g is None:  # nothing arrives: nothing moves
      continue
    carried = {name: leaves[i] for name, leaves in slots.items()}
    trees.check_leaf(g, {} if params is None else {'params': p})
    trees.check_arrays(g, carried)
    grads[i], after = rule(tuple(mask[i] for mask in masks), g, p, carried, cast(_real_dtype(g, p, carried)))
    for name, value in after.items():
      kept[name][i] = value
  next_slots = {name: treedef.unflatten(leaves) for name, leaves in kept.items()}
  return treedef.unflatten(grads), State(now.step, next_slots, ages)


def _rule(lines: Sequence[Line], routes: Sequence[Route], now: Now) -> tuple[Callable[..., Any], list[jax.Array]]:
  """The lines on one array, and the scalars that it takes; Python numbers among the scalars become constants."""
  scalars, structure = jax.tree.flatten([line.scalars(now) for line in lines])
  pairs = _splits_complex(lines)
  t = now.step.astype(jnp.uint32)
  writers = {slot.name: i for i, line in enumerate(lines) for slot in line.slots}
  complete = [max(writers[slot.name] for slot in route.group) for route in routes]  # the line after which it is known

  def steps(active: tuple[bool, ...], ks: Any, settle: Any, g: Any, p: Any, stored: Any, slots: Any) -> Any:
    x = Leaf(g=g, u=g, p=p, stored=stored, slots=slots, mu_hat=slots.get('mu'))
    for line, on in zip(lines, active, strict=True):
      x = line.begin(x) if on else x
    for i, (line, k, on) in enumerate(zip(lines, ks, active, strict=True)):
      x = line.step(x, k) if on else x
      for route, at in zip(routes, complete, strict=True):
        x = settle(x, route) if at == i else x
    return x.u, {name: x.slots[name] for name in slots}

  @functools.partial(jax.jit, static_argnums=0)  # equal shapes are traced once
  def rule(active: tuple[bool, ...], g: Any, p: Any, carried: dict[str, Any], arrays: list[Any]) -> Any:
    rest = iter(arrays)
    ks = structure.unflatten([next(rest) if isinstance(k, jax.Array) else k for k in scalars])
    real = _real_dtype(g, p, carried)
    dither = functools.partial(codes.dither, g.shape, t)
    kept = {route.keys: tuple(carried[key] for key in route.keys) for route in routes}
    rounded: dict[tuple[str, ...], Any] = {}

    def load(route: Route, kept: Any) -> dict[str, Any]:
      values = route.store.load(route.group, kept)
      return {slot.name: dtypes.widen(value, real) for slot, value in zip(route.group, values, strict=True)}

    def save(route: Route, slots: Mapping[str, Any]) -> Any:
      return route.store.save(route.group, [slots[slot.name] for slot in route.group], kept[route.keys], dither)

    def settle(x: Leaf, route: Route) -> Leaf:
      if not route.store.rounds(route.group, kept[route.keys]):
        return x
      # The rest of the step is taken with what is stored. Behind the barrier XLA has no reason to compute it again from
      # the old values, which can so be overwritten where they lie.
      rounded[route.keys] = jax.lax.optimization_barrier(save(route, x.slots))
      stored = load(route, rounded[route.keys])
      swap = lambda estimate: next((new for name, new in stored.items() if x.slots[name] is estimate), estimate)
      return x.keep(**stored).set(u=swap(x.u), mu_hat=swap(x.mu_hat), nu_hat=swap(x.nu_hat))

    slots = {name: value for route in routes for name, value in load(route, kept[route.keys]).items()}
    trees.check_leaf(g, slots)
    wide = jax.tree.map(lambda x: dtypes.widen(x, real), {'g': g, 'p': p})  # None stays None
    wide |= {'stored': p, 'slots': slots}
    if pairs and jnp.iscomplexobj(g):  # no store rounds complex numbers
      parts = (steps(active, ks, settle, **jax.tree.map(part, wide)) for part in (jnp.real, jnp.imag))
      u, after = jax.tree.map(jax.lax.complex, *parts)
    else:
      u, after = steps(active, ks, settle, **wide)
    after = [(route, rounded.get(route.keys) or save(route, after)) for route in routes]
    u = u if any(line.widens for line in lines) else u.astype(g.dtype)
    return u, {key: x for route, parts in after for key, x in zip(route.keys, parts, strict=True)}

  return rule, [k for k in scalars if isinstance(k, jax.Array)]


def _real_dtype(g: Any, p: Any, kept: Any) -> Any:
  """The real dtype in which one leaf is computed; codes have no say in it."""
  return dtypes.compute_dtype(g, p, *(x for x in jax.tree.leaves(kept) if jnp.issubdtype(x.dtype, jnp.inexact)))


# Values among the hyperparameters.


@dataclasses.dataclass(frozen=True)
class _Hole:
  """Stands for the index-th array among static hyperparameters."""

  index: int


@dataclasses.dataclass(frozen=True, eq=False)
class _Identity:
  """An array in a comparison: equal to itself only."""

  array: Any

  def __eq__(self, other: object) -> bool:
    return isinstance(other, _Identity) and self.array is other.array

  def __hash__(self) -> int:
    return id(self.array)


def _fill(line: Line, data: Sequence[Any]) -> Line:
  filled = {name: data[v.index] for name, v in line.fields().items() if isinstance(v, _Hole)}
  return dataclasses.replace(line, **filled) if filled else line  # pyright: ignore[reportArgumentType]


def _rebuild(make: Callable[..., Recipe], values: tuple[Any, ...]) -> Line:
  return make.line(*values)  # pyright: ignore[reportFunctionMemberAccess]


def _show(value: Any) -> str:
  if isinstance(value, jnp.dtype):
    return repr(value.name)
  if callable(value) and not dataclasses.is_dataclass(value):
    return f'<{getattr(value, "__qualname__", type(value).__name__)}>'
  return repr(value)


def _splits_complex(lines: Iterable[Line]) -> bool:
  return any(line.splits_complex for line in lines)


def _scheduled_rates(lines: Iterable[Line]) -> dict[str, Any]:
  """The decay rates that are schedules and whose age a line asks for, by name."""
  rates: dict[str, Any] = {}
  for line in lines:
    for name in line.ages:
      rate = getattr(line, name)
      if callable(rate) and rates.setdefault(name, rate) != rate:
        raise ValueError(f'{name} follows two schedules: {_show(rates[name])} and, in {line!r}, {_show(rate)}.')
  return rates


def _mask(line: Line, params: Any) -> Any:
  return full_mask(type(line).__name__, line.where, params)


def _check_needs(lines: Sequence[Line]) -> None:
  known = {slot.name for line in lines for slot in line.slots}
  for line in lines:
    for need in line.needs:
      if need not in known:
        givers = sorted({c.__name__ for c in Line.__subclasses__() if need in c.gives})
        raise ValueError(f'{line!r} needs {need}: put one of {", ".join(givers)} before it.')
    known.update(line.gives)


def check_state(who: str, names: Sequence[str], state: Any) -> None:
  """Raises where what is taken for a state of a composition has other slots."""
  found = list(state.slots) if isinstance(state, State) else type(state).__name__
  if not isinstance(state, State) or set(found) != set(names):
    raise ValueError(f'{who} needs a State with the slots {names}, as init makes it, but got {found}.')
