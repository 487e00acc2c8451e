# make demo and make test need git, make and Python >= 3.11, and nothing else.
PYTHON ?= python3
# JAX 0.12 needs Python >= 3.12: the newest environment takes the newest Python that is there.
NEWEST ?= $(shell for p in python3.14 python3.13 $(wildcard $(HOME)/.pyenv/versions/3.13*/bin/python) python3.12 $(PYTHON); \
  do $$p -c 'import ensurepip' 2>/dev/null && echo $$p && break; done)
VENV := .venv
OLDEST := .venv-oldest
PARITY := .venv-parity
PY := $(VENV)/bin/python
# Compiling what is never imported takes half of the time of an installation.
INSTALL := pip install --quiet --disable-pip-version-check --no-compile
# The tests of a file run in one process: they share compiled steps.
PYTEST := -m pytest -n 2 --dist loadfile --no-loadscope-reorder -q

.PHONY: demo test test-all test-third lint test-newest test-oldest test-full test-oldest-full test-slow parity record ledger
.PHONY: bench bench-peers bench-gpu bench-guards bench-diagnostics bench-precision bench-compare format clean

demo: $(VENV)/.examples
	$(PY) examples/digits.py

# What each tier leaves out stands in tests/README.md.
# pyright and pip each leave a core idle, so they share the time; each of the tests takes both.
test: $(VENV)/.dev
	$(MAKE) --jobs 2 lint $(OLDEST)/.test
	$(MAKE) test-newest
	$(MAKE) test-oldest

# The full matrix: every row by every contract, store and program, with the newest and the oldest versions, and what is slow.
test-all: $(VENV)/.dev
	$(MAKE) --jobs 2 lint $(OLDEST)/.test
	$(MAKE) test-full
	$(MAKE) test-oldest-full
	$(MAKE) test-slow

# One third of what the full matrix adds to test-newest, without what is slow; which one turns with the commits.
TURN ?= $(shell git rev-list --count HEAD 2>/dev/null || echo 0)
test-third: $(VENV)/.dev
	TEST_THIRD=$(TURN) $(PY) $(PYTEST) -m 'full and not slow and not parity'

lint: $(VENV)/.dev
	$(PY) tools/docstrings.py --check
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/pyright --pythonpath $(PY)

test-newest: $(VENV)/.dev
	$(PY) $(PYTEST) -m 'not slow and not parity and not full'

test-full: $(VENV)/.dev
	$(PY) $(PYTEST) -m 'not slow and not parity'

# With the oldest versions that pyproject.toml admits: what asks JAX for something.
test-oldest: $(OLDEST)/.test
	$(OLDEST)/bin/python $(PYTEST) -m 'not slow and not parity and not full' \
	  $(foreach name,core engine contracts hlo pieces,tests/test_$(name).py)

test-oldest-full: $(OLDEST)/.test
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

# The site, in out/site: without a network, and a warning is an error.
.PHONY: docs # which is a folder too
docs: $(VENV)/.docs
	PYTHONPATH=$(CURDIR) JAX_PLATFORMS=cpu NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --quiet
	@echo 'open out/site/index.html'

bench: $(VENV)/.dev
	$(PY) -m benchmarks.step

# A step beside optax, torch and the packages of tests/parity/peers.txt.
bench-peers: $(PARITY)/.peers
	PARITY_PEERS=$(CURDIR)/$(PARITY)/peers PYTHONPATH=tests/parity:tests $(PARITY)/bin/python -m benchmarks.peers

bench-diagnostics: $(VENV)/.dev
	$(PY) -m benchmarks.diagnostics

bench-gpu: $(VENV)/.dev
	$(PY) -m benchmarks.gpu

bench-guards: $(VENV)/.dev
	$(PY) -m benchmarks.guards

bench-precision: $(VENV)/.dev
	$(PY) -m benchmarks.precision

bench-compare: $(VENV)/.dev
	$(PY) -m benchmarks.compare

format: $(VENV)/.dev
	$(PY) tools/docstrings.py
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

clean:
	rm -rf $(VENV) $(OLDEST) $(PARITY) out

$(VENV)/bin/python:
	$(NEWEST) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "belief_optax needs Python >= 3.11")'
	$(NEWEST) -m venv $(VENV)

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
