"""The settings that AdaBelief's authors recommend for their tasks."""

import types
from collections.abc import Mapping
from typing import Any

import optax

from belief_optax.core import Recipe, choice
from belief_optax.presets import adabelief_pytorch


def _settings(
  lr: float, b1: float, eps: float, weight_decay: float, decouple: bool, rectify: bool
) -> Mapping[str, Any]:
  options = {'eps': eps, 'weight_decay': weight_decay, 'weight_decouple': decouple, 'rectify': rectify}
  return types.MappingProxyType({'lr': lr, 'betas': (b1, 0.999), **options})


SETTINGS = types.MappingProxyType(
  {
    'cifar': _settings(1e-3, 0.9, 1e-8, 5e-4, decouple=False, rectify=False),
    'imagenet': _settings(1e-3, 0.9, 1e-8, 1e-2, decouple=True, rectify=False),
    'detection': _settings(1e-4, 0.9, 1e-8, 1e-4, decouple=False, rectify=False),
    'lstm-1': _settings(1e-3, 0.9, 1e-16, 1.2e-6, decouple=False, rectify=False),
    'lstm-2': _settings(1e-2, 0.9, 1e-12, 1.2e-6, decouple=False, rectify=False),
    'lstm-3': _settings(1e-2, 0.9, 1e-12, 1.2e-6, decouple=False, rectify=False),
    'gan': _settings(2e-4, 0.5, 1e-12, 0.0, decouple=True, rectify=False),
    'sn-gan': _settings(2e-4, 0.5, 1e-16, 0.0, decouple=True, rectify=True),
    'transformer': _settings(5e-4, 0.9, 1e-16, 1e-4, decouple=True, rectify=True),
    'rainbow': _settings(1e-4, 0.9, 1e-10, 0.0, decouple=True, rectify=True),
    'half-cheetah': _settings(1e-3, 0.9, 1e-16, 0.0, decouple=True, rectify=True),
  }
)


def adabelief(task: str, lr: optax.ScalarOrSchedule | None = None) -> Recipe:
  r"""`adabelief_pytorch.adabelief` with the settings that its authors recommend for a task.

  | task | lr | b1 | eps | weight decay | rectify |
  |---|---|---|---|---|---|
  | `'cifar'` | 1e-3 | 0.9 | 1e-8 | 5e-4, L2 | no |
  | `'imagenet'` | 1e-3 | 0.9 | 1e-8 | 1e-2, decoupled | no |
  | `'detection'` (PASCAL VOC) | 1e-4 | 0.9 | 1e-8 | 1e-4, L2 | no |
  | `'lstm-1'` (one layer) | 1e-3 | 0.9 | 1e-16 | 1.2e-6, L2 | no |
  | `'lstm-2'`, `'lstm-3'` (two, three layers) | 1e-2 | 0.9 | 1e-12 | 1.2e-6, L2 | no |
  | `'gan'` (small) | 2e-4 | 0.5 | 1e-12 | 0 | no |
  | `'sn-gan'` (large) | 2e-4 | 0.5 | 1e-16 | 0 | yes |
  | `'transformer'` | 5e-4 | 0.9 | 1e-16 | 1e-4, decoupled | yes |
  | `'rainbow'` (reinforcement learning) | 1e-4 | 0.9 | 1e-10 | 0 | yes |
  | `'half-cheetah'` (reinforcement learning) | 1e-3 | 0.9 | 1e-16 | 0 | yes |

  with $b_2 = 0.999$. They are in `SETTINGS`. An eps of 1e-8 makes AdaBelief nearly SGD (`floor_of`).

  Args:
    task: one of the tasks of the table.
    lr: a learning rate or a schedule in place of the table's; None for the table's.

  Returns:
    A `Recipe`.

  Raises:
    ValueError: if the task is unknown or the learning rate out of range.
    TypeError: if the learning rate has a wrong type.

  Example:
    >>> from belief_optax import presets
    >>> presets.papers.adabelief('cifar')
    compose(
      add_decayed_weights(weight_decay=0.0005, mask=None, multiplier=1.0),
      first_moment(b1=0.9, dtype=None),
      belief(b2=0.999, eps_root=1e-08, b1=None),
      bias_correct(b1=0.9, b2=0.999),
      precondition(eps=1e-08, eps_root=0.0),
      scale_by_learning_rate(learning_rate=0.001, flip_sign=True),
    )

  References:
    Zhuang et al., AdaBelief (https://arxiv.org/abs/2010.07468), and the table of its authors' repository.
  """
  settings = SETTINGS[choice('task', task, tuple(SETTINGS))]
  return adabelief_pytorch.adabelief(**{**settings, **({} if lr is None else {'lr': lr})})
