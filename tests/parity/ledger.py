"""Writes docs/ledger.md: how far each preset is from the real package, and that from its paper: `make ledger`."""

from pathlib import Path

import ours
import peers
from compare import TOLERANCES, errors
from configs import CONFIGS

PATH = Path(__file__).parents[2] / 'docs' / 'ledger.md'

# What a package does that the paper of its optimizer does not say.
DEVIATIONS = {
  'adabelief-pytorch AdaBelief': (
    'eps is 1e-16 from 0.1.0 on, and steps are rectified. 0.0.5 rectifies where rho > 4 and before that moves by the '
    'mean without bias correction; later versions rectify where rho >= 5, with eps beside the raw root, and before '
    'that move by the corrected mean or not at all. AMSGrad: up to 0.1.0 the maximum grows by eps in every step; when '
    'steps are rectified AMSGrad is ignored, in 0.1.0 together with the eps under the root. L2 decay in 0.1.0 has no '
    'effect.'
  ),
  'adabelief-tf AdaBeliefOptimizer': (
    'Rectified (rho >= sma_threshold) with eps beside the corrected root; the maximum of AMSGrad is honoured. '
    'epsilon=0 becomes 1e-7. All versions compute the same.'
  ),
  'ranger-adabelief RangerAdaBelief': (
    'AdaBelief with rho > threshold and eps beside the raw root, gradient centralization and lookahead. eps is added '
    'to s on adaptive steps only; decoupled decay is multiplied by the rectified step size, and while steps are not '
    'adaptive it is added to the momentum in place.'
  ),
  'labml-nn Adam': 'eps beside the raw root unless optimized_update=False.',
  'labml-nn AMSGrad': 'As Adam; the maximum is that of the raw moments.',
  'labml-nn RAdam': 'rho >= 5, eps beside the raw root unless optimized_update=False.',
  'labml-nn AdaBelief': (
    'eps is added to s where it is used, not stored. The released class hands its arguments on shifted by one '
    '(as_released=True): amsgrad is taken for optimized_update and degenerate_to_sgd for amsgrad, and there is no step '
    'before rectification begins. What its documentation describes was run by setting the attributes that the '
    'constructor misses.'
  ),
  'torch Adam': (
    'The maximum of AMSGrad is that of the raw moments. Complex numbers are pairs of real ones, here and below.'
  ),
  'torch AdamW': 'The decay is multiplied by the whole learning rate (paper: by its schedule only).',
  'torch RAdam': 'rho > 5 (paper: 4), eps beside the raw root, before that the corrected mean.',
  'torch NAdam': 'The schedule of the momentum is 0.96^(t momentum_decay).',
  'torch RMSprop': 'eps outside of the root, the learning rate outside of the momentum.',
  'torch Adagrad': 'The learning rate may decay as 1 / (1 + (t - 1) lr_decay).',
  'torch SGD': 'The first buffer is the gradient, without dampening.',
  'timm AdaBelief': 'As adabelief-pytorch 0.2.1.',
  'timm RMSpropTF': 'The moment starts at 1, eps inside the root, the learning rate inside the momentum.',
  'timm RAdamLegacy': 'rho >= 5 (paper: 4), eps beside the raw root.',
  'pytorch-optimizer AdaBelief': (
    'Rectified (off by default) with eps beside the raw root, and the maximum of AMSGrad honoured. adam_debias leaves '
    'the mean uncorrected.'
  ),
  'pytorch-optimizer RAdam': (
    'No step and no decay before rectification begins (rho >= 5), unless degenerated_to_sgd. Decay that is not '
    'decoupled has no effect.'
  ),
  'torch-optimizer AdaBelief': 'As adabelief-pytorch 0.0.5.',
  'torch-optimizer RAdam': 'rho >= 5 (paper: 4), eps beside the raw root.',
  'pytorch-pretrained-bert BertAdam': 'Adam without bias correction; the decay is added to the step.',
  'bert-tensorflow AdamWeightDecayOptimizer': 'Adam without bias correction; the decay is added to the step.',
  'optax adabelief': (
    'eps_root is added to s, eps to the corrected root. Up to 0.2.3 the residual is that of the mean before the step.'
  ),
}

INTRODUCTION = f"""
This file is the output of `make ledger`, which runs the real packages of tests/parity/peers.txt beside the presets: 50
steps, from the same parameters, with the same gradients (random, tiny, sparse, constant, zero and nearly constant).
An error is the largest difference in any step, relative to the largest parameter of the same kind of gradient. At
most {TOLERANCES['float64']:.0e} is tolerated in float64 and {TOLERANCES['float32']:.0e} in float32.
`make test` compares with a recording of the same runs.

What had to be done to the packages:

- Those that cast to float32 with `.float()` (ranger-adabelief, timm's RAdamLegacy, torch-optimizer's RAdam) cast to
  float64 in the float64 runs. torch's default dtype is float64 there, as NAdam keeps scalars in it.
- adabelief-tf stands on the legacy optimizer of tf-keras; for 0.1.0 `FloatTensorLike` of tensorflow_addons, which is
  not released any more, is `float`. Keras keeps hyperparameters in float32: its configurations have numbers that
  float32 can hold.
- optax 0.1.0 gets back three names that JAX has dropped: `jax.tree_map` and `jax.tree_multimap`, which are
  `jax.tree.map` now, and an annotation.
- Of timm, torch-optimizer and pytorch-pretrained-bert only the module of the optimizer is imported. BertAdam runs
  without clipping and at a constant rate.
"""


def _row(config, found):
  cells = [f'{found[dtype]:.0e}' if dtype in found else config.why for dtype in TOLERANCES]
  return f'| {config.version} | {config.options} | {" | ".join(cells)} |'


def write(found):
  """The ledger, from {config: {dtype: error}}."""
  sections = {}
  for config in CONFIGS:
    sections.setdefault(f'{config.package} {config.optimizer.split(":")[1]}', []).append(config)
  worst = {dtype: max(each[dtype] for each in found.values() if dtype in each) for dtype in TOLERANCES}
  versions = sorted({f'{config.package} {config.version}' for config in CONFIGS})
  lines = ['# The ledger: presets beside the packages that they reproduce', '']
  lines += [
    f'**{len(CONFIGS)} configurations** of {len(sections)} optimizers; worst error '
    + ', '.join(f'**{error:.1e}** in {dtype}' for dtype, error in worst.items())
    + f'. Versions: {", ".join(versions)}.'
  ]
  lines += [INTRODUCTION.rstrip()]
  for title, configs in sections.items():
    lines += ['', f'## {title}', '', DEVIATIONS[title], '']
    lines += [
      f'Preset: `{configs[0].preset}`.',
      '',
      '| version | configuration | float64 | float32 |',
      '|---|---|---|---|',
    ]
    lines += [_row(config, found[config]) for config in configs]
  PATH.write_text('\n'.join(lines) + '\n')


def main():
  found = {config: {} for config in CONFIGS}
  for dtype in TOLERANCES:
    for batch in ours.batches():
      for config, error in errors(batch, dtype, peers.run).items():
        found[config][dtype] = error
  write(found)


if __name__ == '__main__':
  main()
