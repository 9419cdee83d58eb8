# The README's two commands. Both make the same environment, .venv, from constraints.txt; a second call installs nothing.
FITS := (3, 11) <= sys.version_info[:2] < (3, 13)
PYTHON ?= $(shell for python in python3 python3.12 python3.11; do \
	$$python -c 'import ensurepip, sys; sys.exit(not $(FITS))' 2>/dev/null && echo $$python && exit; done; echo python3)
VENV := .venv
BIN := $(VENV)/bin
ARGS ?= --algos qsm,dql,sac
JOBS ?= 2
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: run test test-slow timing-baseline results lint clean

run: $(VENV)/.installed
	$(BIN)/python -m bench run $(ARGS)

test: $(VENV)/.installed-test lint
	$(BIN)/python -m pytest -m "not slow" -n $(JOBS) --dist loadfile $(PYTEST_ARGS)

test-slow: $(VENV)/.installed-test-slow
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

# Renews the exact counts that `make test` holds the algorithms to, after a change that is meant.
timing-baseline: $(VENV)/.installed-test
	$(BIN)/python tests/timing/counts.py

# Makes docs/results again, and the curves that reports draw beside a user's: about 39 core-hours, resumable.
results: $(VENV)/.installed
	$(BIN)/python docs/results/remake.py

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .

$(VENV)/.installed: pyproject.toml constraints.txt
	$(BIN)/python -c 'import pip, sys; sys.exit(not $(FITS))' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	$(PIP) --editable .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) --editable '.[test]'
	touch $@

$(VENV)/.installed-test-slow: $(VENV)/.installed-test
	$(PIP) --editable '.[ray,slurm,logging,video,umap]'
	touch $@

clean:
	rm -rf $(VENV) build dist
