"""What an optimizer is, and what it does: `describe` reads its recipe, `measure` looks at its steps.

`measure` wraps an optimizer; `read` makes floats of what it measured, `table` a table, `plot` a picture.
"""

from belief_optax.diagnostics.constants import Constant
from belief_optax.diagnostics.description import Description, Part, Step, describe
from belief_optax.diagnostics.measurement import QUANTITIES, Measurements, MeasureState, measure
from belief_optax.diagnostics.observed import probe
from belief_optax.diagnostics.reading import plot, read, table

__all__ = [
  'QUANTITIES',
  'Constant',
  'Description',
  'MeasureState',
  'Measurements',
  'Part',
  'Step',
  'describe',
  'measure',
  'plot',
  'probe',
  'read',
  'table',
]
