"""Optimizers by name: ours, and Optax's beside them."""

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import optax

from belief_optax import optimizers as family

DEFAULT = (
  'adabelief', 'adam', 'adamw', 'nadam', 'amsgrad', 'radam', 'rmsprop', 'adagrad', 'sgd',
  'lion', 'ademamix', 'adopt', 'adan', 'laprop', 'acprop',
)  # fmt: skip
CROSS_CHECK = ('digits', 'optax:adam')  # one cell of a peer: it must find what ours finds
OPTIONS: Mapping[str, Mapping[str, Any]] = {'sgd': {'momentum': 0.9}, 'optax:sgd': {'momentum': 0.9}}
# The middle of the first row of rates, 10 ** (index / 2). It costs rounds, not results: the search moves on from there.
CENTERS = {'sgd': -2, 'adagrad': -3}
CENTER = -5


class Contender(NamedTuple):
  """An optimizer of the comparison.

  Attributes:
    name: `NAME` of belief_optax, or `optax:NAME`.
    factory: learning_rate, options -> gradient transformation.
    options: options that are not tuned.
    decays: whether its weight decay is tuned.
    center: the index of the rate in the middle of the first row.
  """

  name: str
  factory: Callable[..., optax.GradientTransformation]
  options: Mapping[str, Any]
  decays: bool
  center: int

  def make(self, learning_rate: Any, weight_decay: Any) -> optax.GradientTransformationExtraArgs:
    """The optimizer; the weight decay is for those whose decay is tuned."""
    decay = {'weight_decay': weight_decay} if self.decays else {}
    return optax.with_extra_args_support(self.factory(learning_rate, **self.options, **decay))


def known() -> list[str]:
  """Our optimizers: what takes a learning rate."""
  takes_rate = lambda name: 'learning_rate' in inspect.signature(getattr(family, name)).parameters
  return [name for name in family.__all__ if takes_rate(name)]


def contender(name: str) -> Contender:
  """An optimizer by its name.

  Its weight decay is tuned if it has one, except where a sibling with a w does that: `adam` is without, `adamw` with.

  Args:
    name: an optimizer of belief_optax, or `optax:NAME` for one of Optax, such as `optax:contrib.muon`.

  Returns:
    The contender.

  Raises:
    ValueError: if there is no such optimizer.
  """
  package, colon, own = name.rpartition(':')
  found = None
  if not colon and own in known():
    found = getattr(family, own)
  elif package == 'optax':
    found = functools.reduce(lambda x, part: getattr(x, part, None), own.split('.'), optax)
  parameters = inspect.signature(found).parameters if inspect.isfunction(found) else {}
  if found is None or 'learning_rate' not in parameters:
    raise ValueError(
      f"optimizers must be of {', '.join(known())}, or 'optax:NAME' for a factory of Optax that takes a learning rate; "
      f'got {name!r}.'
    )
  sibling = f'{own}w' in known() if not colon else hasattr(optax, f'{own}w')
  decays = 'weight_decay' in parameters and not sibling
  return Contender(name, found, OPTIONS.get(name, {}), decays, CENTERS.get(own, CENTER))


def contenders(names: str | Iterable[str]) -> tuple[Contender, ...]:
  """Optimizers by their names, each once.

  Raises:
    ValueError: if there is none, or one is unknown.
  """
  found = tuple(contender(name) for name in dict.fromkeys([names] if isinstance(names, str) else names))
  if not found:
    raise ValueError('optimizers must name at least one optimizer, got none.')
  return found
