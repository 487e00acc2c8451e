"""How complex numbers are read."""

from typing import Any

from belief_optax.core import Leaf, Line, piece


class ComplexAsReals(Line):
  r"""Makes all lines of a composition see a complex number as two real ones, as torch does.

  .. math:: f(a + bi) = f(a) + f(b) i

  Without it $|g|^2$ is the squared modulus, and both parts of a parameter have the same scale. With it every slot of a
  complex parameter is complex: its parts belong to the parts of the parameter.

  Returns:
    A piece. Its place in the list is without meaning; the presets put it first.

  Raises:
    TypeError: at `init` if something of a complex parameter is kept in a real dtype.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp
    >>> tx = bo.compose(bo.complex_as_reals(), bo.second_moment(0.0), bo.precondition(0.0))
    >>> print(tx.update(jnp.array([3 - 4j]), tx.init(jnp.array([0j])))[0])
    [1.-1.j]
  """

  splits_complex = True

  def step(self, x: Leaf, k: Any) -> Leaf:
    return x


complex_as_reals = piece(ComplexAsReals)
