"""What is known about one array during one step."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax


@dataclasses.dataclass(frozen=True)
class Leaf:
  """What the lines of a recipe know about ONE array during one step, in compute dtype.

  An estimate (`u`, `mu_hat`, `nu_hat`) is an array or the name of what it follows: a slot, or `'g'`. Where a store
  rounds a slot, what follows it is rounded too.

  Attributes:
    p: the parameter, or None.
    stored: the parameter in its own dtype, as it is between the steps, or None.
    slots: what is carried to the next step, by name.
    estimates: the gradient `g`, the direction `u`, and the estimates of the moments.
    dither: two arrays of uint32 per pair, uniform over elements and even over the steps; see `stores.bits.dither`.
  """

  p: Any
  stored: Any
  slots: Mapping[str, Any]
  estimates: Mapping[str, Any]
  dither: Callable[[int], tuple[jax.Array, jax.Array]]

  @property
  def g(self) -> Any:
    """The gradient that the moments see."""
    return self.estimates['g']

  @property
  def u(self) -> Any:
    """The direction so far. It begins as the gradient; the last one is the update."""
    return self._read('u')

  @property
  def mu_hat(self) -> Any:
    """The estimate of the gradient's mean. It begins as the mean that was carried here."""
    return self._read('mu_hat')

  @property
  def nu_hat(self) -> Any:
    """The estimate of its second (central) moment."""
    return self._read('nu_hat')

  def follows(self, estimate: str, slot: str) -> bool:
    """Whether an estimate is a slot as it stands, and not something computed from it."""
    return self.estimates.get(estimate) == slot

  def _read(self, name: str) -> Any:
    value = self.estimates.get(name)
    if not isinstance(value, str):
      return value
    return self.estimates['g'] if value == 'g' else self.slots.get(value)

  def set(self, **estimates: Any) -> 'Leaf':
    """Replaces estimates: each by an array, or by the name of a slot that it follows."""
    return dataclasses.replace(self, estimates={**self.estimates, **estimates})

  def keep(self, **slots: Any) -> 'Leaf':
    """Replaces what is carried to the next step: slots that the line owns, or declares in `writes`."""
    return dataclasses.replace(self, slots={**self.slots, **slots})

  def mean(self, mu_hat: Any) -> 'Leaf':
    """Replaces the estimate of the mean, which is the direction until a piece says more."""
    return self.set(mu_hat=mu_hat, u=mu_hat)

  def redirect(self, u: Any) -> 'Leaf':
    """Replaces the direction. As long as the direction IS the gradient, the moments see the new one."""
    return self.set(g=u) if self.estimates['u'] == 'g' else self.set(u=u)

  def see(self, p: Any) -> 'Leaf':
    """Replaces the parameter that the lines see."""
    return dataclasses.replace(self, p=p)
