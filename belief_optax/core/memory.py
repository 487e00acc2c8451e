"""Arrays in host memory, where they can lie between the steps but where JAX has no arithmetic."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer


def in_device_memory(f: Callable[[Any], Any], arrays: Any) -> Any:
  """`f(arrays)`, computed in device memory and put back where the arrays are."""
  first = jax.tree.leaves(arrays)[0]
  space = jax.typeof(first).memory_space
  if space == jax.memory.Space.Device:
    return f(arrays)
  if isinstance(first, Tracer):
    return jax.device_put(f(jax.device_put(arrays, jax.memory.Space.Device)), space)
  return _moved(f(_moved(arrays, 'device')), first.sharding.memory_kind)


def full_like(p: Any, fill: Any, dtype: Any) -> jax.Array:
  """`jnp.full_like`, also where p is in the host memory of a single device: there JAX (0.12) has an error."""
  if isinstance(p, jax.Array) and not isinstance(p, Tracer) and jax.typeof(p).memory_space != jax.memory.Space.Device:
    near = jnp.full_like(p, fill, dtype=dtype, device=p.sharding.with_memory_kind('device'))
    return jax.device_put(near, p.sharding)
  return jnp.full_like(p, fill, dtype=dtype)


def _moved(arrays: Any, kind: str) -> Any:
  """The arrays in another memory. Unlike a move inside of jit, this works on the CPU with JAX 0.7 too."""
  return jax.tree.map(lambda x: jax.device_put(x, x.sharding.with_memory_kind(kind)), arrays)
