"""The state of a recipe inside that of optax.chain, optax.inject_hyperparams and other wrappers."""

from typing import Any

import jax
import jax.numpy as jnp

from belief_optax.core import State, dtypes


def put_state(around: Any, state: Any) -> Any:
  """Puts a state into that of what stands around its recipe: `optax.chain`, `optax.inject_hyperparams`.

  All transformations of a chain take their steps together: what is called `count` around it becomes its count, so that
  the schedules there go on too. All else around it, such as the hyperparameters, stays.

  Args:
    around: the state of the whole, as its `init` makes it.
    state: the state of the recipe (or of the `by_path`) inside, as `load_state` makes it.

  Returns:
    A state like `around`.

  Raises:
    ValueError: if there is not just one state like it inside, or its arrays have other shapes or dtypes.

  Example:
    >>> import jax.numpy as jnp, numpy as np, optax
    >>> from belief_optax import interop, presets
    >>> adam, params = presets.torch.adam(), {'w': jnp.ones(1)}
    >>> entry = {'step': 2, 'exp_avg': np.array([0.5]), 'exp_avg_sq': np.array([0.25])}
    >>> loaded = interop.load_state({'state': {0: entry}, 'param_groups': [{'params': [0]}]}, adam, params)
    >>> tx = optax.chain(optax.clip_by_global_norm(1.0), adam)
    >>> print(interop.put_state(tx.init(params), loaded)[1].count)
    2
  """
  kind = jax.tree.structure(state)
  alike = lambda x: jax.tree.structure(x) == kind
  places = [x for x in jax.tree.leaves(around, is_leaf=alike) if alike(x)]
  if len(places) != 1:
    raise ValueError(
      f'around must hold one state like {kind}, but it holds {len(places)}: {jax.tree.structure(around)}.'
    )
  for (path, old), new in zip(jax.tree_util.tree_leaves_with_path(places[0]), jax.tree.leaves(state), strict=True):
    if (jnp.shape(old), dtypes.of(old)) != (jnp.shape(new), dtypes.of(new)):
      was, is_ = (f'{dtypes.of(x)}{list(jnp.shape(x))}' for x in (old, new))
      raise ValueError(f'state{jax.tree_util.keystr(path)} is {is_}, but must be {was} as in around.')
  count = max((x.count for x in _states(state)), default=None)

  def place(path: Any, x: Any) -> Any:
    if alike(x):
      return state
    counts = path and path[-1] == jax.tree_util.GetAttrKey('count')
    return x if count is None or not counts else jnp.full_like(x, count)

  return jax.tree_util.tree_map_with_path(place, around, is_leaf=alike)


def take_state(around: Any) -> State:
  """Takes the state of the one recipe out of that of `optax.chain`, `optax.inject_hyperparams` or any other wrapper.

  Args:
    around: the state of the whole.

  Returns:
    The `State` inside.

  Raises:
    ValueError: if there is not just one.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp, optax
    >>> from belief_optax import interop
    >>> state = optax.chain(optax.clip(1.0), bo.adam(1e-3)).init(jnp.ones(1))
    >>> print(interop.take_state(state).count)
    0
  """
  states = _states(around)
  if len(states) != 1:
    raise ValueError(
      f'around must hold one State of a recipe, but it holds {len(states)}: {jax.tree.structure(around)}.'
    )
  return states[0]


def _states(tree: Any) -> list[State]:
  is_state = lambda x: isinstance(x, State)
  return [x for x in jax.tree.leaves(tree, is_leaf=is_state) if is_state(x)]
