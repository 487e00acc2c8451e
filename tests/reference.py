"""The textbook in extended precision: what the optimizers of the package must compute, written from the papers.

Every line is the paper's, in the paper's (ill-conditioned) form; what it costs is paid in digits. Arrays are
`np.longdouble`, and the scalars of a step (1 - b^t, rho_t, r_t) have 50 decimal digits: rho_t = rho_inf -
2 t b^t / (1 - b^t) loses ten of them at b = 0.99999. Nothing here is shared with the package.

  Kingma and Ba, Adam, Algorithm 1. Zhuang et al., AdaBelief, Algorithm 2. Liu et al., RAdam, Algorithm 2.
  Reddi et al., AMSGrad, Algorithm 2. Dozat, NAdam, Algorithm 2. Loshchilov and Hutter, AdamW, Algorithm 2.
  Wortsman et al., StableAdamW, Algorithm 2. Graves, eq. 38-45 (centered RMSProp). Duchi et al., Adagrad.
  Sutskever et al., momentum, eq. 1-4. What each docstring of the others cites.
"""

import decimal
import functools
from decimal import Decimal

import numpy as np

DIGITS = decimal.Context(prec=50)


def reference(name, grads, params=0.0, learning_rate=1.0, weight_decay=None, weight_decay_mode='decoupled', **options):
  """All updates of an algorithm, shape [steps, ...], for gradients of that shape and parameters that stand still.

  A hyperparameter may be a schedule, a callable of the number of finished steps.
  """
  grads, params = wide(grads), wide(params)
  if weight_decay is None:
    weight_decay = 1e-4 if name in ('adamw', 'nadamw') else 0.0
  buffer = None
  if name == 'rmsprop':  # its momentum acts on what the learning rate has scaled
    buffer = MomentumBuffer(options.pop('momentum', None), options.pop('nesterov', False))
  if weight_decay_mode == 'l2':
    grads, weight_decay = [g + at(weight_decay, t) * params for t, g in enumerate(grads, 1)], 0.0
  updates = []
  if name in ('lamb', 'lars'):  # their decay stands inside of the norm
    return ratio_steps(name, grads, params, learning_rate, weight_decay, **options)
  for t, u in enumerate(ALGORITHMS[name](grads, **options), 1):
    lr = at(learning_rate, t)
    relative = lr / at(learning_rate, 1)
    decay = {'decoupled': lr, 'l2': 0, 'fixed': 1, 'independent': relative, 'cautious': lr, 'proximal': lr}[
      weight_decay_mode
    ]
    step = buffer(lr * u) if buffer else lr * u
    decays = u * params >= 0 if weight_decay_mode == 'cautious' else True
    if weight_decay_mode == 'proximal':
      updates.append((params - step) / (1 + lr * at(weight_decay, t)) - params)
      continue
    updates.append(-(step + decay * at(weight_decay, t) * np.where(decays, params, 0)))
  return np.stack(updates)


def adaptive(
  grads, *, b1, b2, eps, eps_root=0.0, eps_stored=0.0, residual=None, max_of=None, nesterov=False, correct_mu=True,
  correct_nu=True, eps_scaled=False, rectify=False, threshold=5.0, degenerate_to_sgd=False, max_step=None,
):  # fmt: skip
  """Adam and everything that is Adam with a line changed."""
  b1, b2 = Rate(b1, len(grads)), Rate(b2, len(grads))
  m = s = s_max = 0.0
  for t, g in enumerate(grads, 1):
    m_before = m
    m = b1[t] * m + (1 - b1[t]) * g
    expected = {None: 0.0, 'current': m, 'debiased': m / b1.mass[t] if t > 1 else 0.0, 'previous': m_before}[residual]
    s = b2[t] * s + (1 - b2[t]) * abs(g - expected) ** 2 + eps_stored
    mass1, mass1_next = (b1.mass[t], b1.mass[t + 1]) if correct_mu else (1, 1)
    mass2 = b2.mass[t] if correct_nu else 1
    m_hat = b1[t + 1] * m / mass1_next + (1 - b1[t]) * g / mass1 if nesterov else m / mass1
    if max_of == 'raw':
      s_max = np.maximum(s_max, s)
      s_hat = s_max / mass2
    elif max_of == 'corrected':
      s_hat = s_max = np.maximum(s_max, s / mass2)
    else:
      s_hat = s / mass2
    if eps_scaled:
      u = divide(m_hat, (np.sqrt(s_hat * mass2 + eps_root) + eps) / np.sqrt(mass2))
    else:
      u = divide(m_hat, np.sqrt(s_hat + eps_root) + eps)
    if rectify:
      r = rectifier(b2, t, threshold)
      u = r * u if r is not None else m_hat * degenerate_to_sgd
    if max_step is not None:
      u = u * at(max_step, t) / np.maximum(abs(u), at(max_step, t))
    yield u


def adabelief(grads, b1=0.9, b2=0.999, eps=1e-16, eps_root=1e-16, rectify=False, amsgrad=False, **options):
  options = {'residual': 'current', 'max_of': 'raw' if amsgrad else None, **options}
  return adaptive(grads, b1=b1, b2=b2, eps=eps, eps_stored=eps_root, rectify=rectify, **options)


def adam(grads, b1=0.9, b2=0.999, eps=1e-8, bias_correction=True, **options):
  return adaptive(grads, b1=b1, b2=b2, eps=eps, correct_mu=bias_correction, correct_nu=bias_correction, **options)


def nadam(grads, **options):
  return adam(grads, nesterov=True, **options)


def amsgrad(
  grads, b1=0.9, b2=0.999, eps=1e-8, bias_correction_mu=True, bias_correction_nu=True, max_of='corrected', **options
):
  options = {'correct_mu': bias_correction_mu, 'correct_nu': bias_correction_nu, 'max_of': max_of, **options}
  return adaptive(grads, b1=b1, b2=b2, eps=eps, **options)


def radam(grads, b1=0.9, b2=0.999, eps=1e-8, threshold=5.0, **options):
  return adaptive(grads, b1=b1, b2=b2, eps=eps, rectify=True, threshold=threshold, **options)


def stable_adamw(grads, params, learning_rate, b1, b2, eps, weight_decay):
  """All updates of one array: Wortsman et al., Algorithm 2, whose rates carry the correction of the bias."""
  v = u = 0.0
  b1, b2, params = wide(b1), wide(b2), wide(params)
  for t, g in enumerate(wide(grads), 1):
    hat = lambda b, t=t: b * (1 - b ** (t - 1)) / (1 - b**t)
    v = hat(b1) * v + (1 - hat(b1)) * g
    u = hat(b2) * u + (1 - hat(b2)) * abs(g) ** 2
    rms = np.sqrt(np.mean(abs(g) ** 2 / np.maximum(u, wide(eps) ** 2)))
    eta = learning_rate / max(1, rms)
    yield -(eta * weight_decay * params + eta * v / (np.sqrt(u) + eps))


def rmsprop(grads, decay=0.9, eps=1e-8, initial_scale=0.0, eps_in_sqrt=True, centered=False, bias_correction=False):
  decay = Rate(decay, len(grads))
  mean, square = 0.0, wide(initial_scale)
  for t, g in enumerate(grads, 1):
    mean = decay[t] * mean + (1 - decay[t]) * g
    square = decay[t] * square + (1 - decay[t]) * abs(g) ** 2
    mass = decay.mass[t] if bias_correction else 1
    v = square / mass
    if centered:
      v = np.maximum(v - abs(mean / mass) ** 2, 0)  # 0 or a rounding error below it, where all gradients were equal
    yield divide(g, np.sqrt(v + eps) if eps_in_sqrt else np.sqrt(v) + eps)


def adagrad(grads, initial_accumulator_value=0.1, eps=1e-7, eps_in_sqrt=True):
  v = wide(initial_accumulator_value)
  for g in grads:
    v = v + abs(g) ** 2
    yield divide(g, np.sqrt(v + eps) if eps_in_sqrt else np.sqrt(v) + eps)


def sgd(grads, momentum=None, nesterov=False, dampening=0.0, first_buffer='dampened'):
  return map(MomentumBuffer(momentum, nesterov, dampening, first_buffer), grads)


class MomentumBuffer:
  """c_t = d c_{t-1} + (1 - tau) g_t."""

  def __init__(self, momentum, nesterov=False, dampening=0.0, first_buffer='dampened'):
    self.momentum, self.nesterov, self.dampening, self.first_buffer = momentum, nesterov, dampening, first_buffer
    self.c, self.t = 0.0, 0

  def __call__(self, g):
    if self.momentum is None:
      return g
    self.t += 1
    d, tau = at(self.momentum, self.t), at(self.dampening, self.t)
    self.c = g if self.t == 1 and self.first_buffer == 'undampened' else d * self.c + (1 - tau) * g
    return g + d * self.c if self.nesterov else self.c


def laprop(grads, b1=0.9, b2=0.999, eps=1e-15):
  b1, b2 = Rate(b1, len(grads)), Rate(b2, len(grads))
  m = v = 0.0
  for t, g in enumerate(grads, 1):
    v = b2[t] * v + (1 - b2[t]) * abs(g) ** 2
    m = b1[t] * m + (1 - b1[t]) * divide(g, np.sqrt(v / b2.mass[t]) + eps)
    yield m / b1.mass[t]


def adamax(grads, b1=0.9, b2=0.999, eps=1e-8):
  b1, b2 = Rate(b1, len(grads)), Rate(b2, len(grads))
  m = n = 0.0
  for t, g in enumerate(grads, 1):
    m = b1[t] * m + (1 - b1[t]) * g
    n = np.maximum(b2[t] * n, abs(g) + eps)
    yield divide(m / b1.mass[t], n)


def lion(grads, b1=0.9, b2=0.99):
  m = 0.0
  for t, g in enumerate(grads, 1):
    c = at(b1, t) * m + (1 - at(b1, t)) * g
    m = at(b2, t) * m + (1 - at(b2, t)) * g
    yield divide(c, abs(c))


def yogi(grads, b1=0.9, b2=0.999, eps=1e-3, initial_accumulator_value=1e-6):
  b1, b2 = Rate(b1, len(grads)), Rate(b2, len(grads))
  m, v = 0.0, wide(initial_accumulator_value)
  for t, g in enumerate(grads, 1):
    m = b1[t] * m + (1 - b1[t]) * g
    v = v - (1 - b2[t]) * np.sign(v - abs(g) ** 2) * abs(g) ** 2
    yield divide(m / b1.mass[t], np.sqrt(v / b2.mass[t]) + eps)


def adam_atan2(grads, b1=0.9, b2=0.999, a=1.27, b=1.0):
  b1, b2 = Rate(b1, len(grads)), Rate(b2, len(grads))
  m = v = 0.0
  for t, g in enumerate(grads, 1):
    m = b1[t] * m + (1 - b1[t]) * g
    v = b2[t] * v + (1 - b2[t]) * abs(g) ** 2
    yield a * np.arctan2(m / b1.mass[t], b * np.sqrt(v / b2.mass[t]))


def adopt(grads, b1=0.9, b2=0.9999, eps=1e-6, clip_power=0.25):
  m = v = 0.0
  for t, g in enumerate(grads, 1):
    if t == 1:
      v = abs(g) ** 2
      yield 0 * g
      continue
    u = g / np.maximum(np.sqrt(v), eps)
    u = u if clip_power is None else np.clip(u, -((t - 1) ** wide(clip_power)), (t - 1) ** wide(clip_power))
    m = at(b1, t) * m + (1 - at(b1, t)) * u
    v = at(b2, t) * v + (1 - at(b2, t)) * abs(g) ** 2
    yield m


def adan(grads, b1=0.98, b2=0.92, b3=0.99, eps=1e-8):
  b1, b2, b3 = (Rate(b, len(grads)) for b in (b1, b2, b3))
  m = v = n = 0.0
  before = grads[0]
  for t, g in enumerate(grads, 1):
    m = b1[t] * m + (1 - b1[t]) * g
    v = b2[t] * v + (1 - b2[t]) * (g - before)
    n = b3[t] * n + (1 - b3[t]) * abs(g + b2[t] * (g - before)) ** 2
    before = g
    yield divide(m / b1.mass[t] + b2[t] * v / b2.mass[t], np.sqrt(n / b3.mass[t]) + eps)


def ademamix(grads, b1=0.9, b2=0.999, b3=0.9999, alpha=5.0, eps=1e-8, warmup_steps=None):
  rates = Rate(b1, len(grads)), Rate(b2, len(grads))
  m = slow = v = 0.0
  for t, g in enumerate(grads, 1):
    risen = wide(min(t / warmup_steps, 1.0)) if warmup_steps else wide(1.0)
    log1, log3 = (np.log(np.longdouble(at(b, t))) for b in (b1, b3))
    now = np.exp(log1 * log3 / ((1 - risen) * log3 + risen * log1))
    m = rates[0][t] * m + (1 - rates[0][t]) * g
    slow = now * slow + (1 - now) * g
    v = rates[1][t] * v + (1 - rates[1][t]) * abs(g) ** 2
    yield divide(m / rates[0].mass[t] + risen * alpha * slow, np.sqrt(v / rates[1].mass[t]) + eps)


def mars(grads, b1=0.95, b2=0.99, eps=1e-8, gamma=0.025, max_norm=1.0):
  exact = wide(b1)
  before = [grads[0], *grads[:-1]]
  corrected = [g + gamma * exact / (1 - exact) * (g - old) for g, old in zip(grads, before, strict=True)]
  clipped = [c / np.maximum(np.sqrt(np.sum(abs(c) ** 2)) / max_norm, 1) for c in corrected]
  return adam(clipped, b1=b1, b2=b2, eps=eps)


def padam(grads, b1=0.9, b2=0.999, eps=1e-8, partial=0.25, amsgrad=True):
  b1, b2 = Rate(b1, len(grads)), Rate(b2, len(grads))
  m = v = largest = 0.0
  for t, g in enumerate(grads, 1):
    m = b1[t] * m + (1 - b1[t]) * g
    v = b2[t] * v + (1 - b2[t]) * abs(g) ** 2
    largest = np.maximum(largest, v) if amsgrad else v
    yield np.sqrt(b2.mass[t]) / b1.mass[t] * divide(m, (np.sqrt(largest) + eps) ** (2 * wide(partial)))


def acprop(grads, b1=0.9, b2=0.999, eps=1e-16, eps_root=1e-16, degenerate_to_sgd=False):
  b2 = Rate(b2, len(grads))
  m = s = 0.0
  for t, g in enumerate(grads, 1):
    yield divide(g, np.sqrt(s / b2.mass[t - 1]) + eps) if t > 1 else g * degenerate_to_sgd
    m = at(b1, t) * m + (1 - at(b1, t)) * g
    s = b2[t] * s + (1 - b2[t]) * abs(g - m) ** 2 + eps_root


def eadam(grads, eps=0.0, eps_root=1e-8, **options):
  return adam(grads, eps=eps, eps_stored=eps_root, **options)


def adamomentum(grads, b1=0.9, b2=0.999, eps=0.0, eps_root=1e-16):
  b1, b2 = Rate(b1, len(grads)), Rate(b2, len(grads))
  m = v = 0.0
  for t, g in enumerate(grads, 1):
    m = b1[t] * m + (1 - b1[t]) * g
    v = b2[t] * v + (1 - b2[t]) * abs(m) ** 2 + eps_root
    yield divide(m / b1.mass[t], np.sqrt(v / b2.mass[t]) + eps)


def ratio_steps(name, grads, params, learning_rate, weight_decay, trust_coefficient=0.001, eps=None, **options):
  """All updates of LAMB or LARS."""
  lars = name == 'lars'
  norm = lambda x: np.sqrt(np.sum(abs(x) ** 2))
  buffer = MomentumBuffer(options.pop('momentum', 0.9), options.pop('nesterov', False)) if lars else lambda u: u
  coefficient, added = (trust_coefficient, eps or 0.0) if lars else (1, 0)
  updates = []
  for t, u in enumerate(grads if lars else adam(grads, eps=1e-6 if eps is None else eps, **options), 1):
    u = u + at(weight_decay, t) * params
    ratio = coefficient * norm(params) / (norm(u) + added) if norm(params) * norm(u) > 0 else 1
    updates.append(buffer(-at(learning_rate, t) * ratio * u))
  return np.stack(updates)


ALGORITHMS = {
  'adabelief': adabelief,
  'scale_by_belief': functools.partial(adabelief, rectify=False),
  'adam': adam,
  'adamw': adam,
  'nadam': nadam,
  'nadamw': nadam,
  'amsgrad': amsgrad,
  'radam': radam,
  'rmsprop': rmsprop,
  'adagrad': adagrad,
  'sgd': sgd,
  'laprop': laprop,
  'adamax': adamax,
  'lion': lion,
  'yogi': yogi,
  'adam_atan2': adam_atan2,
  'adopt': adopt,
  'adan': adan,
  'ademamix': ademamix,
  'mars': mars,
  'padam': padam,
  'acprop': acprop,
  'eadam': eadam,
  'adamomentum': adamomentum,
}


# The scalars of a step.


class Rate:
  """b_1, b_2, ... of a decay rate, and `mass[t]` = 1 - b_1 ... b_t."""

  def __init__(self, rate, steps):
    self.constant = None if callable(rate) else Decimal(float(rate))
    exact = [Decimal(float(at(rate, t))) for t in range(1, steps + 2)]
    self.products = [Decimal(1)]
    for b in exact:
      self.products.append(DIGITS.multiply(self.products[-1], b))
    self.mass = [wide(DIGITS.subtract(1, p)) for p in self.products]
    self.values = [None, *map(wide, exact)]

  def __getitem__(self, t):
    return self.values[t]


def rectifier(b2, t, threshold):
  """r_t, or None while rho_t is under the threshold."""
  # A schedule counts as the constant rate with the same product.
  b = b2.constant or DIGITS.power(b2.products[t], DIGITS.divide(1, t))
  rho, rho_inf = lengths(b, t)
  return wide(root_of_ratio(rho, rho_inf)) if rho >= Decimal(float(at(threshold, t))) else None


@functools.cache
def lengths(b, t):
  """rho_t and rho_inf of a constant rate, in 50 digits."""
  with decimal.localcontext(DIGITS):
    b = Decimal(b)
    rho_inf = 2 / (1 - b) - 1
    return rho_inf - 2 * t * b**t / (1 - b**t), rho_inf


def root_of_ratio(rho, rho_inf):
  """r_t of rho_t > 4, in 50 digits."""
  with decimal.localcontext(DIGITS):
    return ((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho)).sqrt()


# Numbers.


def wide(x):
  """Numbers in extended precision."""
  if isinstance(x, Decimal):
    return np.longdouble(str(x))
  x = np.asarray(x)
  return x.astype(np.clongdouble if np.iscomplexobj(x) else np.longdouble)


def at(hyperparameter, t):
  """A hyperparameter at step t = 1, 2, ..."""
  return np.longdouble(hyperparameter(t - 1) if callable(hyperparameter) else hyperparameter)


def divide(a, d):
  """A / d; what has no scale (d = 0) does not move."""
  return np.where(d > 0, a / np.where(d > 0, d, 1), 0)
