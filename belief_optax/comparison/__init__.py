"""A comparison of optimizers on equal terms; it needs the extra `examples`.

A *cell* is one optimizer on one task: `tune` looks for its learning rate and weight decay on tuning seeds, and what is
reported comes from other seeds and other data. All trainings of a cell that run side by side are one compiled program.
"""

from belief_optax.comparison.report import Report, load
from belief_optax.comparison.run import main

__all__ = ['Report', 'load', 'main']
