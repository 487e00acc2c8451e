"""Optimizers of other packages, step for step: one module per package, with its names, arguments and defaults.

Each preset is a composition of the same pieces as everything else, and equals the real package in every step
(docs/ledger.md). A learning rate may be a number, an array or a schedule `count -> value`. Arguments that only affect
the execution or the printing of the other package are accepted and have no effect. Parameter groups are
`belief_optax.by_path`.
"""

from belief_optax.presets import (
  adabelief_pytorch,
  adabelief_tf,
  bert,
  labml,
  mindspore,
  optax,
  papers,
  pytorch_optimizer,
  ranger_adabelief,
  timm,
  torch,
  torch_optimizer,
)
from belief_optax.presets.dialect import DialectWarning

__all__ = [
  'DialectWarning',
  'adabelief_pytorch',
  'adabelief_tf',
  'bert',
  'labml',
  'mindspore',
  'optax',
  'papers',
  'pytorch_optimizer',
  'ranger_adabelief',
  'timm',
  'torch',
  'torch_optimizer',
]
