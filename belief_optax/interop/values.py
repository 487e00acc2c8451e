"""Arrays of torch, NumPy and JAX, each as what the other side holds. Torch is never imported: its objects bring it."""

import numbers
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np


def of_torch(x: Any) -> bool:
  """Whether an object is torch's: a tensor, an optimizer, a module."""
  return any(cls.__module__.partition('.')[0] == 'torch' for cls in type(x).__mro__)


def to_numpy(x: Any) -> np.ndarray:
  """Any array or number as a NumPy array of its dtype; bfloat16 is that of ml_dtypes.

  Raises:
    TypeError: if it is no array of numbers.
  """
  if of_torch(x) and hasattr(x, 'numpy'):
    if str(x.dtype) == 'torch.bfloat16':  # which NumPy alone does not have; float32 holds each of its numbers
      return x.float().numpy(force=True).astype(jnp.bfloat16)
    return x.numpy(force=True)
  array = np.asarray(x)
  if array.dtype.kind in 'OSUMm':
    raise TypeError(f'expected an array of numbers, got {type(x).__name__}.')
  return array


def held_as(value: Any, old: Any) -> Any:
  """A number or NumPy array as what `old` is: its library, dtype and device."""
  if of_torch(old):
    if isinstance(value, np.ndarray) and value.dtype == jnp.bfloat16:
      value = value.astype(np.float32)
    return old.new_tensor(value)  # of the same dtype, on the same device
  if isinstance(old, jax.Array):
    return jnp.asarray(value, old.dtype)
  if isinstance(old, numbers.Number):
    return cast(Any, type(old))(value)
  return np.asarray(value, old.dtype)


def placed(array: np.ndarray, dtype: Any, leaf: Any) -> jax.Array:
  """A NumPy array as a JAX array of a dtype, on the devices of a leaf that has been placed on some."""
  array = np.asarray(array).astype(dtype)
  if isinstance(leaf, jax.Array) and leaf.committed:
    return jax.device_put(array, leaf.sharding)
  return jnp.asarray(array)


def by_parts(f: Callable[[Any, Any], Any], nu: Any, mu: Any) -> Any:
  """F(nu, |mu|), where a complex nu belongs to the parts of a complex mu, and a real one to its modulus."""
  if jnp.iscomplexobj(nu):
    return f(nu.real, mu.real) + 1j * f(nu.imag, mu.imag)
  return f(nu, abs(mu))


def wide(x: np.ndarray) -> np.ndarray:
  """An array in float64, or the complex dtype of the same precision."""
  return x.astype(np.result_type(x, np.float64) if x.dtype.kind in 'fc' else np.float64)
