"""`belief-optax describe`: the lines of an optimizer with their equations, and what its constants mean."""

import argparse
from typing import Any

from belief_optax.cli.answer import Answer, add_format, sentences
from belief_optax.cli.signature import OPTIMIZERS, as_json, as_python, built, options, summary

_GIVEN = 'of_'  # begins the name of what belongs to the optimizer, not to the command


def add(commands: Any) -> None:
  """Declares the command: one parser for each optimizer, with the arguments that it has in Python."""
  parser = commands.add_parser(
    'describe',
    help='the lines of an optimizer with their equations, and its effective constants',
    description='The lines of an optimizer with their equations, and what its constants mean. '
    '`describe NAME --help` lists its options, which are the arguments in Python.',
  )
  names = parser.add_subparsers(dest='name', metavar='NAME', required=True)
  for name, function in OPTIMIZERS.items():
    one = names.add_parser(name, help=summary(function), description=summary(function))
    for option in options(function):
      one.add_argument(option.flag, **option.how)
    add_format(one, 'markdown', 'latex')
    one.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> Answer:
  """The description."""
  given = {key.removeprefix(_GIVEN): x for key, x in vars(arguments).items() if key.startswith(_GIVEN)}
  tx = built(arguments.name, given)
  from belief_optax.diagnostics import describe

  with sentences():
    of = describe(tx)
  call = as_python(arguments.name, given)
  data = {'call': call, **as_json(of.as_dict())}
  return Answer(data, [call, str(of)], texts={'markdown': of.markdown, 'latex': of.latex})
