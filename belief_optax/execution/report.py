"""What is in force for an optimizer, and why."""

import collections
import dataclasses
from typing import Any

import jax
import optax

from belief_optax.execution import primitive
from belief_optax.execution.switch import Mode, current


@dataclasses.dataclass(frozen=True)
class Part:
  """What is in force for some arrays.

  Attributes:
    arrays: how many there are.
    elements: how many numbers they hold.
    dtypes: the dtypes of a gradient, a parameter and what is kept of it.
    native: whether a machine loop takes their step.
    reason: why not, or ''.
  """

  arrays: int
  elements: int
  dtypes: tuple[str, ...]
  native: bool
  reason: str

  def __repr__(self) -> str:
    way = 'native' if self.native else 'xla'
    why = f': {self.reason}' if self.reason else ''
    return f'{way:<7}{self.arrays} arrays of {self.elements:,} elements ({", ".join(self.dtypes)}){why}'


@dataclasses.dataclass(frozen=True)
class Explanation:
  """What `explain` returns. It prints as text.

  Attributes:
    mode: the way that was chosen.
    parts: what is in force, for arrays that share it.
  """

  mode: Mode
  parts: tuple[Part, ...]

  def __repr__(self) -> str:
    return '\n'.join([f'execution {self.mode!r}', *(f'  {part!r}' for part in self.parts)])


def explain(tx: optax.GradientTransformation, params: optax.Params) -> Explanation:
  """Says how the steps of an optimizer are run, and why.

  Args:
    tx: a recipe, or an `optax.chain` that ends with one.
    params: the parameters, or `jax.ShapeDtypeStruct`s of them.

  Returns:
    An `Explanation`, which prints as text. A program that is partitioned over several devices may choose again.

  Raises:
    TypeError: if `tx` is neither.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp
    >>> with bo.execution.use('xla'):
    ...   print(bo.execution.explain(bo.adam(1e-3), {'w': jnp.ones((8, 8)), 'b': jnp.ones(8)}))
    execution 'xla'
      xla    2 arrays of 72 elements (float32, float32, float32, float32): it was chosen
  """
  from belief_optax.core.step import in_force  # the core is built on this package
  from belief_optax.one_pass import recipe_in

  recipe, mode, found = recipe_in(tx), current(), []
  look = lambda p: found.extend(recipe.update.calls(p, recipe.init(p), p))
  jax.eval_shape(look, params)
  chosen = ''
  if in_force(recipe.lines, mode) == 'xla':
    chosen = 'it was chosen' if mode == 'xla' else 'one line alone XLA fuses with what is around it'
  rows: dict[Any, list[int]] = collections.defaultdict(list)
  for call in found:
    reason = chosen or primitive.why_not(call)
    dtypes = tuple(x.dtype.name for x in jax.tree.leaves(call.arrays))
    rows[dtypes, reason].append(call.arrays[0].size)
  parts = (Part(len(sizes), sum(sizes), dtypes, not reason, reason) for (dtypes, reason), sizes in rows.items())
  return Explanation(mode, tuple(parts))
