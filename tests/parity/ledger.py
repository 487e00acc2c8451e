"""Writes docs/ledger.md: how far each preset is from the real package, and that from its paper: `make ledger`."""

from pathlib import Path

import ours
import peers
from compare import TOLERANCES, errors
from configs import CONFIGS

PATH = Path(__file__).parents[2] / 'docs' / 'ledger.md'

# What a package does that the paper of its optimizer does not say.
DEVIATIONS = {
  'adabelief-pytorch AdaBelief': """
From 0.1.0 on eps is 1e-16 and steps are rectified. 0.0.5 rectifies where rho > 4, and before that moves by the mean
without bias correction; later versions rectify where rho >= 5, with eps beside the raw root, and before that move by
the corrected mean or not at all. AMSGrad: up to 0.1.0 the maximum grows by eps in every step; from 0.1.0 on it is
ignored when steps are rectified, in 0.1.0 together with the eps under the root. L2 decay has no effect in 0.1.0.
""",
  'adabelief-tf AdaBeliefOptimizer': """
Rectified where rho >= sma_threshold, with eps beside the corrected root; the maximum of AMSGrad is honoured. epsilon=0
becomes 1e-7. All versions compute the same.
""",
  'ranger-adabelief RangerAdaBelief': """
AdaBelief, rectified where rho > threshold with eps beside the raw root, with gradient centralization and lookahead. eps
is added to s on adaptive steps only. Decoupled decay is multiplied by the rectified step size, and while steps are not
adaptive it is added to the momentum in place.
""",
  'labml-nn Adam': 'eps stands beside the raw root unless optimized_update=False.',
  'labml-nn AMSGrad': 'As Adam; the maximum is that of the raw moments.',
  'labml-nn RAdam': 'Rectified where rho >= 5 (paper: > 4); eps beside the raw root unless optimized_update=False.',
  'labml-nn AdaBelief': """
eps is added to s where it is used, and not stored. The released class (as_released=True) hands its arguments on shifted
by one: amsgrad is taken for optimized_update and degenerate_to_sgd for amsgrad, and nothing moves before rectification
begins. What its documentation describes was run by setting the attributes that its constructor misses.
""",
  'torch Adam': 'The maximum of AMSGrad is that of the raw moments. Complex numbers are pairs of reals, also below.',
  'torch AdamW': 'The decay is multiplied by the whole learning rate (paper: by its schedule only).',
  'torch RAdam': 'Rectified where rho > 5 (paper: > 4), with eps beside the raw root.',
  'torch NAdam': 'The momentum is b1 (1 - 0.96^(t momentum_decay) / 2).',
  'torch RMSprop': 'eps stands outside of the root, the learning rate outside of the momentum.',
  'torch Adagrad': 'The learning rate may decay as 1 / (1 + (t - 1) lr_decay).',
  'torch SGD': 'The first buffer is the gradient, without dampening.',
  'timm AdaBelief': 'As adabelief-pytorch 0.2.1.',
  'timm RMSpropTF': 'The moment starts at 1; eps stands inside the root, the learning rate inside the momentum.',
  'timm RAdamLegacy': 'Rectified where rho >= 5 (paper: > 4), with eps beside the raw root.',
  'pytorch-optimizer AdaBelief': """
Rectified on request, with eps beside the raw root and the maximum of AMSGrad honoured. adam_debias leaves the mean
uncorrected.
""",
  'pytorch-optimizer RAdam': """
Rectified where rho >= n_sma_threshold (paper: > 4); before that no step and no decay, unless degenerated_to_sgd. Decay
that is not decoupled has no effect.
""",
  'torch-optimizer AdaBelief': 'As adabelief-pytorch 0.0.5.',
  'torch-optimizer RAdam': 'Rectified where rho >= 5 (paper: > 4), with eps beside the raw root.',
  'pytorch-pretrained-bert BertAdam': 'Adam without bias correction; the decay is added to the step.',
  'bert-tensorflow AdamWeightDecayOptimizer': 'Adam without bias correction; the decay is added to the step.',
  'optax adabelief': """
eps_root is added to s, eps to the corrected root. Up to 0.2.3 the residual is that of the mean before the step.
""",
  'torch Adamax': 'eps is added to the size of the gradient (the paper has none).',
  'timm Lion': "The authors' code.",
  'timm LaProp': """
The authors' code: the learning rate stands inside of the momentum, so that it differs from the paper, and from
`laprop`, once the rate changes. Its decay is that of the parameters after the step. Compared at a constant rate and
without decay.
""",
  'timm Adopt': """
The authors' code; the default of clip_exp is 0.333 instead of 0.25. Decoupled decay, which is not compared, begins with
the second step, that of `adopt` with the first.
""",
  'timm Adan': "The authors' code.",
  'timm Mars': """
The authors' code, with b1 = 0.9 by default, but its first step knows no gradient before, as that of `mars`. Compared
with optimize_1d=True, as `mars` treats all arrays alike.
""",
  'timm Lamb': 'Without its clipping of the global norm. Where nothing decays it has a ratio only with always_adapt.',
  'timm Lars': """
Its decay, which is not compared, enters the ratio by the norm of the parameters, that of `lars` and optax by the norm
of gradient and decay together.
""",
  'pytorch-optimizer Yogi': """
Both averages begin at initial_accumulator, the mean too; compared at 0, as the mean of `yogi` begins there.
""",
  'pytorch-optimizer PAdam': 'Without the maximum, which it does not have; the paper and `padam` have it by default.',
  'pytorch-optimizer AdEMAMix': 'The equations of the paper.',
  'adam-atan2-pytorch AdamAtan2': 'The default of b2 is 0.99.',
}

INTRODUCTION = f"""
This file is the output of `make ledger`, which runs the real packages (tests/parity/peers.txt) beside the presets: 50
steps from the same parameters, with the same gradients (random, tiny, sparse, constant, zero and nearly constant). An
error is the largest difference in any step, relative to the largest parameter with the same kind of gradient.
Tolerated are {TOLERANCES['float64']:.0e} in float64 and {TOLERANCES['float32']:.0e} in float32. `make parity` runs the
same comparison as tests; `make test` compares with a recording of it.

What was done to the packages:

- Those that cast to float32 with `.float()` (ranger-adabelief, timm's RAdamLegacy, torch-optimizer's RAdam) cast to
  float64 in the float64 runs. The default dtype of torch is float64 there, since NAdam keeps scalars in it.
- adabelief-tf stands on the legacy optimizers of tf-keras. For 0.1.0 `FloatTensorLike` of tensorflow_addons, which has
  no releases any more, is `float`. Keras keeps hyperparameters in float32, so its configurations have numbers that
  float32 holds exactly (0.9 below is the number of float32 next to it).
- optax 0.1.0 gets three names back that JAX has dropped: an annotation, and two for what is `jax.tree.map` now.
- Of timm, torch-optimizer and pytorch-pretrained-bert only the module of the optimizer is imported. BertAdam runs
  without clipping and at a constant rate.
"""


def _title(config):
  return f'{config.package} {config.optimizer.split(":")[1]}'


def _row(config, found):
  cells = [f'{found[dtype]:.0e}' if dtype in found else config.why for dtype in TOLERANCES]
  return f'| {config.version} | {config.options} | {" | ".join(cells)} |'


def _versions():
  by_package = {}
  for config in CONFIGS:
    by_package.setdefault(config.package, {})[config.version] = None
  return '; '.join(f'{package} {", ".join(versions)}' for package, versions in by_package.items())


def text(found):
  """The ledger, from {config: {dtype: error}}."""
  worst = {dtype: max(its.get(dtype, 0.0) for its in found.values()) for dtype in TOLERANCES}
  summary = ', '.join(f'{error:.1e} in {dtype}' for dtype, error in worst.items())
  lines = [
    '# The ledger: presets beside the packages that they reproduce\n',
    f'**{len(CONFIGS)} configurations of {len(DEVIATIONS)} optimizers; worst error {summary}.** {_versions()}.',
    INTRODUCTION,
  ]
  for title, deviations in DEVIATIONS.items():
    configs = [config for config in CONFIGS if _title(config) == title]
    name = f'presets.{configs[0].preset}' if configs[0].is_preset else configs[0].preset
    lines += [f'## {title}\n', f'{deviations.strip()}\n', f'`{name}`\n']
    lines += ['| version | configuration | float64 | float32 |', '|---|---|---|---|']
    lines += [*(_row(config, found[config]) for config in configs), '']
  return '\n'.join(lines).rstrip() + '\n'


def main():
  found = {config: {} for config in CONFIGS}
  for dtype in TOLERANCES:
    for batch in ours.batches():
      for config, error in errors(batch, dtype, peers.run).items():
        found[config][dtype] = error
  PATH.write_text(text(found))


if __name__ == '__main__':
  main()
