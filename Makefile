# make demo and make test need git, make and Python >= 3.11, and nothing else.
PYTHON ?= python3
VENV := .venv
OLDEST := .venv-oldest
PARITY := .venv-parity
PY := $(VENV)/bin/python
# Compiling what is never imported takes half of the time of an installation.
INSTALL := pip install --quiet --disable-pip-version-check --no-compile
# The tests of a file run in one process: they share compiled steps.
PYTEST := -m pytest -n 2 --dist loadfile -q

.PHONY: demo test lint test-newest test-oldest test-oldest-all test-slow parity record ledger bench bench-precision format clean

demo: $(VENV)/.examples
	$(PY) examples/digits.py

# pyright and pip each leave a core idle, so they share the time; each of the tests takes both.
test: $(VENV)/.dev
	$(MAKE) --jobs 2 lint $(OLDEST)/.test
	$(MAKE) test-newest
	$(MAKE) test-oldest

lint: $(VENV)/.dev
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/pyright --pythonpath $(PY)

test-newest: $(VENV)/.dev
	$(PY) $(PYTEST) -m 'not slow and not parity'

# With the oldest versions that pyproject.toml admits. What an option of an algorithm asks of JAX the plain one asks too, and
# numbers, presets and programs around the package are no matter of versions: without them it takes a third of the time.
test-oldest: $(OLDEST)/.test
	$(OLDEST)/bin/python $(PYTEST) -m 'not slow and not parity and not variant' --ignore tests/parity \
	  $(foreach name,benchmarks checkpoints examples param_groups interop conversions multi_process numerics presets scaling,--ignore tests/test_$(name).py)

test-oldest-all: $(OLDEST)/.test
	$(OLDEST)/bin/python $(PYTEST) -m 'not slow and not parity'

test-slow: $(VENV)/.dev
	$(PY) -m pytest -m slow

# The presets beside the packages that they reproduce, step by step. With PARITY_PEERS set no test of them is skipped.
parity: $(PARITY)/.peers
	PARITY_PEERS=$(CURDIR)/$(PARITY)/peers $(PARITY)/bin/python -m pytest tests/parity -n 2 --dist loadgroup -m parity -q

# What the packages computed, so that `make test` can compare without them.
record: $(PARITY)/.peers
	PYTHONPATH=tests $(PARITY)/bin/python tests/parity/record.py

ledger: $(PARITY)/.peers
	PYTHONPATH=tests $(PARITY)/bin/python tests/parity/ledger.py

bench: $(VENV)/.dev
	$(PY) -m benchmarks.step

bench-precision: $(VENV)/.dev
	$(PY) -m benchmarks.precision

format: $(VENV)/.dev
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

clean:
	rm -rf $(VENV) $(OLDEST) $(PARITY) out

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "belief_optax needs Python >= 3.11")'
	$(PYTHON) -m venv $(VENV)

$(OLDEST)/bin/python:
	$(PYTHON) -m venv $(OLDEST)

# A stamp per extra: a second call installs nothing.
$(VENV)/.%: pyproject.toml | $(VENV)/bin/python
	$(PY) -m $(INSTALL) --editable '.[$*]'
	touch $@

$(OLDEST)/.test: pyproject.toml oldest.txt | $(OLDEST)/bin/python
	$(OLDEST)/bin/python -m $(INSTALL) --constraint oldest.txt --editable '.[test]'
	touch $@

$(PARITY)/bin/python:
	$(PYTHON) -m venv $(PARITY)

$(PARITY)/.parity: pyproject.toml | $(PARITY)/bin/python
	$(PARITY)/bin/python -m $(INSTALL) --editable '.[parity]'
	touch $@

$(PARITY)/.peers: tests/parity/peers.txt | $(PARITY)/.parity
	grep -v '^#' tests/parity/peers.txt | xargs -P 2 -I{} $(PARITY)/bin/python -m $(INSTALL) \
	  --no-deps --upgrade --target '$(PARITY)/peers/{}' '{}'
	touch $@
