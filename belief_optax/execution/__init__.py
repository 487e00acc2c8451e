"""How the rule of a step is run: by XLA or, on the CPU, by one machine loop. Never what it computes.

On the CPU XLA makes one kernel per array that a step returns, and each of them reads what the others have read. Where
llvmlite is installed (`pip install "belief_optax[cpu]"`) the rule of an array becomes one loop, which reads and writes
each number once and runs on XLA's own threads. `use` chooses, `explain` says what is in force and why.
"""

from belief_optax.execution.report import Explanation, Part, explain
from belief_optax.execution.switch import Mode, current, use

__all__ = ['Explanation', 'Mode', 'Part', 'current', 'explain', 'use']
