"""The step of a recipe: a pure function of one array, and the loop over arrays around it.

`Rule` is what the lines compute on ONE array. It is a value without arrays, and everything that varies is an argument:
XLA, a kernel and a generator of machine code can all take the same function. `advance` makes the scalars of a step and
calls the rule for each array.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import optax
from jax.core import Tracer

from belief_optax import formulas
from belief_optax.core import arguments, dtypes, trees
from belief_optax.core.barrier import cpu_barrier
from belief_optax.core.clock import Now, Sampled, show
from belief_optax.core.leaf import Leaf
from belief_optax.core.piece import Line
from belief_optax.core.watching import Watch
from belief_optax.execution import Mode, current, primitive
from belief_optax.stores import Route, bits

NOBODY = Watch()
COMPILED = 128  # how many recipes keep their compiled step; what is evicted is compiled again


class State(NamedTuple):
  """The state of a composition.

  Attributes:
    count: int32, the number of finished steps; it stops at 2^31 - 1.
    slots: for each name (`mu`, `nu`, ...) a tree with the structure of the parameters. What a store keeps together
      stands under both names (`mu+nu.packed16`); `decode_state` makes plain arrays of it. A name does not say which
      algorithm wrote it: `nu` is Adam's E[g^2], and AdaBelief's E[(g - m)^2].
    ages: for each decay rate that is a schedule -log of the product of its values so far, as a sum and what rounding
      has lost of it; empty for numbers.
  """

  count: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride]
  slots: dict[str, Any]
  ages: dict[str, tuple[jax.Array, jax.Array]]


# So that jax.export can serialize a step.
jax.export.register_namedtuple_serialization(State, serialized_name='belief_optax.State')


def check_state(who: str, names: Sequence[str], state: Any) -> None:
  """Raises where what is taken for a state of a composition has other slots, or counts in something but integers."""
  found = list(state.slots) if isinstance(state, State) else type(state).__name__
  if not isinstance(state, State) or set(found) != set(names):
    tiles = isinstance(state, State) and any(key.endswith('.exponents') for key in state.slots)
    hint = ' That is what version 0.1.0 wrote with int8 or int4: `convert_state` reads it.' if tiles else ''
    raise ValueError(f'{who} needs a State with the slots {names}, as init makes it, but got {found}.{hint}')
  if not jnp.issubdtype(dtypes.of(state.count), jnp.integer):
    raise TypeError(
      f'{who} needs a State whose count is an integer, but it has dtype {dtypes.of(state.count)}: '
      'in 16 bits it would stop at 256. Cast the slots of a state, not the state.'
    )


# One array.


@dataclasses.dataclass(frozen=True)
class Rule:
  """What the lines of a recipe compute on one array: a function without a closure, and a value.

  Attributes:
    lines: the lines, without what varies.
    active: for each line whether it applies to this array.
    routes: what is kept between the steps, and how.
    scalars: what the lines' `scalars` gave: numbers are constants, None stands for an argument.
    structure: how they are nested.
    update_dtype: the dtype of the update, unless a line widens it.
  """

  lines: tuple[Line, ...]
  active: tuple[bool, ...]
  routes: tuple[Route, ...]
  scalars: tuple[Any, ...]
  structure: Any
  update_dtype: Any

  def __call__(
    self, g: Any, p: Any, kept: Mapping[str, Any], scalars: Sequence[Any], t: Any, origin: Any = 0
  ) -> tuple[Any, dict[str, Any]]:
    """One step of one array, or of a block of one.

    Args:
      g: the gradient.
      p: the parameter, or None if no line reads it.
      kept: what the state keeps of it, by key.
      scalars: the scalars that vary, in compute dtype.
      t: uint32, the step.
      origin: uint32, the index of the first element, where this is a block of a flat array.

    Returns:
      The update, and what the state keeps next.
    """
    return self.run(g, p, kept, scalars, functools.partial(bits.dither, g.shape, t, origin))

  def run(
    self, g: Any, p: Any, kept: Mapping[str, Any], scalars: Sequence[Any], dither: Any, watch: Watch = NOBODY
  ) -> tuple[Any, dict[str, Any]]:
    """The same with a dither of the elements, seen by a `Watch`."""
    varying = iter(scalars)
    ks = self.structure.unflatten([next(varying) if k is None else k for k in self.scalars])
    real = compute_dtype(g, p, kept)
    boxes = [_Box(route, tuple(kept[key] for key in route.keys), real, dither) for route in self.routes]
    slots = {name: x for box in boxes for name, x in box.load(box.old).items()}
    trees.check_leaf(g, slots)
    wide = {'g': dtypes.widen(g, real), 'p': None if p is None else dtypes.widen(p, real), 'stored': p, 'slots': slots}
    if splits_complex(self.lines) and jnp.iscomplexobj(g):  # no store rounds complex numbers
      parts = (self._run(ks, boxes, dither, watch, **jax.tree.map(part, wide)) for part in (jnp.real, jnp.imag))
      u, after = jax.tree.map(_joined, (g, slots), *parts)
    else:
      u, after = self._run(ks, boxes, dither, watch, **wide)
    u = u if any(line.widens for line in self.lines) else u.astype(self.update_dtype)
    return u, {key: x for box in boxes for key, x in zip(box.route.keys, box.final(after), strict=True)}

  def _run(
    self,
    ks: Any,
    boxes: Sequence['_Box'],
    dither: Any,
    watch: Watch,
    g: Any,
    p: Any,
    stored: Any,
    slots: dict[str, Any],
  ) -> tuple[Any, dict[str, Any]]:
    """The lines, in order. A slot is rounded once, after the last line that writes it."""
    x = Leaf(p, stored, slots, {'g': g, 'u': 'g', 'mu_hat': 'mu'}, dither)
    for line, on in zip(self.lines, self.active, strict=True):
      x = line.begin(x) if on else x
    for i, (line, k, on) in enumerate(zip(self.lines, ks, self.active, strict=True)):
      if i == self._bounded_at:
        x = x.set(g=formulas.bounded(x.g, min(formulas.largest_gradient(x.g), *(box.largest for box in boxes))))
      if on:
        before, x = x, line.step(x, k)
        _check_writes(line, before.slots, x.slots)
        watch.line(line, k, before, x)
      for box in boxes:
        if self._complete(box.route) == i:
          kept = box.round(x.slots)
          watch.rounded(box.route, x.slots, kept)
          x = x.keep(**kept)
    watch.end(x)
    return x.u, {name: x.slots[name] for name in slots}

  @property
  def reads_params(self) -> bool:
    return any(line.reads_params for line in self.lines)

  @functools.cached_property
  def _bounded_at(self) -> int | None:
    """The line before which the gradient is bounded: the first that reads or keeps anything, if one keeps squares."""
    if not any(line.squares for line in self.lines):
      return None
    return next(i for i, line in enumerate(self.lines) if line.slots or line.requires())

  def _complete(self, route: Route) -> int:
    """The last line that writes one of the slots of a route."""
    names = {slot.name for slot in route.group}
    return max(i for i, line in enumerate(self.lines) if names & _written(line))


@dataclasses.dataclass(frozen=True)
class Applied:
  """A rule that returns the parameter instead of its update: `optax.apply_updates` in the same pass.

  Attributes:
    rule: the rule of the update.
  """

  rule: Rule

  def __call__(self, g: Any, p: Any, *rest: Any) -> tuple[Any, dict[str, Any]]:
    u, kept = self.rule(g, p if self.rule.reads_params else None, *rest)
    return optax.apply_updates(p, u), kept


def _written(line: Line) -> set[str]:
  return {*(slot.name for slot in line.slots), *line.writes}


def _check_writes(line: Line, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
  for name, value in after.items():
    if value is not before.get(name) and name not in _written(line):
      raise TypeError(
        f'{line.name} changes the slot {name!r} that it does not own: declare writes = ({name!r},) in '
        f'{type(line).__name__}. A store rounds a slot once, after the last line that declares to write it.'
      )


def _joined(before: Any, real: Any, imaginary: Any) -> Any:
  """Both parts of a number that was complex; what was real has one."""
  return jax.lax.complex(real, imaginary) if jnp.iscomplexobj(before) else real


@dataclasses.dataclass
class _Box:
  """What one route keeps of one array, before and after a step."""

  route: Route
  old: tuple[Any, ...]
  real: Any
  dither: Callable[[int], Any]
  new: tuple[Any, ...] | None = None

  @property
  def largest(self) -> float:
    return self.route.store.largest_gradient(self.route.group, self.old)

  def load(self, kept: tuple[Any, ...]) -> dict[str, Any]:
    values = self.route.store.load(self.route.group, kept)
    return {slot.name: dtypes.widen(x, self.real) for slot, x in zip(self.route.group, values, strict=True)}

  def round(self, slots: Mapping[str, Any]) -> dict[str, Any]:
    """The slots as they are stored, where a store rounds them: the rest of the step is taken with these."""
    if not self.route.store.rounds(self.route.group, self.old):
      return {}
    # Behind the barrier XLA:CPU has no reason to compute them again from the old ones, which can so be overwritten.
    self.new = new = cpu_barrier(self._save(slots))
    return self.load(new)

  def final(self, slots: Mapping[str, Any]) -> tuple[Any, ...]:
    return self._save(slots) if self.new is None else self.new

  def _save(self, slots: Mapping[str, Any]) -> tuple[Any, ...]:
    group = self.route.group
    return self.route.store.save(group, [slots[slot.name] for slot in group], self.old, self.dither)


def compute_dtype(g: Any, p: Any, kept: Any) -> Any:
  """The real dtype in which one leaf is computed; codes have no say in it."""
  return dtypes.compute_dtype(g, p, *(x for x in jax.tree.leaves(kept) if jnp.issubdtype(x.dtype, jnp.inexact)))


def splits_complex(lines: Sequence[Line]) -> bool:
  """Whether the lines see a complex number as two real ones."""
  return any(line.splits_complex for line in lines)


# All arrays.


@dataclasses.dataclass(frozen=True)
class Plan:
  """What is static in a step on all arrays. It holds no array and no function of the user, so it may be a cache's key.

  Attributes:
    lines: the structure of the lines, as `Line.at` makes them; their arrays are arguments.
    routes: what is kept between the steps, and how.
    active: for each array which lines apply to it.
    tree: the structure of the updates, where None is a leaf.
    applies: whether the step returns parameters instead of updates.
  """

  lines: Any
  routes: tuple[Route, ...]
  active: tuple[tuple[bool, ...], ...]
  tree: Any
  applies: bool = False


class Arrays(NamedTuple):
  """What varies in a step on all arrays: flat lists of leaves.

  Attributes:
    hyper: the arrays of the lines.
    grads: the gradients.
    params: the parameters, None where they were not given or no gradient arrives.
    finished: the number of finished steps.
    slots: what is kept, by key.
    ages: see `State`.
    after: a bool that is never true, computed from what has to be read before the step overwrites it; or None.
  """

  hyper: list[Any]
  grads: list[Any]
  params: list[Any]
  finished: Any
  slots: dict[str, list[Any]]
  ages: dict[str, tuple[Any, Any]]
  after: Any = None


def run(plan: Plan, arrays: Arrays) -> tuple[list[Any], Any, dict[str, list[Any]], dict[str, Any]]:
  """`advance`, compiled if it is called eagerly. In a trace of the user's there is nothing of ours to compile."""
  traced = any(isinstance(x, Tracer) for x in jax.tree.leaves(arrays))
  # Eagerly nothing is donated: results have arrays of their own.
  return advance(plan, How(current()), arrays) if traced else _compiled(plan, How(current(), in_place=False))(arrays)


class How(NamedTuple):
  """How rules are run; see `execution`.

  Attributes:
    mode: by which way.
    in_place: whether results should take the place of what they follow.
  """

  mode: Mode
  in_place: bool = True


@functools.lru_cache(COMPILED)
def _compiled(plan: Plan, how: How) -> Callable[[Arrays], Any]:
  return jax.jit(functools.partial(advance, plan, how))


@functools.lru_cache(COMPILED)
def _jitted(rule: Callable[..., Any]) -> Callable[..., Any]:
  """The rule, traced once per shape."""
  return jax.jit(functools.partial(rule))  # a partial is hashed by identity, and so fast


class Tick(NamedTuple):
  """What a step knows before it sees an array.

  Attributes:
    rule: the rule of an array to which all lines apply.
    scalars: the scalars that vary.
    step: int32, the step t.
    ages: see `State`.
  """

  rule: Rule
  scalars: list[Any]
  step: Any
  ages: dict[str, tuple[Any, Any]]


def tick(lines: Sequence[Line], routes: tuple[Route, ...], count: Any, ages: Mapping[str, Any]) -> Tick:
  """Once per step: the ages of averages, and the scalars of all lines."""
  rates = {name: rate for line in lines for name in line.aged() if isinstance(rate := getattr(line, name), Sampled)}
  before = Now(count, {}, {})
  new = {name: formulas.two_sum(ages[name], formulas.decay_exponent(before(b))) for name, b in rates.items()}
  now = Now(count, *({name: age[0] for name, age in each.items()} for each in (new, ages)))
  scalars, structure = jax.tree.flatten([line.scalars(now) for line in lines])
  constants = tuple(None if arguments.is_array(k) else k for k in scalars)
  rule = Rule(tuple(line.bare() for line in lines), (True,) * len(lines), routes, constants, structure, None)
  return Tick(rule, [k for k in scalars if arguments.is_array(k)], now.step, new)


def advance(plan: Plan, how: How, arrays: Arrays) -> tuple[list[Any], Any, dict[str, list[Any]], dict[str, Any]]:
  """One step on all arrays: scalars once, then the rule for each.

  Returns:
    The updates or the parameters, the next count, what is kept, and the ages.
  """
  _check(plan, arrays)
  start = _start(plan, arrays)
  results, kept = [None] * len(arrays.grads), {key: list(leaves) for key, leaves in arrays.slots.items()}
  done = primitive.run(_calls(plan, start, arrays), *how._replace(mode=in_force(start.rule.lines, how.mode)))
  for i, (result, after) in zip(_moving(arrays), done, strict=True):
    results[i] = result
    for key, value in after.items():
      kept[key][i] = value
  return results, start.step, kept, start.ages


def in_force(lines: Sequence[Line], mode: Mode) -> Mode:
  """The way in which lines are run: one alone XLA fuses with what the program does before and after it."""
  return 'xla' if mode == 'auto' and len(lines) < 2 else mode


def calls(plan: Plan, arrays: Arrays, of: Callable[[Rule], Callable[..., Any]] | None = None) -> list[primitive.Call]:
  """The rules that a step runs, each with its arrays, or what `of` makes of each rule, which gets the parameter too."""
  return _calls(plan, _start(plan, arrays), arrays, of)


def _start(plan: Plan, arrays: Arrays) -> Tick:
  return tick(plan.lines.unflatten(arrays.hyper), plan.routes, arrays.finished, arrays.ages)


def _moving(arrays: Arrays) -> list[int]:
  """The places where a gradient arrives: where none does nothing moves."""
  return [i for i, g in enumerate(arrays.grads) if g is not None]


def _calls(
  plan: Plan, start: Tick, arrays: Arrays, of: Callable[[Rule], Callable[..., Any]] | None = None
) -> list[primitive.Call]:
  of = Applied if of is None and plan.applies else of

  @functools.cache
  def rule(active: tuple[bool, ...], dtype: Any) -> Callable[..., Any]:
    one = dataclasses.replace(start.rule, active=active, update_dtype=dtype)
    return _jitted(of(one) if of else one)

  @functools.cache
  def scalars(real: Any) -> list[Any]:  # cast once, not once per array
    number = lambda k: jnp.issubdtype(k.dtype, jnp.inexact)
    return [*(k.astype(real) if number(k) else k for k in start.scalars), start.step.astype(jnp.uint32)]

  out = []
  for i in _moving(arrays):
    g, p = arrays.grads[i], arrays.params[i]
    old = {key: leaves[i] for key, leaves in arrays.slots.items()}
    # An update is as wide as its gradient, and at least as its parameter: its last digits are there.
    each = rule(plan.active[i], g.dtype if p is None else jnp.promote_types(g.dtype, p.dtype))
    seen = p if start.rule.reads_params else None
    ks = scalars(compute_dtype(g, seen, old))
    out.append(primitive.Call(each, (g, p if of else seen, old), ks, plan.applies, arrays.after))
  return out


def _check(plan: Plan, arrays: Arrays) -> None:
  """Raises where something does not fit; compiled steps have been checked when they were traced."""
  updates = plan.tree.unflatten(arrays.grads)
  trees.check_inexact('update', updates)
  plain = [r.keys[0] for r in plan.routes if len(r.group) == 1 and not r.store.parts(r.group)[0]]
  trees.check_leaves(updates, arrays.grads, {**{key: arrays.slots[key] for key in plain}, 'params': arrays.params})


def scheduled_rates(lines: Sequence[Line]) -> dict[str, Any]:
  """The decay rates that are schedules and whose age a line asks for, by name."""
  rates: dict[str, Any] = {}
  for line in lines:
    for name in line.aged():
      rate = getattr(line, name)
      if callable(rate) and rates.setdefault(name, rate) != rate:
        raise ValueError(f'{name} follows two schedules: {show(rates[name])} and, in {line!r}, {show(rate)}.')
  return rates
