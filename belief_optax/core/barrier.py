"""A barrier that only XLA:CPU sees."""

import functools
from typing import Any

import jax
import jax.extend.core
from jax.interpreters import ad, batching, mlir

cpu_barrier_p = jax.extend.core.Primitive('cpu_barrier')
cpu_barrier_p.multiple_results = True


def cpu_barrier(arrays: Any) -> Any:
  """The arrays, behind an `optimization_barrier` where the program is for a CPU.

  XLA:CPU makes a kernel of each output, and would compute behind it what stands before it again. A GPU has one kernel
  for all outputs, which a barrier would cut in two.

  Args:
    arrays: a tree of arrays.

  Returns:
    The same tree.
  """
  leaves, tree = jax.tree.flatten(arrays)
  return tree.unflatten(cpu_barrier_p.bind(*leaves))


def _batch(args: Any, axes: Any) -> Any:
  return cpu_barrier_p.bind(*args), axes


cpu_barrier_p.def_impl(lambda *arrays: list(arrays))
cpu_barrier_p.def_abstract_eval(lambda *avals: list(avals))
ad.primitive_jvps[cpu_barrier_p] = lambda primals, tangents: (cpu_barrier_p.bind(*primals), list(tangents))
batching.primitive_batchers[cpu_barrier_p] = _batch
_lowered = functools.partial(mlir.lower_fun, multiple_results=True)
mlir.register_lowering(cpu_barrier_p, _lowered(lambda *arrays: arrays))
mlir.register_lowering(cpu_barrier_p, _lowered(lambda *arrays: jax.lax.optimization_barrier(arrays)), platform='cpu')
