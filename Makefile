# Everything a person or a CI machine does with a checkout. Needs make and Python 3.11 or 3.12 with venv; no root.
#
#   make train      set up, then train CartPole through the whole loop
#   make test       set up, then all checks and all tests
#   make check      the static checks only
#   make format     let ruff rewrite what it can
#   make wheel      build dist/*.whl
#   make generate   rewrite the committed generated files (protobuf code, BUILD files)
#   make requirements PYTHON=python3.12   pin what pyproject.toml asks for, for that version of Python
#
# Another interpreter: make PYTHON=/path/to/python3.12 setup

SHELL := /bin/sh
.SHELLFLAGS := -eu -c
.DEFAULT_GOAL := help
.PHONY: help setup train test check format wheel generate requirements clean

VENV := .venv
RUN := $(VENV)/bin/
PIP := $(RUN)python -m pip install --quiet --no-input --disable-pip-version-check
PYTHON ?=
CANDIDATES := $(or $(PYTHON),python3.11 python3.12 python3)
WORKERS ?= 2

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

setup: $(VENV)/.installed

# Stamps are written last, so that an interrupted set-up is done again. A candidate must run, not merely be found:
# version managers leave stand-ins on the PATH.
$(VENV)/.packages: requirements/dev-py311.txt requirements/dev-py312.txt
	@python=; for candidate in $(CANDIDATES); do \
	  if "$$candidate" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null; then \
	    python=$$candidate; break; \
	  fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "No working Python 3.11 or 3.12 among: $(CANDIDATES);" \
	    "install one, or name it: make PYTHON=/path/to/python3.12 setup" >&2; exit 2; \
	fi; \
	if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then \
	  echo "$$python has no venv module; on Debian: apt-get install python3-venv" >&2; exit 2; \
	fi; \
	version=$$("$$python" -c 'import sys; print("%d%d" % sys.version_info[:2])'); \
	echo "Installing requirements/dev-py$$version.txt into $(VENV) with $$python; this takes a few minutes, once."; \
	"$$python" -m venv --clear $(VENV); \
	$(PIP) --require-hashes --requirement requirements/dev-py$$version.txt; \
	touch $@

$(VENV)/.installed: $(VENV)/.packages pyproject.toml
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

train: setup
	$(RUN)temper train cartpole

test: check
	$(RUN)python -m pytest -n $(WORKERS) --dist worksteal -m "not long"

check: setup
	$(RUN)ruff check .
	$(RUN)ruff format --check .
	$(RUN)mypy
	$(RUN)lint-imports
	$(RUN)python -m protos.generate --check
	$(RUN)python -m tests.architecture.build_files --check

format: setup
	$(RUN)ruff check --fix .
	$(RUN)ruff format .

wheel: setup
	$(RUN)python -m build --wheel --no-isolation

generate: setup
	$(RUN)python -m protos.generate
	$(RUN)python -m tests.architecture.build_files

requirements:
	requirements/compile.sh $(or $(PYTHON),python3.11)

clean:
	rm -rf $(VENV) dist .mypy_cache .ruff_cache .import_linter_cache
