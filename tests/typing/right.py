"""Calls as people write them, which a type checker accepts. It is read, and never run."""

import dataclasses
import functools
from typing import Any, assert_type

import jax
import jax.numpy as jnp
import numpy as np
import optax

import belief_optax as bo
from belief_optax import guards, stores

params = {'w': jnp.ones(3), 'b': jnp.zeros(1)}
schedule = optax.cosine_decay_schedule(1e-3, 1000)


@dataclasses.dataclass
class Module:
  w: Any
  b: Any


# Numbers, arrays and schedules.
bo.adabelief(1e-3)
bo.adabelief(schedule, 0.9, jnp.float32(0.999), 1e-16, lambda count: 1e-16 / (1 + count))
bo.adam(np.float64(1e-3), b1=jnp.asarray(0.9), eps=0)
bo.rmsprop(1e-3, momentum=None)
bo.rmsprop(1e-3, momentum=0.9)
bo.sgd(jnp.asarray(1e-3), momentum=schedule, dampening=0.5)
bo.adagrad(1, 0.1, eps_in_sqrt=False)

# Options.
bo.adabelief(1e-3, weight_decay=1e-2, weight_decay_mode='independent', residual='debiased')
bo.amsgrad(1e-3, max_of='raw')
bo.adabelief(1e-3, max_step=10.0)
bo.sgd(1e-3, 0.9, first_buffer='undampened')
bo.heavy_ball(0.9, first='undampened')
bo.round_updates('split')

# Masks.
bo.adamw(1e-3, mask={'w': True, 'b': False})
bo.adamw(1e-3, mask=jax.tree.map(lambda p: p.ndim > 1, params))
bo.adamw(1e-3, mask=lambda params: jax.tree.map(lambda p: p.ndim > 1, params))
bo.adabelief(1e-3, weight_decay_mask=Module(w=True, b=False))
bo.adam(1e-3, weight_decay_mask=[True, (False, True)])
bo.add_decayed_weights(1e-2, (True, False))
bo.add_decayed_weights(1e-2, None, multiplier=schedule)

# Dtypes and stores.
bo.adam(1e-3, mu_dtype='bfloat16')
bo.adam(1e-3, mu_dtype=jnp.bfloat16)
bo.sgd(1e-3, 0.9, accumulator_dtype=np.dtype('float32'))
bo.first_moment(0.9, jnp.float32)
bo.adabelief(1e-3, store='packed16')
bo.adabelief(1e-3, store=stores.Int8(mask={'w': True, 'b': False}))
bo.adabelief(1e-3, store={'mu': 'bfloat16', 'nu': stores.Int8()})
bo.compose(bo.first_moment(), bo.scale(-1.0), store='bfloat16')

# What they are.
assert_type(bo.adabelief(1e-3), bo.Recipe)
assert_type(bo.compose(bo.first_moment(0.9), bo.belief(), bo.bias_correct(0.9, 0.999), bo.precondition()), bo.Recipe)
tx = optax.chain(optax.clip_by_global_norm(1.0), bo.nadamw(schedule))
updates, state = tx.update(params, tx.init(params), params)
injected = optax.inject_hyperparams(bo.adabelief)(learning_rate=1e-3)
grouped = bo.by_path({'*b': {'weight_decay': 0.0}}, functools.partial(bo.adamw, 1e-3))


# A piece of one's own.
class Clip(bo.Line):
  limit: optax.ScalarOrSchedule = bo.hyper(default=1.0, allowed=bo.ranges.POSITIVE)

  def scalars(self, now: bo.Now) -> Any:
    return now(self.limit)

  def step(self, x: bo.Leaf, k: Any) -> bo.Leaf:
    return x.redirect(jnp.clip(x.u, -k, k))


clip = bo.piece(Clip)
bo.compose(clip(), clip(0.5), clip(limit=schedule))

# Guards.
guard = bo.skip_unhealthy(bo.accumulate(optax.adam(1e-3), every=4, dtype='bfloat16'), watch='both', axis_name='data')
assert_type(guard, guards.Guarded)
guard.update(params, guard.init(params), params, value=1.0)
guard.step(params, guard.init(params), params)
assert_type(guards.report(guard.init(params)), dict[str, int])
