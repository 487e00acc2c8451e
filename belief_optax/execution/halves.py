"""A rule in two halves: what it keeps, and its update as a function of what it keeps.

Where updates are asked for, a program goes on with them: it adds them to the parameters. XLA does that in one pass with
the second half, if nothing lies between. So the loop does the first half alone: an update that is written and read
again would be 12 bytes per parameter more, and a buffer that is allocated at every step.
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend import core as jax_core

# JAX annotates the fields of a jaxpr differently from version to version.
make_jaxpr: Any = jax.make_jaxpr
Literal = jax_core.Literal


def second(rule: Callable[..., Any], arrays: tuple[Any, Any, dict[str, Any]], scalars: Sequence[Any]) -> Any:
  """The update of a rule as a function of what the rule keeps.

  Args:
    rule: a jitted function (g, p, kept, scalars, t) -> (update, kept).
    arrays: g, p and kept.
    scalars: the scalars, and t.

  Returns:
    The same function where `kept` is what the rule has made of it; None if the update needs the old one.
  """
  leaves, structure = jax.tree.flatten((*arrays, list(scalars[:-1]), scalars[-1]))
  return _second(rule, structure, tuple(map(jax.typeof, leaves)))


@functools.lru_cache(512)
def _second(rule: Callable[..., Any], structure: Any, avals: tuple[Any, ...]) -> Any:
  plain: Any = inspect.unwrap(rule)  # its equations, not one call of a jitted function
  flat = lambda *leaves: plain(*structure.unflatten(leaves))
  closed = make_jaxpr(flat)(*avals)
  jaxpr, (update, *new) = closed.jaxpr, closed.jaxpr.outvars
  first = structure.unflatten(range(len(avals)))[2]
  places = [first[key] for key in sorted(first)]
  old = [jaxpr.invars[i] for i in places]
  if any(isinstance(x, Literal) or x.aval.dtype != y.aval.dtype for x, y in zip(new, old, strict=True)):
    return None
  if len({*new}) < len(new) or not new:
    return None
  invars = list(jaxpr.invars)
  for i, x in zip(places, new, strict=True):
    invars[i] = x
  kept, needed, equations = set(new), {update}, []
  for equation in reversed(jaxpr.eqns):
    if needed.intersection(equation.outvars) and not kept.intersection(equation.outvars):
      equations.append(equation)
      needed.update(x for x in equation.invars if not isinstance(x, Literal))
  made = {x for equation in equations for x in equation.outvars}
  if needed - made - {*invars} - {*jaxpr.constvars}:
    return None
  jaxpr = jaxpr.replace(invars=invars, eqns=equations[::-1])
  run = jax.jit(jax_core.jaxpr_as_fun(type(closed)(jaxpr, closed.consts)))
  return lambda *args: run(*jax.tree.leaves(args))[0]
