"""What is in force for an optimizer, and why."""

import collections
import dataclasses
import itertools
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
    tx: a recipe, or any transformation that has recipes inside: a chain, `by_path`, a guard, a wrapper of Optax.
    params: the parameters, or `jax.ShapeDtypeStruct`s of them.

  Returns:
    An `Explanation`, which prints as text. A program that is partitioned over several devices may choose again.

  Raises:
    TypeError: if there is no recipe in `tx`.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp
    >>> with bo.execution.use('xla'):
    ...   print(bo.execution.explain(bo.adam(1e-3), {'w': jnp.ones((8, 8)), 'b': jnp.ones(8)}))
    execution 'xla'
      xla    2 arrays of 72 elements (float32, float32, float32, float32): it was chosen
  """
  from belief_optax.core.step import calls, in_force  # the core is built on this package
  from belief_optax.core.watching import watching

  mode, steps = current(), {}

  def look(plan: Any, arrays: Any) -> Any:
    plan = dataclasses.replace(plan, applies=True)
    chosen = ''
    if in_force(plan.lines.unflatten(arrays.hyper), mode) == 'xla':
      chosen = 'it was chosen' if mode == 'xla' else 'one line alone XLA fuses with what is around it'
    rows = [(_dtypes(call), chosen or primitive.why_not(call), call.arrays[0].size) for call in calls(plan, arrays)]
    steps[plan, tuple(rows)] = None  # once, where a wrapper traces it twice
    return arrays

  with watching(look):
    jax.eval_shape(lambda p: tx.update(p, tx.init(p), p), params)
  if not steps:
    raise TypeError(f'tx must be a recipe, or a transformation that has recipes inside, got {tx!r}.')
  sizes = collections.defaultdict[Any, list[int]](list)
  for dtypes, reason, size in itertools.chain.from_iterable(rows for _, rows in steps):
    sizes[dtypes, reason].append(size)
  parts = (Part(len(some), sum(some), dtypes, not reason, reason) for (dtypes, reason), some in sizes.items())
  return Explanation(mode, tuple(parts))


def _dtypes(call: primitive.Call) -> tuple[str, ...]:
  return tuple(x.dtype.name for x in jax.tree.leaves(call.arrays))
