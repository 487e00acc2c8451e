"""What the examples share: the digits, where the figures go and how they look."""

import argparse
import os
from pathlib import Path

import jax.numpy as jnp
import matplotlib
import numpy as np

from belief_optax.comparison.colors import color_of

matplotlib.use('Agg')  # draws into files; needs no screen

# The colors of the comparison, so that an optimizer has the same one everywhere.
COLORS = {name: color_of(name) for name in ('AdaBelief', 'Adam', 'AdamW', 'RAdam', 'RMSProp', 'SGD')}

matplotlib.rcParams.update(
  {
    'axes.axisbelow': True,
    'axes.grid': True,
    'axes.prop_cycle': matplotlib.cycler(color=COLORS.values()),
    'axes.spines.right': False,
    'axes.spines.top': False,
    'axes.titlesize': 'medium',
    'figure.constrained_layout.use': True,
    'figure.dpi': 150,
    'font.size': 10,
    'grid.alpha': 0.25,
    'legend.frameon': False,
  }
)


def digits(test_size=500):
  """scikit-learn's 1797 handwritten digits: train images [n, 64] in 0..1, train labels [n], test images and labels."""
  from sklearn.datasets import load_digits  # takes seconds, and not every example needs it
  from sklearn.model_selection import train_test_split

  images, labels = load_digits(return_X_y=True)
  images = (images / 16).astype(np.float32)
  train, test, y_train, y_test = train_test_split(images, labels, test_size=test_size, stratify=labels, random_state=0)
  return tuple(map(jnp.asarray, (train, y_train, test, y_test)))


def directory(text):
  """A directory to write into, made if need be; the type of `--out`."""
  path = Path(text)
  try:
    path.mkdir(parents=True, exist_ok=True)
  except OSError as e:
    raise argparse.ArgumentTypeError(f'cannot make the directory {text!r}: {e.strerror}') from None
  if not os.access(path, os.W_OK):
    raise argparse.ArgumentTypeError(f'cannot write into {text!r}')
  return path


def whole_number(least):
  """The type of an option that is a whole number from `least` on."""

  def parse(text):
    if not text.isdecimal() or int(text) < least:
      raise argparse.ArgumentTypeError(f'must be a whole number >= {least}, got {text!r}')
    return int(text)

  return parse


def arguments(doc, name):
  """A parser with the option `--out`."""
  parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--out', type=directory, default=f'out/{name}', help='directory of the figures (%(default)s)')
  return parser


def plot_loss(axes, losses, window=20, **style):
  """The loss of each batch, pale, and its mean over windows."""
  axes.plot(1 + np.arange(len(losses)), losses, **style | {'alpha': 0.25, 'linewidth': 0.7, 'label': None})
  means = np.asarray(losses)[: len(losses) // window * window].reshape(-1, window).mean(1)
  axes.plot(window * (np.arange(len(means)) + 0.5), means, **style)
  axes.set(ylabel='cross entropy of the batch', yscale='log')


def save(figure, path):
  figure.savefig(path)
  print(f'drew {path}', flush=True)
