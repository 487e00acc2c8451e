"""What the tests of the core share: small trees, reference runs, a counter of traces and one of compilations."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from registry import Row

STEPS = 7  # rectification becomes adaptive at the sixth step


def params(dtype: Any = jnp.float32) -> dict[str, jax.Array]:
  w = jnp.asarray([[1.0, -2.0], [0.5, 3.0], [-1.5, 0.25]])
  tree = {'w': w, 'b': jnp.asarray([0.75, -1.0])}
  return jax.tree.map(lambda p: _cast(p, dtype), tree)


def gradients(steps: int = STEPS, dtype: Any = jnp.float32) -> list[dict[str, jax.Array]]:
  """One tree per step; every element changes its sign and size, so that no two moments agree by chance."""
  draw = np.random.default_rng(0).normal
  return [{'w': _cast(draw(size=(3, 2)), dtype), 'b': _cast(draw(size=2), dtype)} for _ in range(steps)]


def _cast(x: Any, dtype: Any) -> jax.Array:
  x = jnp.asarray(x)
  if jnp.issubdtype(dtype, jnp.complexfloating):
    x = x + 0.5j * x[::-1]  # a phase that differs between elements
  return x.astype(dtype)


def run(tx: optax.GradientTransformation, p: Any, grads: Any, jit: bool = False) -> tuple[list[Any], Any, Any]:
  """Steps: all updates, the last parameters, the last state.

  Eager, the step is what `update` itself compiles, which equal optimizers share; `jit` is for wrappers that do not
  compile themselves.
  """
  update = jax.jit(tx.update) if jit else tx.update
  state, updates = tx.init(p), []
  for g in grads:
    u, state = update(g, state, p)
    p = optax.apply_updates(p, u)
    updates.append(u)
  return updates, p, state


@functools.cache
def plain(row: Row) -> tuple[list[Any], Any, Any]:
  """What a row does when nothing wraps it: the reference of most contracts."""
  return run(row.make(), params(), gradients())


def assert_close(actual: Any, expected: Any, rtol: float = 2e-6, atol: float = 1e-7) -> None:
  """Equal structure, dtypes and shapes, and values that differ by no more than what another fusion may change."""
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  for (path, a), b in zip(jax.tree.leaves_with_path(actual), jax.tree.leaves(expected), strict=True):
    name = jax.tree_util.keystr(path)
    a, b = jnp.asarray(a), jnp.asarray(b)
    assert (a.shape, a.dtype) == (b.shape, b.dtype), name
    wide = jnp.promote_types(a.dtype, jnp.float32)  # numpy cannot compare bfloat16
    np.testing.assert_allclose(np.asarray(a.astype(wide)), np.asarray(b.astype(wide)), rtol, atol, err_msg=name)


def assert_equal(actual: Any, expected: Any) -> None:
  assert_close(actual, expected, 0.0, 0.0)


def types(tree: Any) -> Any:
  """What a compiled step sees of a tree: shape, dtype, weak type and, on an explicit mesh, sharding."""
  return jax.tree.map(lambda x: (jax.typeof(x), jax.typeof(x).weak_type), tree)


def traced(function: Callable[..., Any], **options: Any) -> tuple[Callable[..., Any], list[None]]:
  """The jitted function, and a list that grows by one at every trace of it."""
  traces: list[None] = []

  @functools.partial(jax.jit, **options)
  def wrapped(*args: Any) -> Any:
    traces.append(None)
    return function(*args)

  return wrapped, traces


_compilations: list[str] = []
_COMPILED = '/jax/core/compile/backend_compile_duration'


def _listen(event: str, duration: float, **kwargs: Any) -> None:
  del duration, kwargs
  if event == _COMPILED:
    _compilations.append(event)


jax.monitoring.register_event_duration_secs_listener(_listen)


@contextlib.contextmanager
def compilations() -> Iterator[list[str]]:
  """A list that holds, after the block, one entry for each XLA compilation in it."""
  before, inside = len(_compilations), []
  yield inside
  inside.extend(_compilations[before:])
