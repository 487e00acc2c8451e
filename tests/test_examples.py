"""The examples, as users run them: from the command line."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import matplotlib.image
import numpy as np
import pytest

import belief_optax as bo

EXAMPLES = Path(__file__).parents[1] / 'examples'
OTHERWISE = ('XLA_FLAGS', 'MPLBACKEND', 'FORCE_COLOR', 'COLUMNS')  # what would make the run another than a user's
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in OTHERWISE}
FIGURES = {
  'bias_correction': ['bias_correction.png'],
  'chain': ['chain.png'],
  'diagnostics': ['diagnostics.png'],
  'digits': ['curves.png', 'step_sizes.png'],
  'landscapes': ['landscapes.png'],
  'multi_device': ['multi_device.png'],
  'train_state': ['train_state.png'],
}
QUICK = {
  'diagnostics': ('--steps', '20'),
  'digits': ('--epochs', '1', '--seeds', '1', '--optimizer', 'adabelief,Adam', '--optimizer', 'sgd'),
}
SAID = {
  'bias_correction': ['constant: the step at t = 10 is 1.0e+00; with the mistake it is 6.6e-08'],
  'chain': ['running_max(eps_root=0.0)', '1200 small batches, 300 steps'],
  'digits': ['AdaBelief: test loss', 'Adam: test loss', 'SGD: test loss', 'one seed: no spread, so no ranking'],
  'landscapes': ['3901', '500', '16864', 'Rosenbrock'],
  'diagnostics': ['first rectified step', 'eps_share', 'mean_code_error', 'biases'],
  'multi_device': [
    'parameters                     1.15 MiB        1.15 MiB       0.14 MiB',
    'optimizer state                2.30 MiB        0.29 MiB       0.29 MiB',
  ],
  'train_state': ['belief_optax.adabelief, optimizer 2: traces of the step: 0'],
}


def command(name, *options):
  return [sys.executable, str(EXAMPLES / f'{name}.py'), *map(str, options)]


def run(name, *options):
  return subprocess.run(command(name, *options), env=ENVIRONMENT, capture_output=True, text=True, check=False)


@pytest.fixture
def digits(monkeypatch):
  monkeypatch.syspath_prepend(EXAMPLES)
  import digits

  return digits


def test_all_examples_are_tested():
  assert {path.stem for path in EXAMPLES.glob('[!_]*.py')} == {*FIGURES, 'multi_process'}  # see test_multi_process.py


@pytest.mark.parametrize('name', [pytest.param(n, marks=() if n == 'chain' else pytest.mark.full) for n in FIGURES])
def test_example_draws_what_it_says(name, tmp_path):
  out = tmp_path / 'made' / 'for it'
  done = run(name, '--out', out, *QUICK.get(name, ()))
  assert done.returncode == 0, done.stderr
  assert 'Warning' not in done.stderr
  assert '\x1b' not in done.stdout + done.stderr, 'escape codes in a pipe'
  assert 'epochs, test accuracy' not in done.stdout, 'a progress bar in a pipe'
  for sentence in SAID[name]:
    assert sentence in done.stdout
  assert sorted(path.name for path in out.glob('*.png')) == FIGURES[name]
  if name == 'multi_device':
    differences = re.search('largest difference of a loss(.*)', done.stdout)[1].split()
    assert len(differences) == 3
    assert all(float(difference) < 1e-4 for difference in differences), 'the losses differ by more than rounding'
  for figure in FIGURES[name]:
    assert f'drew {out / figure}\n' in done.stdout
    assert matplotlib.image.imread(out / figure)[..., :3].std() > 0.01


@pytest.mark.slow
@pytest.mark.skipif(signal.getsignal(signal.SIGINT) is signal.SIG_IGN, reason='Ctrl-C is ignored here, so there too')
def test_ctrl_c_says_what_was_finished(tmp_path):
  arguments = command('digits', '--epochs', 1, '--seeds', 2, '--out', tmp_path)
  with subprocess.Popen(
    arguments, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
  ) as process:
    assert process.stdout.readline().startswith('AdaBelief: test loss')
    process.send_signal(signal.SIGINT)
    said, errors = process.communicate(timeout=120)
  assert process.returncode == 130, errors
  assert errors == ''
  assert 'Stopped. Finished: AdaBelief (1 of 6 optimizers).' in said
  assert 'After the last epoch' in said
  assert 'drew' not in said


def test_ctrl_c_waits_for_the_end_of_an_epoch(digits):
  before = signal.getsignal(signal.SIGINT)
  try:
    stop = digits.on_ctrl_c()
    assert not stop.is_set()
    os.kill(os.getpid(), signal.SIGINT)  # raises nothing
    assert stop.is_set()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL  # a second one ends the process
  finally:
    signal.signal(signal.SIGINT, before)


@pytest.mark.full  # in the process of the tests: test_wrong_values
def test_a_wrong_value_is_an_error_without_a_traceback(tmp_path):
  file = tmp_path / 'file'
  file.touch()
  done = run('digits', '--out', file)
  assert done.returncode == 2
  assert done.stderr.endswith(f'error: argument --out: cannot make the directory {str(file)!r}: File exists\n')
  assert 'Traceback' not in done.stderr


@pytest.mark.parametrize(
  ('option', 'value', 'message'),
  [
    ('--optimizer', 'adan', "unknown optimizer 'adan'; choose from adabelief, adam, adamw, radam, rmsprop, sgd"),
    ('--optimizer', 'adam,', "unknown optimizer ''; choose from"),
    ('--seeds', '0', "argument --seeds: must be a whole number >= 1, got '0'"),
    ('--seeds', '2.5', "argument --seeds: must be a whole number >= 1, got '2.5'"),
    ('--epochs', '-1', "argument --epochs: must be a whole number >= 1, got '-1'"),
    ('--learning-rate', '0', "argument --learning-rate: must be a finite number > 0, got '0'"),
    ('--learning-rate', 'inf', "argument --learning-rate: must be a finite number > 0, got 'inf'"),
    ('--learning-rate', 'nan', "argument --learning-rate: must be a finite number > 0, got 'nan'"),
    ('--learning-rate', 'fast', "argument --learning-rate: must be a finite number > 0, got 'fast'"),
  ],
)
def test_wrong_values(digits, tmp_path, capsys, option, value, message):
  with pytest.raises(SystemExit, match=r'^2$'):
    digits.main(['--out', str(tmp_path), option, value])
  assert message in capsys.readouterr().err


@pytest.mark.full
def test_optimizers_start_equal_and_differ_afterwards(digits):
  data = digits.digits()
  one, two = (digits.train(name, data, seeds=2, epochs=1) for name in ('Adam', 'SGD'))
  assert np.array_equal(one.test_loss[0], two.test_loss[0])
  assert one.test_loss[0, 0] != one.test_loss[0, 1]
  assert not np.any(one.test_loss[1] == two.test_loss[1])
  again = digits.train('Adam', data, seeds=2, epochs=1)
  assert np.array_equal(one.test_loss, again.test_loss)


def test_the_step_size_is_what_adam_multiplies_the_mean_with(digits):
  tx, params = bo.adam(0.1), {'w': jnp.zeros(100)}
  state = tx.init(params)
  for t in range(1, 4):
    grads = {'w': jnp.sin(t * jnp.arange(100.0))}  # the first has no gradient
    updates, state = tx.update(grads, state, params)
    found = digits.step_sizes(grads, updates, state)
    root = jnp.sqrt(state.slots['nu']['w'] / (1 - 0.999**t))
    np.testing.assert_allclose(found[1:], (0.1 / (root + 1e-8))[::37][1:], rtol=1e-3)
    assert np.isnan(found[0])


def test_ties(digits):
  low, near, far = np.array([1.0, 2.0, 3.0]), np.array([2.5, 3.0, 3.5]), np.array([9.0, 9.0, 9.0])
  assert digits.ties([far, low, near]) == [False, True, True]
  assert digits.ties([np.array([np.nan, 1.0]), np.array([2.0, 3.0])]) == [False, True]
