# make demo   a private table and its report, from nothing but Python 3.11 (or 3.12) and make
# make test   everything that must hold before a change goes in
#
# Each installs what it needs into .venv, at the versions of constraints.txt. All paths are relative and every tool runs as
# a module, so that a folder with a blank in its path is no trouble.

SHELL := /bin/sh
PYTHON := .venv/bin/python
PIP := $(PYTHON) -m pip --disable-pip-version-check -qq
PYTEST := $(PYTHON) -m pytest
LINT_IMPORTS := $(PYTHON) -c 'import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_logo=True))'
SOURCES := src tests docs $(wildcard benchmarks)
WORKERS := 2
unexport PYTHONPATH PYTHONHOME

.DELETE_ON_ERROR:
.PHONY: help demo test test-nightly lint format clean

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

demo: .venv/.installed-demo
	@$(PYTHON) -m tabveil demo --out demo-release

# Every check runs even where an earlier one fails; pytest comes last, so that its closing line ends the output.
test: .venv/.installed-test
	@failed=0; \
	$(MAKE) --no-print-directory lint || failed=1; \
	$(PYTEST) -n $(WORKERS) -q || failed=1; \
	exit $$failed

test-nightly: .venv/.installed-test
	@TABVEIL_PROFILE=nightly $(PYTEST) -n $(WORKERS) -q -m ""

lint: .venv/.installed-test
	@failed=0; \
	$(PYTHON) -m ruff check --quiet $(SOURCES) || failed=1; \
	$(PYTHON) -m ruff format --check --quiet $(SOURCES) || failed=1; \
	$(PYTHON) -m mypy || failed=1; \
	$(LINT_IMPORTS) || failed=1; \
	exit $$failed

format: .venv/.installed-test
	@$(PYTHON) -m ruff check --fix $(SOURCES); $(PYTHON) -m ruff format $(SOURCES)

clean:
	rm -rf .venv build dist demo-release demo-release-* .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

.venv/.installed-demo: pyproject.toml constraints.txt | $(PYTHON)
	@echo "Installing tabveil and its demo into .venv (only once; a minute or a few)"
	@$(PIP) install -c constraints.txt -e '.[demo]'
	@touch $@

.venv/.installed-test: pyproject.toml constraints.txt | $(PYTHON)
	@echo "Installing tabveil and its test tools into .venv (only once; a minute or a few)"
	@$(PIP) install -c constraints.txt -e '.[deep,llm,demo,postgres,dev]'
	@touch $@

$(PYTHON):
	@for python in python3.11 python3.12 python3 python; do \
	  if $$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' >/dev/null 2>&1; then \
	    $$python -m venv .venv && exit 0; \
	    rm -rf .venv; \
	    echo "$$python could not make the environment .venv: install its venv module (on Debian: apt install python3-venv)." >&2; \
	    exit 1; \
	  fi; \
	done; \
	echo "tabveil needs Python 3.11 or 3.12, and none was found on PATH: install one and run make again." >&2; \
	exit 1
