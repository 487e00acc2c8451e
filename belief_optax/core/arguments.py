"""What an argument may be, said once: its range, its error message, its normal form.

A hyperparameter is a Python number (a constant of the compiled step), an array or tracer (which can change without
recompiling) or a schedule `count -> value`. Only Python numbers can be checked when an optimizer is built.
"""

import dataclasses
import math
import numbers
import operator
from collections.abc import Callable
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np

from belief_optax.core.ranges import Range


def at(value: Any, count: Any) -> Any:
  """The value of a hyperparameter after `count` steps: what a schedule gives, else itself."""
  return value(count) if callable(value) else value


def is_array(value: Any) -> bool:
  """Whether a hyperparameter is an array or a tracer, which can change without recompiling."""
  return isinstance(value, jax.Array | np.ndarray)


def as_data(value: float, dtype: Any) -> np.ndarray:
  """A number as a scalar array."""
  return np.asarray(value, dtype)


def hyperparameter(name: str, value: Any, allowed: Range) -> Any:
  """Returns a hyperparameter in its normal form, or raises an error that names it.

  Args:
    name: the argument's name, for the error message.
    value: a Python or NumPy number, a scalar array, or a schedule `count -> value`.
    allowed: the range of Python numbers.

  Returns:
    A Python number, the array, or the schedule.

  Raises:
    TypeError: if `value` is none of these, or a decay rate in 16 bits.
    ValueError: if a number is out of range or an array is not a scalar.
  """
  if isinstance(value, np.generic):
    if isinstance(value, np.floating):
      check_real(name, value.dtype, allowed)
    value = value.item()
  if is_array(value):
    return _scalar_array(name, value, allowed)
  if isinstance(value, numbers.Real) and not isinstance(value, bool):
    try:
      number = float(value)  # an int that int32 cannot hold is a number too
    except OverflowError:
      number = math.inf
    if not allowed.contains(number):
      raise ValueError(f'{name} must be {allowed.words}, got {value!r}.')
    return number
  if callable(value) and not isinstance(value, type):
    return value
  raise TypeError(f'{name} must be a number, a scalar array or a schedule (count -> value), got {value!r}.')


def _scalar_array(name: str, value: Any, allowed: Range) -> Any:
  if np.ndim(value):
    raise ValueError(
      f'{name} must be a scalar, got an array of shape {np.shape(value)}; use jax.vmap for a population.'
    )
  check_real(name, value.dtype, allowed)
  return value


def check_real(name: str, dtype: Any, allowed: Range) -> None:
  """Raises where an array or the value of a schedule has a dtype that cannot hold the hyperparameter."""
  if not jnp.issubdtype(dtype, jnp.floating) and not jnp.issubdtype(dtype, jnp.integer):
    raise TypeError(f'{name} must be real, got dtype {dtype}.')
  if allowed.guard is not None and jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32:
    # bfloat16(0.999) == 1: the moment would never move, and its bias mass would be 0.
    raise TypeError(
      f'{name} arrived as {dtype}, which cannot hold a decay rate (0.999 rounds to 1 in bfloat16). '
      'With optax.inject_hyperparams pass hyperparam_dtype=jnp.float32.'
    )


def choice(name: str, value: Any, allowed: Any) -> Any:
  """Returns `value` if it is one of `allowed`, a sequence or a `Literal`, or raises a ValueError that lists them."""
  allowed = get_args(allowed) or allowed
  if not any(type(value) is type(one) and value == one for one in allowed):
    raise ValueError(f'{name} must be one of {", ".join(map(repr, allowed))}, got {value!r}.')
  return value


def flag(name: str, value: Any) -> bool:
  """Returns a Python bool, or raises a TypeError: a flag chooses the recipe, so it cannot be data."""
  if isinstance(value, bool | np.bool_):
    return bool(value)
  raise TypeError(f'{name} must be True or False, got {value!r}.')


# For arguments that need a Python number: they are part of the compiled step.
STATIC_HINT = 'with optax.inject_hyperparams name it in static_args'


def integer(name: str, value: Any) -> int:
  """Returns a Python int, or raises a TypeError: it shapes the compiled step, so it cannot be data."""
  try:
    if not isinstance(value, bool):
      return operator.index(value)
  except TypeError:
    pass
  raise TypeError(f'{name} must be an integer ({STATIC_HINT}), got {value!r}.')


def positive_integer(name: str, value: Any) -> int:
  """Returns a Python int >= 1, or raises an error that names it."""
  if (value := integer(name, value)) < 1:
    raise ValueError(f'{name} must be an integer >= 1, got {value!r}.')
  return value


def optional_positive_integer(name: str, value: Any) -> int | None:
  """Returns a Python int >= 1 or None, or raises an error that names it."""
  return None if value is None else positive_integer(name, value)


def state_dtype(name: str, value: Any) -> Any:
  """Returns the dtype in which a slot is kept, or None for the default (float32 or wider)."""
  if value is None:
    return None
  try:
    dtype = jnp.dtype(value)
  except TypeError:
    dtype = None
  if dtype is None or not jnp.issubdtype(dtype, jnp.inexact):
    raise TypeError(f"{name} must be None or a floating dtype such as 'float32' or 'bfloat16', got {value!r}.")
  return dtype


def is_zero(value: Any) -> bool:
  """Whether a hyperparameter is the Python number 0, so that the piece that it drives can be left out."""
  return isinstance(value, numbers.Real) and value == 0


# The fields of a line.


def hyper(default: Any = dataclasses.MISSING, *, allowed: Range, constant: bool = True) -> Any:
  """Declares a hyperparameter of a piece: a number, an array or a schedule.

  Args:
    default: its default; without one the argument is required.
    allowed: the range of numbers, one of `ranges` or your own `Range`.
    constant: whether a number is a constant of the compiled step. A number that only scales (False) is data in an eager
      step, so that a sweep over it compiles once.

  Returns:
    What stands behind the `=` of a field of a `Line`.

  Example:
    >>> import belief_optax as bo
    >>> class Shift(bo.Line):
    ...   by: float = bo.hyper(default=1.0, allowed=bo.ranges.FINITE)
    >>> Shift(2)
    shift(by=2.0)
  """
  normal = lambda name, v: hyperparameter(name, v, allowed)
  return dataclasses.field(default=default, metadata={'normal': normal, 'allowed': allowed, 'constant': constant})


def optional_hyper(default: Any = None, *, allowed: Range) -> Any:
  """Declares a hyperparameter that may be None.

  Args:
    default: its default.
    allowed: the range of numbers, one of `ranges` or your own `Range`.

  Returns:
    What stands behind the `=` of a field of a `Line`.

  Example:
    >>> import belief_optax as bo
    >>> class Clip(bo.Line):
    ...   limit: float | None = bo.optional_hyper(default=None, allowed=bo.ranges.POSITIVE)
    >>> Clip()
    clip(limit=None)
  """
  normal = lambda name, v: None if v is None else hyperparameter(name, v, allowed)
  return dataclasses.field(default=default, metadata={'normal': normal, 'allowed': allowed, 'constant': True})


def option(default: Any = dataclasses.MISSING, *, normal: Callable[[str, Any], Any]) -> Any:
  """Declares an option of a piece: a static value, which must be hashable.

  Args:
    default: its default; without one the argument is required.
    normal: `normal(name, value)` returns the value in its normal form, or raises an error that names it.

  Returns:
    What stands behind the `=` of a field of a `Line`.

  Example:
    >>> import belief_optax as bo
    >>> class Repeat(bo.Line):
    ...   times: int = bo.option(default=2, normal=lambda name, value: int(value))
    >>> Repeat(3.0)
    repeat(times=3)
  """
  return dataclasses.field(default=default, metadata={'normal': normal})
