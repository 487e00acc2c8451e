"""What `make test` leaves to the full matrix is named right, and leaves out no algorithm and no kind of contract."""

import os
import pathlib
import re
import subprocess
import sys

import conftest
import pytest
from test_contracts import CONTRACTS

import belief_optax as bo

HERE = pathlib.Path(__file__).parent


def test_the_names_in_conftest_exist():
  files = {path.stem: path.read_text() for path in (*HERE.glob('test_*.py'), *HERE.glob('parity/test_*.py'))}
  assert set(conftest.BY_ROW) | set(conftest.LONGEST) <= set(files)
  for name in conftest.EVERY:
    file, test = name.split('::')
    assert f'def {test}(' in files[file], name


@pytest.mark.full
def test_the_quick_tier_has_every_algorithm_and_every_contract():
  files = [str(HERE / f'test_{name}.py') for name in ('numerics', 'contracts')]
  command = [sys.executable, '-m', 'pytest', '--collect-only', '-q', '-m', 'not full and not slow', *files]
  whole = {name: value for name, value in os.environ.items() if name != 'TEST_THIRD'}
  found = subprocess.run(command, capture_output=True, text=True, check=True, cwd=HERE.parent, env=whole).stdout
  for name in bo.optimizers.__all__:
    for bits in (32, 64):
      assert re.search(rf'test_every_float{bits}_update_is_the_textbooks\[{name}[]-]', found), name
  for name, *_ in CONTRACTS:
    assert f'test_contract[{name}-' in found
