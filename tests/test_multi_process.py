"""Two processes that train, are killed and resume: no step is lost beyond the last complete checkpoint, no bit changes.

It runs examples/multi_process.py as users do, and reads the checkpoints that it leaves.
"""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import jax
import matplotlib.image
import numpy as np
import orbax.checkpoint as ocp
import pytest
from test_examples import ENVIRONMENT, command

EXAMPLES = Path(__file__).parents[1] / 'examples'
STEPS = 200
EVERY = 30  # steps between checkpoints


def start(out, *options):
  """The training in a process group of its own."""
  pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.STDOUT, 'text': True}
  return subprocess.Popen(command('multi_process', '--out', out, *options), env=ENVIRONMENT, process_group=0, **pipes)


def run(out, *options):
  """Its exit status, and what all of its processes said."""
  with start(out, *options) as process:
    try:
      said, _ = process.communicate(timeout=300)
    finally:
      with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
  return process.returncode, said


def steps(out):
  """The steps of which there is a complete checkpoint, and of which there is an incomplete one."""
  names = [path.name for path in (out / 'checkpoints').glob('*')]
  incomplete = [int(name.split('.')[0]) for name in names if 'tmp' in name]
  return sorted(int(name) for name in names if name.isdecimal()), incomplete


@pytest.fixture(scope='module')
def example():
  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(EXAMPLES)
    import multi_process

    yield multi_process


@pytest.fixture(scope='module')
def final(example):
  """Reads the last checkpoint: parameters, state and losses as numpy arrays."""
  target = example.start(jax.make_mesh((4,), ('data',), axis_types=(jax.sharding.AxisType.Auto,)))[1]

  def read(out):
    with ocp.StandardCheckpointer() as checkpointer:
      return jax.tree.map(np.asarray, checkpointer.restore(out / 'checkpoints' / str(STEPS) / 'default', target))

  return read


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory):
  out = tmp_path_factory.mktemp('uninterrupted')
  status, said = run(out)
  assert status == 0, said
  assert '2 processes, 4 devices: starts at step 0\n' in said
  assert f'finished at step {STEPS}, ' in said
  assert matplotlib.image.imread(out / 'multi_process.png')[..., :3].std() > 0.01
  return out


def equal(a, b):
  jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, y, strict=True), a, b)


def close(a, b):
  """To the rounding of float32, in relation to the largest number of an array."""
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=2e-6 * np.abs(y).max()), a, b)


@pytest.fixture(scope='module')
def killed(tmp_path_factory):
  """What is left of a run of which a process was killed while it saved."""
  out = tmp_path_factory.mktemp('killed')
  status, said = run(out, '--kill-at', 3 * EVERY)
  assert status == 1
  assert 'process 1 ended by SIGKILL: start again to go on from the last checkpoint\n' in said
  assert steps(out) == ([EVERY, 2 * EVERY], [3 * EVERY]), 'was killed during the save'
  return out


@pytest.mark.full
def test_resumed_on_as_many_processes(uninterrupted, killed, final, tmp_path):
  """All bits are those of the run that nothing interrupted."""
  shutil.copytree(killed, tmp_path, dirs_exist_ok=True)
  status, said = run(tmp_path)
  assert status == 0, said
  assert f'2 processes, 4 devices: starts at step {2 * EVERY}\n' in said
  assert steps(tmp_path) == ([5 * EVERY, 6 * EVERY, STEPS], [])
  equal(final(tmp_path), final(uninterrupted))


@pytest.mark.slow
def test_resumed_on_one_process(uninterrupted, killed, final, tmp_path):
  """As many devices, of which sums are taken in another order."""
  shutil.copytree(killed, tmp_path, dirs_exist_ok=True)
  status, said = run(tmp_path, '--processes', 1, '--devices', 4)
  assert status == 0, said
  assert f'1 processes, 4 devices: starts at step {2 * EVERY}\n' in said
  close(final(tmp_path), final(uninterrupted))


def until_it_starts(process):
  """What it says up to where it has resumed."""
  return next(line for line in process.stdout if 'starts at' in line)


def kill(out, rng, every):
  """Runs until it is killed: one worker during a save or between saves, or all at once; returns the status."""
  kept = max(steps(out)[0], default=0)
  match rng.choice(['a worker, saving', 'a worker, between saves', 'all']):
    case 'a worker, saving':
      status, said = run(out, '--save-every', every, '--kill-at', kept + every)
    case 'a worker, between saves':
      status, said = run(out, '--save-every', every, '--kill-at', kept + rng.randrange(1, 2 * every))
    case 'all':
      with start(out, '--save-every', every) as process:
        said = until_it_starts(process)
        time.sleep(rng.uniform(0, 2))
        os.killpg(process.pid, signal.SIGKILL)
        said += process.stdout.read()
      status = process.returncode
  assert f'starts at step {kept}\n' in said, said
  return status


@pytest.mark.slow
@pytest.mark.parametrize('seed', range(2))
def test_killed_ten_times(uninterrupted, final, tmp_path, seed):
  rng, every, kills = random.Random(seed), 6, 0
  while kills < 10:
    before = steps(tmp_path)[0][-1:]
    if before and before[0] >= STEPS - 2 * every:  # too near to the end to be killed once more
      shutil.rmtree(tmp_path / 'checkpoints')
      before = []
    kills += kill(tmp_path, rng, every) != 0  # it may have come to its end before
    assert steps(tmp_path)[0][-1:] >= before, 'a complete checkpoint was lost'
  status, said = run(tmp_path, '--save-every', every)
  assert status == 0, said
  equal(final(tmp_path), final(uninterrupted))


@pytest.mark.slow
@pytest.mark.skipif(signal.getsignal(signal.SIGINT) is signal.SIG_IGN, reason='Ctrl-C is ignored here, so there too')
def test_ctrl_c_ends_all_processes(tmp_path):
  with start(tmp_path) as process:
    until_it_starts(process)
    os.killpg(process.pid, signal.SIGINT)
    said = process.stdout.read()  # ends when the last of them has
  assert process.returncode == 130
  assert said.endswith('stopped: start again to go on from the last checkpoint\n')
  assert 'Traceback' not in said


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    (['--kill-at', '0'], "argument --kill-at: must be a whole number >= 1, got '0'"),
    (['--processes', 'two'], "argument --processes: must be a whole number >= 1, got 'two'"),
    (['--coordinator', 'host:1'], '--coordinator, --num-processes and --process-id are given together, or not at all'),
    (
      ['--processes', '2', '--coordinator', 'host:1', '--num-processes', '2', '--process-id', '1'],
      '--processes starts processes on this machine; with --coordinator each is started by itself',
    ),
    (
      ['--coordinator', 'host:1', '--num-processes', '2', '--process-id', '2'],
      'argument --process-id: must be below --num-processes, 2, got 2',
    ),
  ],
)
def test_wrong_options(example, tmp_path, capsys, options, message):
  with pytest.raises(SystemExit, match=r'^2$'):
    example.parse(['--out', str(tmp_path), *options])
  assert message in capsys.readouterr().err
