"""A line of mathematics, and the piece that it is for users."""

import dataclasses
import functools
import re
from typing import Any, ClassVar, Self, dataclass_transform

import jax

from belief_optax.core import arguments
from belief_optax.core.arguments import hyper, option, optional_hyper
from belief_optax.core.clock import Now, Sampled, sample, show
from belief_optax.core.dtypes import real_dtype
from belief_optax.core.leaf import Leaf
from belief_optax.core.masks import mask_option
from belief_optax.core.slot import Slot


@dataclass_transform(frozen_default=True, field_specifiers=(hyper, optional_hyper, option, mask_option))
class Line:
  """One line of an algorithm: a value of hyperparameters with its equation on one array.

  Subclass it, declare the hyperparameters as fields (`hyper`, `optional_hyper`, `option`, `mask_option`) and make the
  class a piece with `piece`. Two lines are equal if their class and fields are; arrays, and what cannot be hashed, are
  compared by identity. A line is a pytree: its arrays are leaves, all else is static.

  Attributes:
    needs: what must stand in the record before this line (`mu_hat`, `nu_hat`, or the name of a slot).
    gives: what stands there after it.
    writes: the slots of other lines that `step` changes. A store rounds a slot once, after its last declared writer.
    ages: the fields that are decay rates whose mass this line asks `Now` for.
    ahead: the fields whose value at the next step this line asks for.
    shrinks: 1 if it adds the parameters to a direction that is going to be subtracted, so that they decay; -1 if it
      subtracts them from what is going to be added; 0 if it does neither.
    squares: whether it keeps squares of the gradient: a gradient whose square would overflow is then bounded first.
    reads_params: whether `step` reads the parameter.
    splits_complex: whether all lines of its composition see a complex number as two real ones.
    elementwise: whether an element depends only on the same element of other arrays.
    caps: whether it bounds elements of the direction, which `diagnostics.measure` then counts.
    widens: whether the update keeps the dtype in which it was computed, instead of that of the gradient.
  """

  __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]
  needs: ClassVar[tuple[str, ...]] = ()
  gives: ClassVar[tuple[str, ...]] = ()
  writes: ClassVar[tuple[str, ...]] = ()
  ages: ClassVar[tuple[str, ...]] = ()
  ahead: ClassVar[tuple[str, ...]] = ()
  shrinks: ClassVar[int] = 0
  squares: ClassVar[bool] = False
  reads_params: ClassVar[bool] = False
  splits_complex: ClassVar[bool] = False
  elementwise: ClassVar[bool] = True
  caps: ClassVar[bool] = False
  widens: ClassVar[bool] = False

  # What a subclass may say.

  @property
  def slots(self) -> tuple[Slot, ...]:
    """What this line carries from step to step."""
    return ()

  def requires(self) -> tuple[str, ...]:
    """`needs`, where it depends on an option."""
    return self.needs

  def aged(self) -> tuple[str, ...]:
    """`ages`, where it depends on an option."""
    return self.ages

  @property
  def where(self) -> Any:
    """The leaves to which this line applies: a callable, or a value with a `tree` of bools; None for all."""
    return next((getattr(self, f.name) for f in _fields(self) if 'mask' in f.metadata), None)

  @property
  def sign(self) -> int:
    """-1 where the line turns the sign of the direction."""
    return 1

  def scalars(self, now: Now) -> Any:
    """Once per step: the scalars that `step` takes."""
    return None

  def check(self, p: Any) -> None:
    """At `init`, once per array: raises where this line cannot serve a parameter."""

  def begin(self, x: Leaf) -> Leaf:
    """Once per array, before the first line of the composition: what they all see of it."""
    return x

  def step(self, x: Leaf, k: Any) -> Leaf:
    """Once per array: the equation. `k` is what `scalars` gave; hyperparameters that vary are only there."""
    raise NotImplementedError

  # The value.

  def __init_subclass__(cls, **kwargs: Any) -> None:
    super().__init_subclass__(**kwargs)
    dataclasses.dataclass(frozen=True, eq=False, repr=False)(cls)
    jax.tree_util.register_pytree_node(cls, Line._flatten, functools.partial(_unflatten, cls))

  def __post_init__(self) -> None:
    for field in _fields(self):
      object.__setattr__(self, field.name, field.metadata['normal'](field.name, getattr(self, field.name)))

  @property
  def name(self) -> str:
    """The name of its piece."""
    return snake(type(self).__name__)

  def fields(self) -> dict[str, Any]:
    return {f.name: getattr(self, f.name) for f in _fields(self)}

  def _flatten(self) -> tuple[tuple[Any, ...], Any]:
    fields = self.fields()
    arrays = {n: v for n, v in fields.items() if isinstance(v, Sampled) or arguments.is_array(v)}
    return tuple(arrays.values()), (tuple(arrays), tuple((n, v) for n, v in fields.items() if n not in arrays))

  def _key(self) -> Any:
    return type(self), *((name, comparable(value)) for name, value in self.fields().items())

  def __eq__(self, other: object) -> bool:
    return isinstance(other, Line) and self._key() == other._key()

  def __hash__(self) -> int:
    return hash(self._key())

  def __repr__(self) -> str:
    return f'{self.name}({", ".join(f"{n}={show(v)}" for n, v in self.fields().items())})'

  # What the engine makes of it.

  def at(self, count: Any, eager: bool) -> Self:
    """The line as the data of one step: schedules are sampled, the mask is gone.

    In an eager step numbers that only scale are data too, so that another one compiles nothing.
    """
    changes: dict[str, Any] = {}
    for field in _fields(self):
      value, metadata = getattr(self, field.name), field.metadata
      if 'mask' in metadata:
        changes[field.name] = None
      elif 'allowed' in metadata:
        changes[field.name] = sample(field.name, value, metadata['allowed'], count, field.name in self.ahead)
        if eager and not metadata['constant'] and isinstance(value, float):
          changes[field.name] = arguments.as_data(value, real_dtype())
    return _with(self, changes)

  def bare(self) -> Self:
    """The line as a rule knows it: without the arrays, of which `scalars` has made `k`."""
    arrays = self._flatten()[1][0]
    return _with(self, {name: OnlyInScalars(name) for name in arrays})


@dataclasses.dataclass(frozen=True)
class OnlyInScalars:
  """Stands in `Line.step` for a hyperparameter that varies."""

  name: str

  def __jax_array__(self) -> Any:
    raise TypeError(f'{self.name} can vary from step to step: return it from `scalars`, and `step` has it in k.')


def _fields(line: Line) -> tuple[dataclasses.Field[Any], ...]:
  return dataclasses.fields(line)


def _with(line: Any, changes: dict[str, Any]) -> Any:
  return _unflatten(type(line), ((), tuple((line.fields() | changes).items())), ())


def _unflatten(cls: type[Any], static: Any, arrays: Any) -> Any:
  line = object.__new__(cls)  # not its constructor: during a transformation the leaves may be anything
  values = dict(static[1]) | dict(zip(static[0], arrays, strict=True))
  for name in cls.__dataclass_fields__:
    object.__setattr__(line, name, values[name])
  return line


def comparable(value: Any) -> Any:
  """A field in a comparison: what is an array or cannot be hashed is equal to itself alone."""
  if not arguments.is_array(value):
    try:
      hash(value)
    except TypeError:
      pass
    else:
      return value
  return type(value), id(value)


def snake(name: str) -> str:
  """FirstMoment -> first_moment."""
  return re.sub(r'(?<=[a-z0-9])(?=[A-Z])', '_', name).lower()
