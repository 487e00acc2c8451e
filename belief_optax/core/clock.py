"""The clock of a step: hyperparameters become scalars, once per step."""

import dataclasses
import numbers
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from belief_optax import formulas
from belief_optax.core import arguments, dtypes
from belief_optax.core.ranges import Range


class Sampled(NamedTuple):
  """What a schedule gives for one step. The compiled step takes it as an array and never sees the schedule.

  Attributes:
    now: its value at this step.
    ahead: its value at the next one, where the line asks for it.
  """

  now: Any
  ahead: Any = None


def sample(name: str, value: Any, allowed: Range, count: Any, ahead: bool) -> Any:
  """A hyperparameter as the data of one step: schedules are called here, in the open, with a count that may be an int.

  Args:
    name: the name of the argument, for the error message.
    value: a number, an array or a schedule.
    allowed: its range, whose guard applies to what is not a number.
    count: the steps that are finished.
    ahead: whether the line also asks for the value at the next step.

  Returns:
    The number, the guarded array, or a `Sampled`.
  """
  if callable(value):
    later = jnp.asarray(optax.safe_increment(count)) if ahead else None
    one = lambda at: _guarded(name, value(at), allowed, value)
    return Sampled(one(count), one(later) if ahead else None)
  return _guarded(name, value, allowed) if arguments.is_array(value) else value


def _guarded(name: str, value: Any, allowed: Range, schedule: Any = None) -> Any:
  if schedule is not None:
    if np.ndim(value):
      raise ValueError(f'a schedule must give a scalar, but {show(schedule)} gave shape {np.shape(value)}.')
    arguments.check_real(f'{name}, which follows the schedule {show(schedule)},', dtypes.of(value), allowed)
  value = jnp.asarray(value).astype(dtypes.real_dtype())
  return value if allowed.guard is None else allowed.guard(value)


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
    value = hyperparameter
    if isinstance(value, Sampled):
      value = value.ahead if ahead else value.now
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


def show(value: Any) -> str:
  """A hyperparameter as it stands in the print of a recipe."""
  if isinstance(value, jnp.dtype):
    return repr(value.name)
  if callable(value) and not dataclasses.is_dataclass(value):
    return f'<{getattr(value, "__qualname__", type(value).__name__)}>'
  return repr(value)
