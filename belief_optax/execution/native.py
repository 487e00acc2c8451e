"""Machine loops as FFI targets of XLA:CPU: LLVM compiles them, XLA's own threads run them.

A call takes any number of arrays of one recipe and dtype. It returns at once: blocks of the arrays wait in XLA's pool,
and the one that is finished last completes the future that XLA was given. No thread ever waits for another.
"""

import ctypes
import functools
import hashlib
import importlib
import importlib.resources
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from belief_optax.execution import ir
from belief_optax.execution.ir import Operand

LARGE = 1 << 16  # elements from which an array is cut into blocks, and gets a call of its own
SHARED = 16  # small arrays of a call: XLA takes time to compile a call that grows with the square of its results
BLOCK = 1 << 15  # elements of a block
_GRAIN = 4  # small arrays of a block
OLDEST_LLVM = (15,)  # pointers without a type


class Loop(NamedTuple):
  """A machine loop.

  Attributes:
    target: the name under which XLA finds it once it is compiled.
    results: the arrays that it writes.
    indexed: whether it asks for the index of an element.
    text: LLVM's text, before optimization.
  """

  target: str
  results: tuple[Operand, ...]
  indexed: bool
  text: str


def _llvm() -> Any:
  return importlib.import_module('llvmlite.binding')


@functools.cache
def available() -> str:
  """Why no loop can be compiled in this process; '' if it can."""
  try:
    llvm = _llvm()
  except ImportError as e:
    return f'llvmlite is not installed ({e}): pip install "belief_optax[cpu]"'
  if llvm.llvm_version_info < OLDEST_LLVM:
    return f'llvmlite {llvm.llvm_version_info} is too old: pip install --upgrade "belief_optax[cpu]"'
  try:
    _engine()
  except Exception as e:  # whatever it is, XLA does the same without
    return f'LLVM cannot compile for this machine ({type(e).__name__}: {e})'
  return ''


_lock = threading.RLock()


@functools.cache
def _engine() -> Any:
  """LLVM for this machine."""
  llvm = _llvm()
  llvm.initialize_native_target()
  llvm.initialize_native_asmprinter()
  return llvm


def _machine(llvm: Any) -> Any:
  """A target machine: each compiler owns one."""
  features = llvm.get_host_cpu_features().flatten()
  target = llvm.Target.from_default_triple()
  return target.create_target_machine(cpu=llvm.get_host_cpu_name(), features=features, opt=3, jit=True)


def write(rule: Callable[..., Any], operands: tuple[Operand, ...], scalars: tuple[np.dtype, ...], rank: int) -> Loop:
  """The loop of a rule; raises `Unserved` if one of its equations has no instruction."""
  body = ir.loop(rule, operands, scalars, rank)
  text = module(body, operands, scalars)
  return Loop(f'belief_optax.{hashlib.sha256(text.encode()).hexdigest()[:24]}', body.results, body.indexed, text)


_kept: dict[str, Any] = {}  # compilers own the code that they made: it lives as long as the process


def compiled(loop: Loop) -> str:
  """Compiles and registers a loop, once per text.

  Returns:
    The name under which XLA finds it.
  """
  with _lock:
    if loop.target not in _kept:
      compiler, address = _compiled(loop.text)
      _register(loop.target, address)
      _kept[loop.target] = compiler
  return loop.target


def _compiled(text: str) -> tuple[Any, int]:
  llvm = _engine()
  machine = _machine(llvm)
  parsed = optimized(text, machine)
  compiler = llvm.create_mcjit_compiler(parsed, machine)
  compiler.finalize_object()
  return compiler, compiler.get_function_address('handler')


def optimized(text: str, machine: Any = None) -> Any:
  """The module of a text after LLVM's passes; its `str` shows whether the loop is one on vectors."""
  llvm = _engine()
  machine = machine or _machine(llvm)
  parsed = llvm.parse_assembly(text)
  parsed.triple, parsed.data_layout = machine.triple, str(machine.target_data)
  parsed.verify()
  options = llvm.create_pipeline_tuning_options(speed_level=3)
  options.loop_vectorization = options.slp_vectorization = options.loop_interleaving = options.loop_unrolling = True
  builder = llvm.create_pass_builder(machine, options)
  builder.getModulePassManager().run(parsed, builder)
  return parsed


def _register(target: str, address: int) -> None:
  capsule = ctypes.pythonapi.PyCapsule_New
  capsule.restype, capsule.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
  jax.ffi.register_ffi_target(target, capsule(address, None, None), platform='cpu')


def module(body: ir.Body, operands: Sequence[Operand], scalars: Sequence[np.dtype]) -> str:
  """The text of a module: the loop over the elements of a leaf, and around it what stands in `module.ll`."""
  xs, ys, ks = len(operands), len(body.results), len(scalars)
  pointers = [f'%x{i}' for i in range(xs)] + [f'%y{j}' for j in range(ys)]
  prologue = []
  for i, name in enumerate(pointers):
    place = f'%at_{name[1:]}'
    prologue += [f'{place} = getelementptr i64, ptr %leaf, i64 {1 + i}', f'{name} = load ptr, ptr {place}']
  for i, dtype in enumerate(scalars):
    prologue += [
      f'%at_k{i} = getelementptr i64, ptr %scalars, i64 {i}',
      f'%to_k{i} = load ptr, ptr %at_k{i}',
      f'%k{i} = load {ir.in_memory(dtype)}, ptr %to_k{i}',
    ]
  fields = {
    'prologue': '\n'.join(f'  {line}' for line in prologue),
    'body': body.text,
    'declarations': '\n'.join(ir.intrinsics(body.text)),
    'XS': xs,
    'YS': ys,
    'KS': ks,
    'RECORD': 1 + xs + ys,
    'BLOCK': BLOCK,
    'LARGE': LARGE,
    'GRAIN': _GRAIN,
  }
  text = _around()
  for name, value in fields.items():
    text = text.replace(f'<{name}>', str(value))
  return text


@functools.cache
def _around() -> str:
  return importlib.resources.files('belief_optax.execution').joinpath('module.ll').read_text()
