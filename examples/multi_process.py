"""Training on several processes that may die: ZeRO-1, checkpoints while training goes on, and resumption.

  python examples/multi_process.py                 # two processes on this machine, two simulated devices each
  python examples/multi_process.py --kill-at 90    # the same, but one of them is killed while step 90 is being saved
  python examples/multi_process.py                 # goes on from the last checkpoint, to the same last digit
  python examples/multi_process.py --processes 1 --devices 4    # or on another number of processes

On a cluster, start it once per process, with a directory that all of them see:

  python examples/multi_process.py --coordinator HOST:PORT --num-processes N --process-id I --checkpoints DIR

Everything that a resumption needs is in one checkpoint: parameters, the optimizer's state, whose count is the number of
the step, and the losses so far. The batch depends on the number of the step alone. Where one process dies the others
cannot go on, so all are started again: a checkpoint becomes visible only when every process has written its part.
"""

import functools
import os
import signal
import socket
import subprocess
import sys
import time

import jax
import matplotlib.pyplot as plt
import numpy as np
import optax
import orbax.checkpoint as ocp
from _common import COLORS, arguments, digits, directory, plot_loss, save, whole_number
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import belief_optax as bo
from belief_optax import sharding

STEPS, BATCH, WIDTH = 200, 64, 256
OPTIMIZER = bo.adabelief(optax.cosine_decay_schedule(1e-2, STEPS), weight_decay=1e-3)


def loss(params, images, labels):
  hidden = jax.nn.relu(images @ params['hidden']['kernel'] + params['hidden']['bias'])
  logits = hidden @ params['head']['kernel'] + params['head']['bias']
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def init():
  rng = np.random.default_rng(0)
  layer = lambda n, m: {
    'kernel': (rng.normal(size=(n, m)) / np.sqrt(n)).astype(np.float32),
    'bias': np.zeros(m, np.float32),
  }
  return {'hidden': layer(64, WIDTH), 'head': layer(WIDTH, 10)}


def start(mesh):
  """The optimizer, and what a checkpoint holds, at the first step."""
  replicated = NamedSharding(mesh, P())
  tx = sharding.zero1(OPTIMIZER, replicated, axis='data', min_size=0)
  params = jax.device_put(init(), replicated)
  losses = jax.device_put(np.zeros(STEPS, np.float32), replicated)
  return tx, {'params': params, 'state': sharding.init_sharded(tx, params, replicated), 'losses': losses}


def batches(mesh, step):
  """The images and labels of a step, of which each process puts its own part onto its devices."""
  images, labels, *_ = map(np.asarray, digits())
  split = NamedSharding(mesh, P('data'))
  for t in range(step, STEPS):
    rows = np.random.default_rng(t).integers(len(images), size=BATCH)
    yield tuple(
      jax.make_array_from_callback((BATCH, *x.shape[1:]), split, x[rows].__getitem__) for x in (images, labels)
    )


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def train_step(tx, now, images, labels):
  value, grads = jax.value_and_grad(loss)(now['params'], images, labels)
  updates, state = tx.update(grads, now['state'], now['params'])
  losses = now['losses'].at[now['state'].count].set(value)
  return {'params': optax.apply_updates(now['params'], updates), 'state': state, 'losses': losses}


def train(options):
  """What each process does."""
  mesh = jax.make_mesh((jax.device_count(),), ('data',), axis_types=(AxisType.Auto,))
  tx, now = start(mesh)
  say = functools.partial(print, flush=True) if jax.process_index() == 0 else lambda *_: None
  tidy = ocp.CheckpointManagerOptions(max_to_keep=3, cleanup_tmp_directories=True)
  with ocp.CheckpointManager(options.checkpoints.resolve(), options=tidy) as checkpoints:
    resumed = checkpoints.latest_step()
    if resumed is not None:
      now = checkpoints.restore(resumed, args=ocp.args.StandardRestore(now))  # placed as what it replaces
    say(f'{jax.process_count()} processes, {jax.device_count()} devices: starts at step {resumed or 0}')
    for step, batch in enumerate(batches(mesh, resumed or 0), 1 + (resumed or 0)):
      now = train_step(tx, now, *batch)
      if step % options.save_every == 0 or step == STEPS:
        # Copies the arrays to the host and returns; they are written while the next steps are taken.
        checkpoints.save(step, args=ocp.args.StandardSave(now))
      if step == options.kill_at and jax.process_index() == jax.process_count() - 1:
        os.kill(os.getpid(), signal.SIGKILL)
  losses = np.asarray(now['losses'])
  say(f'finished at step {int(now["state"].count)}, mean loss of the last 20 steps {losses[-20:].mean():.7f}')
  if jax.process_index() == 0:
    draw(losses, resumed, options.out / 'multi_process.png')


def draw(losses, resumed, path):
  figure, axes = plt.subplots(figsize=(6.5, 4))
  plot_loss(axes, losses, color=COLORS['AdaBelief'], label='AdaBelief, ZeRO-1')
  if resumed:
    axes.axvline(resumed, color=COLORS['Adam'], linestyle='--', label=f'resumed from step {resumed}')
  axes.set(xlabel='step', title=f'Handwritten digits on {jax.process_count()} processes, {jax.device_count()} devices')
  axes.legend()
  save(figure, path)


def connect(options):
  """Joins the other processes, before any use of a device."""
  if options.devices:
    jax.config.update('jax_platforms', 'cpu')
    jax.config.update('jax_num_cpu_devices', options.devices)
  if options.num_processes > 1:
    jax.config.update('jax_cpu_collectives_implementation', 'gloo')  # between CPU devices of different processes
    jax.distributed.initialize(
      options.coordinator, options.num_processes, options.process_id, heartbeat_timeout_seconds=10
    )


def launch(options):
  """Starts the processes on this machine and waits; where one dies the others are stopped. Returns an exit status."""
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    coordinator = f'127.0.0.1:{free.getsockname()[1]}'
  n = options.processes or 2
  settings = vars(options) | {'coordinator': coordinator, 'num_processes': n, 'devices': options.devices or 2}
  given = [f'--{name.replace("_", "-")}={value}' for name, value in settings.items() if value and name != 'processes']
  on_ctrl_c = signal.signal(signal.SIGINT, signal.SIG_IGN)  # which the processes inherit: Ctrl-C is for this one alone
  processes = [subprocess.Popen([sys.executable, __file__, *given, f'--process-id={i}']) for i in range(n)]
  signal.signal(signal.SIGINT, on_ctrl_c)
  try:
    while any(process.poll() is None for process in processes):
      if any(process.returncode for process in processes):
        break
      time.sleep(0.1)
  except KeyboardInterrupt:
    print('stopped: start again to go on from the last checkpoint', file=sys.stderr)
    return 130
  finally:
    dead = {i: process.returncode for i, process in enumerate(processes) if process.returncode}
    for process in processes:
      process.kill()
    for process in processes:
      process.wait()
  for i, status in dead.items():
    how = signal.Signals(-status).name if status < 0 else f'exit status {status}'
    print(f'process {i} ended by {how}: start again to go on from the last checkpoint', file=sys.stderr)
  return 1 if dead else 0


def parse(argv=None):
  parser = arguments(__doc__, 'multi_process')
  parser.add_argument('--checkpoints', type=directory, help='their directory (checkpoints, in that of the figures)')
  parser.add_argument('--save-every', type=whole_number(1), default=30, metavar='STEPS', help='(%(default)s)')
  parser.add_argument('--kill-at', type=whole_number(1), metavar='STEP', help='kill the last process after this step')
  here = parser.add_argument_group('on this machine')
  here.add_argument('--processes', type=whole_number(1), help='how many to start (2)')
  here.add_argument('--devices', type=whole_number(1), help='simulated devices of each process (2)')
  cluster = parser.add_argument_group('on a cluster, as jax.distributed.initialize takes them')
  cluster.add_argument('--coordinator', metavar='HOST:PORT', help='the address of process 0')
  cluster.add_argument('--num-processes', type=whole_number(1), help='how many are started in all')
  cluster.add_argument('--process-id', type=whole_number(0), help='which of them this is')
  options = parser.parse_args(argv)
  options.checkpoints = options.checkpoints or directory(options.out / 'checkpoints')
  given = [options.coordinator, options.num_processes, options.process_id]
  if any(x is not None for x in given) and None in given:
    parser.error('--coordinator, --num-processes and --process-id are given together, or not at all')
  if options.processes and options.coordinator:
    parser.error('--processes starts processes on this machine; with --coordinator each is started by itself')
  if options.num_processes is not None and options.process_id >= options.num_processes:
    parser.error(
      f'argument --process-id: must be below --num-processes, {options.num_processes}, got {options.process_id}'
    )
  return options


def main(options):
  if options.coordinator is None:
    return launch(options)
  connect(options)
  train(options)
  return 0


if __name__ == '__main__':
  sys.exit(main(parse()))
