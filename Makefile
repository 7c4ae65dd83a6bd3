# A new clone needs nothing else: every target makes .venv from requirements.lock first.
PYTHON ?= python3.11
JOBS ?= 2
# Faster than pip; it reads UV_DEFAULT_INDEX, not pip's settings.
UV := uv pip install --quiet --python .venv/bin/python
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export DO_NOT_TRACK := 1

.PHONY: setup demo gym test check ui

setup: .venv/complete

.venv/complete: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	python -m pip install --quiet --disable-pip-version-check --no-compile $(shell grep -E '^(torch|uv)==' requirements.lock)
	$(UV) --compile-bytecode --requirement requirements.lock
	$(UV) --no-deps --editable .
	python -m flows.plots_page
	touch $@

demo: setup
	@python -m flows.demo $(EXPERIMENT)

# What each training method learns on digits, in a table.
gym: setup
	@python -m flows.gym --jobs $(JOBS) $(EXPERIMENT)

# For two cores: a third process works while others wait. A file's tests stay together, and torch takes
# one thread in each.
test: setup
	OMP_NUM_THREADS=1 python -m pytest -n 3 --dist loadfile tests/

check: setup
	ruff format --check .
	ruff check .
	mypy
	lint-imports

ui: setup
	mlflow ui --backend-store-uri sqlite:///mlflow.db --host 127.0.0.1 --port 5000
