"""`belief-optax plan`: the bytes of a training run on each device, before there is one."""

import argparse
import math
from typing import Any, get_args

import belief_optax as bo
from belief_optax import sharding
from belief_optax.cli.answer import Answer, Misuse, Table, add_format, sentences
from belief_optax.cli.numbers import count, gib, mesh, short, size
from belief_optax.cli.signature import OPTIMIZERS, built
from belief_optax.sharding.budget import LayoutName, bytes_of_state
from belief_optax.stores.base import STORES

ROUNDING = ('stochastic', 'compensated', 'split')
_MOST = 2**20  # devices that are tried


def add(commands: Any) -> None:
  """Declares the command."""
  parser = commands.add_parser(
    'plan',
    help='bytes of parameters, gradients and state per device, and what fits',
    description='Bytes of parameters, gradients and optimizer state on each device, by a formula per parameter '
    '(docs/scaling.md compares it with compiled programs). Activations and what a step allocates come on top.',
  )
  parser.add_argument('--params', type=count, required=True, metavar='N', help='how many parameters: 8e9, 8B, 350M')
  parser.add_argument(
    '--optimizer',
    choices=list(OPTIMIZERS),
    default='adabelief',
    metavar='NAME',
    help='a name that `describe --help` lists (default: %(default)s)',
  )
  parser.add_argument('--store', choices=list(STORES), default='float32', help='how the state is kept (%(default)s)')
  parser.add_argument(
    '--mesh',
    type=mesh,
    default=(1, 1),
    metavar='DATA[xMODEL]',
    help='devices of the data axis and, split over all arrays, of a model axis: 64, 64x8',
  )
  split = parser.add_mutually_exclusive_group()
  split.add_argument(
    '--zero1',
    dest='layout',
    action='store_const',
    const='zero1',
    default='plain',
    help='split the state over the data axis',
  )
  split.add_argument(
    '--fsdp',
    dest='layout',
    action='store_const',
    const='fsdp',
    default=argparse.SUPPRESS,
    help='split parameters, gradients and state over the data axis',
  )
  dtypes = ('float32', 'bfloat16', 'float16')
  parser.add_argument('--dtype', choices=dtypes, default='float32', help='of the parameters (%(default)s)')
  parser.add_argument('--grad-dtype', choices=dtypes, help='of the gradients (default: that of the parameters)')
  parser.add_argument('--round-updates', choices=ROUNDING, help='put round_updates last, for 16-bit parameters')
  parser.add_argument('--memory', type=size, default=80e9, metavar='BYTES', help='of a device: 80GB (the default)')
  add_format(parser)
  parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> Answer:
  """The plan."""
  data, model = arguments.mesh
  if arguments.round_updates and arguments.dtype == 'float32':
    raise Misuse('--round-updates is for parameters of 16 bits: add --dtype bfloat16.')
  where = {'model': model, 'dtype': arguments.dtype, 'grad_dtype': arguments.grad_dtype}
  memory, parameters = arguments.memory, arguments.params

  def on_device(store: str, devices: int = data, layout: LayoutName = arguments.layout) -> sharding.Budget:
    with sentences():
      return sharding.budget(_optimizer(arguments, store), parameters, devices, layout, **where)

  here = on_device(arguments.store)
  per_parameter, _ = bytes_of_state(_optimizer(arguments, arguments.store), arguments.dtype)
  fits = here.total <= memory
  # Linear but for the bytes of the count, which no model of this size feels.
  largest = math.floor(parameters * memory / here.total)
  fewest = _fewest(lambda n: on_device(arguments.store, n).total, memory)
  result = {
    'parameters': parameters,
    'optimizer': arguments.optimizer,
    'store': arguments.store,
    'layout': arguments.layout,
    'devices': {'data': data, 'model': model, 'all': data * model},
    'state_bytes_per_parameter': per_parameter,
    'bytes_per_device': {'params': here.params, 'grads': here.grads, 'state': here.state, 'total': here.total},
    'memory': memory,
    'fits': fits,
    'largest_model': largest,
    'fewest_devices': fewest and fewest * model,
  }
  choices = [
    {'store': store, 'layout': layout, 'state': of.state, 'total': of.total, 'fits': of.total <= memory}
    for store in STORES
    for layout in get_args(LayoutName)
    for of in (on_device(store, layout=layout),)
  ]
  return Answer(result | {'choices': choices}, _blocks(result, choices), int(not fits))


def _optimizer(arguments: argparse.Namespace, store: str) -> Any:
  tx = built(arguments.optimizer, {'store': store})
  return bo.compose(tx, bo.round_updates(arguments.round_updates)) if arguments.round_updates else tx


def _fewest(total: Any, memory: float) -> int | None:
  """The smallest power of two of devices on which it fits."""
  n = 1
  while n <= _MOST:
    if total(n) <= memory:
      return n
    n *= 2
  return None


def _blocks(result: dict[str, Any], choices: list[dict[str, Any]]) -> list[str | Table]:
  devices, memory, here = result['devices'], result['memory'], result['bytes_per_device']
  mesh_text = f'{devices["data"]} x {devices["model"]}' if devices['model'] > 1 else str(devices['data'])
  names = {'params': 'parameters', 'grads': 'gradients', 'state': 'state', 'total': 'total'}
  title = f'{short(result["parameters"])} parameters, {result["optimizer"]}, {result["store"]}, {result["layout"]}'
  per_device = Table(
    f'{title}, {mesh_text} {"device" if devices["all"] == 1 else "devices"}',
    ('', 'GiB per device', 'of the memory'),
    [(names[what], gib(nbytes), f'{nbytes / memory:.1%}') for what, nbytes in here.items()],
  )
  layouts = get_args(LayoutName)
  rows = []
  for store in STORES:
    of = {choice['layout']: choice for choice in choices if choice['store'] == store}
    cell = lambda choice: f'{gib(choice["total"])}{"" if choice["fits"] else " (too much)"}'
    rows.append((store, *(cell(of[layout]) for layout in layouts)))
  others = Table('Total in GiB per device by store and layout', ('store', *layouts), rows)
  used = here['total'] / memory
  verdict = (
    f'Fits: {used:.0%} of {memory / 1e9:g} GB.'
    if result['fits']
    else (f'Does not fit: {here["total"] / 1e9:.1f} GB are more than {memory / 1e9:g} GB.')
  )
  fewest = result['fewest_devices']
  most = f'The largest model on this mesh has {short(result["largest_model"])} parameters.'
  least = f'It fits from {fewest:,} devices on (powers of two).' if fewest else 'No number of devices is enough.'
  return [per_device, others, f'{verdict} {most} {least}', 'Activations and what a step allocates come on top.']
