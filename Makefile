# One way in: what CI runs, a person runs with the same word.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test check bench sim proto clean

demo: $(READY)
	@$(BIN)/python client/examples/demo.py

test: $(READY)
	$(BIN)/python -m pytest tests

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# What peers need besides their Python packages is skipped where it is missing: see BENCHMARKS.md.
bench: $(VENV)/.ready-bench
	$(BIN)/python -m tests.bench

# The whole grid of tests/sim, as a table.
sim: $(READY)
	$(BIN)/python -m tests.sim

proto: $(READY)
	$(BIN)/python -m tests.wire.generate

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

$(VENV)/.ready-bench: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
