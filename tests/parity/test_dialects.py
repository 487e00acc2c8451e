"""The comparison can fail: a preset of another dialect, with the same numbers, is far from what a package computed."""

import warnings

import ours
import problem
import recording
from configs import B9, CONFIGS, EPS, FAST, WD, f32

import belief_optax as bo
from belief_optax import presets
from belief_optax.presets import adabelief_pytorch, adabelief_tf, bert, labml, pytorch_optimizer, timm, torch
from belief_optax.presets.ranger_adabelief import ranger

FAR = 1e-5  # ten million times the tolerance


def neighbours():
  """What two dialects differ in, the configuration of the one, and the preset of the other with the same numbers."""
  lr, stairs, decay = 0.01, ours.Rates('stairs'), labml.WeightDecay
  belief = lambda **kwargs: adabelief_pytorch.adabelief(lr, eps=EPS, **kwargs)
  keras = lambda epsilon=EPS, **kwargs: adabelief_tf.adabelief(f32(lr), f32(0.9), f32(0.9), epsilon, **kwargs)
  ranged = lambda **kwargs: ranger(**{'lr': lr, 'eps': EPS, 'betas': (0.9, 0.99), 'output_axis': 0, **kwargs})
  tf_rms = lambda rate=lr, **kwargs: timm.rmsprop_tf(rate, eps=EPS, **kwargs)
  # fmt: off
  return [
    # Where eps stands.
    ('labml-nn 0.5.1 Adam: lr=0.01, eps=0.001, optimized_update=True',
     'eps beside the raw or the corrected root', labml.adam(lr, eps=EPS, optimized_update=False)),
    ('labml-nn 0.5.1 RAdam: lr=0.01, eps=0.001, optimized_update=False',
     'eps beside the corrected or the raw root', labml.radam(lr, eps=EPS)),
    ('adabelief-pytorch 0.2.1 AdaBelief: lr=0.01, rectify=True, eps=0.001',
     'eps beside the raw or the corrected root when rectified', adabelief_tf.adabelief(lr, epsilon=EPS)),
    ('adabelief-pytorch 0.2.1 AdaBelief: lr=0.01, rectify=False, eps=0.001',
     'eps stored or not', labml.adabelief(lr, eps=EPS, rectify=False, optimized_update=False)),
    ('timm 1.0.31 AdaBelief: lr=0.01, eps=0.001',
     'eps stored or not, rectified', labml.adabelief(lr, eps=EPS, optimized_update=True)),
    ('optax 0.2.8 adabelief: learning_rate=0.01, b2=0.8, eps=0.001, b1=0.5',
     'eps inside or outside', presets.optax.adabelief(lr, *FAST, eps=1e-16, eps_root=EPS)),
    ('adabelief-tf 0.2.1 AdaBeliefOptimizer: learning_rate=0.01, epsilon=0, beta_1=0.9, beta_2=0.9',
     'epsilon=0 is 1e-7', keras(1e-14)),
    ('timm 1.0.31 RMSpropTF: lr=0.01, eps=0.001',
     'eps inside or outside, start 1 or 0', torch.rmsprop(lr, 0.9, EPS)),
    ('timm 1.0.31 RMSpropTF: lr=0.01, eps=0.001',
     'start 1 or 0', bo.rmsprop(lr, 0.9, EPS)),
    ('torch 2.13.0 Adagrad: lr=0.01, eps=0.001, lr_decay=0.1',
     'the rate decays', torch.adagrad(lr, eps=EPS)),
    ('torch 2.13.0 Adagrad: lr=0.01, initial_accumulator_value=0.1, weight_decay=0.1',
     'decay inside or outside of the gradient', bo.adagrad(lr, 0.1, 1e-10, eps_in_sqrt=False, weight_decay=WD)),
    # The maximum.
    ('adabelief-tf 0.2.1 AdaBeliefOptimizer: learning_rate=0.01, epsilon=0.001, beta_1=0.9, beta_2=0.9, amsgrad=True',
     'maximum after or before eps',
     labml.adabelief(f32(lr), (f32(0.9),) * 2, EPS, amsgrad=True, optimized_update=False)),
    ('adabelief-pytorch 0.0.5 AdaBelief: lr=0.01, rectify=False, eps=0.001, amsgrad=True, betas=(0.9, 0.9)',
     'the maximum grows by eps', belief(betas=B9, amsgrad=True, rectify=False)),
    ('torch-optimizer 0.3.0 AdaBelief: lr=0.01, eps=0.001, amsgrad=True, betas=(0.9, 0.9), rectify=False',
     'the maximum grows by eps', belief(betas=B9, amsgrad=True, rectify=False)),
    ('pytorch-optimizer 4.1.0 AdaBelief: lr=0.01, eps=0.001, ams_bound=True, betas=(0.9, 0.9), rectify=True',
     'AMSGrad is ignored when rectified', timm.adabelief(lr, B9, EPS, amsgrad=True)),
    ('adabelief-pytorch 0.1.0 AdaBelief: lr=0.01, rectify=True, eps=0.001, amsgrad=True, betas=(0.9, 0.9)',
     'AMSGrad takes the eps away', belief(betas=B9, amsgrad=True)),
    ('torch 2.13.0 Adam: lr=0.01, eps=0.001, amsgrad=True, betas=(0.9, 0.9)',
     'maximum of the raw or the corrected moment', bo.amsgrad(lr, *B9, eps=EPS)),
    ('labml-nn 0.5.1 AMSGrad: lr=0.01, eps=0.001, betas=(0.9, 0.9), optimized_update=True',
     'AMSGrad or Adam', labml.amsgrad(lr, B9, EPS, amsgrad=False)),
    # Rectification.
    ('adabelief-pytorch 0.0.5 AdaBelief: lr=0.01, rectify=True, eps=0.001',
     'threshold 4 or 5', adabelief_tf.adabelief(lr, epsilon=EPS)),
    ('adabelief-pytorch 0.0.5 AdaBelief: lr=0.01, rectify=True, eps=0.001',
     'fallback to m or m^', adabelief_tf.adabelief(lr, epsilon=EPS, sma_threshold=4.0)),
    ('adabelief-pytorch 0.2.1 AdaBelief: lr=0.01, rectify=True, eps=0.001, degenerated_to_sgd=False',
     'no fallback', belief()),
    ('adabelief-tf 0.2.1 AdaBeliefOptimizer: learning_rate=0.01, epsilon=0.001, beta_1=0.9, beta_2=0.9, '
     'sma_threshold=8', 'another threshold', keras()),
    ('pytorch-optimizer 4.1.0 RAdam: lr=0.01, eps=0.001',
     'no fallback', torch.radam(lr, eps=EPS)),
    ('pytorch-optimizer 4.1.0 AdaBelief: lr=0.01, eps=0.001, rectify=True, n_sma_threshold=9, adam_debias=True',
     'the mean is not corrected', pytorch_optimizer.adabelief(lr, eps=EPS, rectify=True, n_sma_threshold=9)),
    # Decay.
    ('adabelief-pytorch 0.2.1 AdaBelief: lr=0.01, rectify=False, eps=0.001, weight_decay=0.1, weight_decouple=False',
     'L2 or decoupled', belief(weight_decay=WD, rectify=False)),
    ('adabelief-pytorch 0.1.0 AdaBelief: lr=0.01, rectify=True, eps=0.001, weight_decay=0.1, weight_decouple=False',
     'L2 that does nothing', belief(weight_decay=WD, weight_decouple=False)),
    ('timm 1.0.31 AdaBelief: lr=0.01, eps=0.001, weight_decay=0.01, fixed_decay=True, degenerated_to_sgd=False',
     'fixed or decoupled', timm.adabelief(lr, eps=EPS, weight_decay=0.01, degenerated_to_sgd=False)),
    ('labml-nn 0.5.1 Adam: lr=0.01, eps=0.001, weight_decay={\'weight_decay\': 0.01, \'absolute\': True}, '
     'betas=(0.5, 0.8)', 'absolute or decoupled', labml.adam(lr, FAST, EPS, decay(0.01))),
    ('timm 1.0.31 RMSpropTF: lr=0.01, eps=0.001, weight_decay=0.1, decoupled_decay=True, corrected_weight_decay=True, '
     'rates=stairs', 'decay by the relative rate', tf_rms(stairs, weight_decay=WD, decoupled_decay=True)),
    ('pytorch-optimizer 4.1.0 RAdam: lr=0.01, eps=0.001, weight_decay=0.1',
     'what does not move does not decay', labml.radam(lr, eps=EPS, weight_decay=decay(WD), degenerated_to_sgd=False)),
    ('pytorch-optimizer 4.1.0 RAdam: lr=0.01, eps=0.001, weight_decay=0.1, weight_decouple=False, n_sma_threshold=9',
     'decay that does nothing', pytorch_optimizer.radam(lr, eps=EPS, weight_decay=WD, n_sma_threshold=9)),
    ('pytorch-pretrained-bert 0.6.2 BertAdam: learning_rate=0.01, weight_decay_rate=0.1, '
     'exclude_from_weight_decay=(\'vector\',)', 'exclusion by name', bert.adamw(lr, WD)),
    # Moments and momentum.
    ('optax 0.2.3 adabelief: learning_rate=0.01, b2=0.9, eps=0.001, eps_root=0.001',
     'residual of the old or the new mean', presets.optax.adabelief(lr, *B9, EPS, EPS)),
    ('optax 0.2.8 adabelief: learning_rate=0.01, b2=0.9, eps=0.001, eps_root=0.001',
     'residual of the new or the old mean', presets.optax.adabelief(lr, *B9, EPS, EPS, version='0.1.0')),
    ('optax 0.2.8 adabelief: learning_rate=0.01, b2=0.9, nesterov=True, eps=0.001',
     'Nesterov', presets.optax.adabelief(lr, *B9, EPS)),
    ('labml-nn 0.5.1 AdaBelief: lr=0.01, eps=0.001, betas=(0.9, 0.9), as_released=True',
     'as released or as documented', labml.adabelief(lr, B9, EPS)),
    ('pytorch-pretrained-bert 0.6.2 BertAdam: learning_rate=0.01, weight_decay_rate=0.1',
     'no bias correction', torch.adamw(lr, eps=1e-6, weight_decay=WD)),
    ('torch 2.13.0 NAdam: lr=0.01, eps=0.001',
     'the schedule of the momentum', bo.nadam(lr, eps=EPS)),
    ('torch 2.13.0 SGD: lr=0.01, momentum=0.9, dampening=0.5',
     'the first buffer is the gradient', bo.sgd(lr, 0.9, dampening=0.5)),
    ('timm 1.0.31 RMSpropTF: lr=0.01, eps=0.001, momentum=0.9, lr_in_momentum=True, rates=stairs',
     'the rate inside or outside of the momentum', tf_rms(stairs, momentum=0.9, lr_in_momentum=False)),
    ('timm 1.0.31 RMSpropTF: lr=0.01, eps=0.001, momentum=0.9, caution=True, lr_in_momentum=True',
     'caution', tf_rms(momentum=0.9)),
    ('torch 2.13.0 Adam: lr=0.01, eps=0.001, complex',
     'a complex number as two real ones', bo.adam(lr, eps=EPS)),
    # Ranger.
    *[(f'ranger-adabelief 0.1.0 RangerAdaBelief: lr=0.01, eps=0.001, betas=(0.9, 0.99), {options}', why,
       ranged(**kwargs)) for options, why, kwargs in [
        ('alpha=0.8, k=4', 'the pull of the slow weights', {'k': 4}),
        ('alpha=0.8, k=4', 'the period of the slow weights', {'alpha': 0.8}),
        ('N_sma_threshhold=4', 'threshold 4 or 5', {}),
        ('use_gc=False', 'centralization', {}),
        ('gc_conv_only=True', 'centralization of kernels only', {}),
        ('gc_loc=False', 'centralization before or after the moments', {}),
        ('adabelief=False', 'RAdam or AdaBelief', {}),
        ('weight_decay=0.1, weight_decouple=False', 'L2 or decoupled', {'weight_decay': WD}),
      ]],
  ]
  # fmt: on


def test_dialects_are_far_from_their_neighbours():
  named = {config.name: config for config in CONFIGS}
  recorded = recording.load()
  with warnings.catch_warnings():
    warnings.simplefilter('ignore', presets.DialectWarning)
    rows = [(named[name], why, tx) for name, why, tx in neighbours()]
  near = {}
  for kind in {(config.complex_, config.by_array) for config, _, _ in rows}:
    some = [row for row in rows if (row[0].complex_, row[0].by_array) == kind]
    for (config, why, _), trajectory in zip(some, ours.scan([tx for *_, tx in some], 'float64', *kind), strict=True):
      distance = problem.error(recording.kept(trajectory), recorded[config.digest(), 'float64'])
      if not FAR < distance < float('inf'):
        near[config.name, why] = distance
  assert len(rows) > 40
  assert not near
