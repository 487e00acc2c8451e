"""The dtype law: arithmetic in float32 or wider; what is stored keeps its dtype."""

import functools
from typing import Any

import jax
import jax.numpy as jnp


def of(x: Any) -> Any:
  """The dtype of an array, a ShapeDtypeStruct or a number."""
  return x.dtype if hasattr(x, 'dtype') else jnp.result_type(x)


def real_dtype() -> Any:
  """The dtype of the step's scalars: float64 under jax_enable_x64, else float32."""
  return jax.dtypes.canonicalize_dtype(jnp.float64)


def compute_dtype(*arrays: Any) -> Any:
  """The real dtype in which one leaf is computed: float32, or wider if an array is wider."""
  return _widest(tuple(of(a) for a in arrays if a is not None))


@functools.cache  # asked for once per array, of a few dtypes
def _widest(dtypes: tuple[Any, ...]) -> Any:
  return jnp.finfo(functools.reduce(jnp.promote_types, dtypes, jnp.dtype(jnp.float32))).dtype


def widen(x: Any, real: Any) -> Any:
  """The array in a real compute dtype, or the complex one of the same precision; integers as they are."""
  if not jnp.issubdtype(x.dtype, jnp.inexact):
    return x
  return x.astype(jnp.promote_types(x.dtype, real))
