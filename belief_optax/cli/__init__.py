"""The command line: `belief-optax`, or `python -m belief_optax`.

Each command is a module with `add(commands)`, which declares its options, and `run(arguments)`, which returns an
`Answer`. This is the only place that prints, and that turns an error into a sentence and an exit code: 0 if all is
well, 1 if a command has found a problem, 2 if it was called in a wrong way.
"""

import argparse
import functools
import sys
from collections.abc import Sequence

from belief_optax.cli import compare, describe, doctor, plan
from belief_optax.cli.answer import Misuse, show

COMMANDS = (describe, plan, doctor, *((compare,) if compare.available() else ()))


@functools.cache
def parser() -> argparse.ArgumentParser:
  """All commands with their options."""
  import belief_optax as bo

  top = argparse.ArgumentParser('belief-optax', description=bo.__doc__, epilog='Exit codes: 0, 1 a problem, 2 misuse.')
  top.add_argument('--version', action='version', version=f'belief_optax {bo.__version__}')
  commands = top.add_subparsers(metavar='COMMAND', required=True)
  for command in COMMANDS:
    command.add(commands)
  return top


def main(argv: Sequence[str] | None = None) -> int:
  """Runs a command.

  Args:
    argv: its arguments; None for those of the process.

  Returns:
    The exit code.

  Example:
    >>> from belief_optax import cli
    >>> cli.main(['plan', '--params', '8e9', '--mesh', '8', '--fsdp', '--json'])  # doctest: +ELLIPSIS
    {
      "parameters": 8000000000,
    ...
    0
  """
  try:
    arguments = parser().parse_args(argv)
    answer = arguments.run(arguments)
    show(answer, arguments.format)
  except SystemExit as e:  # argparse has said what is wrong, or has helped
    return e.code if isinstance(e.code, int) else 2
  except Misuse as e:
    print(f'belief-optax: error: {e}', file=sys.stderr)
    return 2
  except KeyboardInterrupt:
    print('belief-optax: interrupted', file=sys.stderr)
    return 130
  return answer.code
