# make demo and make test need git, make and Python >= 3.11, and nothing else.
PYTHON ?= python3
VENV := .venv
OLDEST := .venv-oldest
PARITY := .venv-parity
PY := $(VENV)/bin/python
PYTEST := -m pytest -n 2 --dist loadgroup -m 'not slow and not parity' -q

.PHONY: demo test lint test-newest test-oldest test-slow parity record ledger bench format clean

demo: $(VENV)/.examples
	$(PY) examples/digits.py

test: lint test-newest test-oldest

lint: $(VENV)/.dev
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/pyright --pythonpath $(PY)

test-newest: $(VENV)/.dev
	$(PY) $(PYTEST)

# The same tests with the oldest versions that pyproject.toml admits; the ledger is a matter of numbers, not of versions.
test-oldest: $(OLDEST)/.test
	$(OLDEST)/bin/python $(PYTEST) --ignore tests/parity

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
	$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	touch $@

$(OLDEST)/.test: pyproject.toml oldest.txt | $(OLDEST)/bin/python
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check --constraint oldest.txt --editable '.[test]'
	touch $@

$(PARITY)/bin/python:
	$(PYTHON) -m venv $(PARITY)

$(PARITY)/.parity: pyproject.toml | $(PARITY)/bin/python
	$(PARITY)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[parity]'
	touch $@

$(PARITY)/.peers: tests/parity/peers.txt | $(PARITY)/.parity
	grep -v '^#' tests/parity/peers.txt | xargs -P 2 -I{} $(PARITY)/bin/python -m pip install --quiet \
	  --disable-pip-version-check --no-deps --upgrade --target '$(PARITY)/peers/{}' '{}'
	touch $@
