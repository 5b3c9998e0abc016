# `make demo` and `make test` are all the set-up there is: the first call creates .venv.
#   PYTHON=/path/to/python3.11   use this interpreter for it
#   STACK=cu112                  install requirements-cu112.txt (NVIDIA GPU); STACK=cpu goes back
#   ARGS='...'                   passed on to the demo, to pytest or to the builder of the pages
VENV := .venv
READY := $(VENV)/.ready
RUN := $(VENV)/bin/python
# A process per core, each with one compute thread; a file's tests stay together, as they share nets.
PARALLEL := -n auto --dist loadfile

.PHONY: demo test test-all test-matrix coverage mutation docs lint doctor venv clean
.DEFAULT_GOAL := help

.PHONY: help
help:
	@echo "make demo      synthetic data, training, evaluation, export, figures in runs/demo; on photographs: ARGS='--data-dir DIR'"
	@echo 'make test      the default tests; make test-all adds the nightly and the parity ones'
	@echo 'make test-matrix   the default tests on every CPython 3.8 to 3.12 that is found'
	@echo 'make coverage  the default tests, and which lines of the library they do not run'
	@echo 'make docs      the documentation as HTML, with the API, in build/docs'
	@echo 'make lint      style (ruff), types (mypy) and layers (import-linter)'
	@echo 'make doctor    check the environment; make clean: remove .venv and caches'

# The script compares contents, so this costs nothing when nothing has changed.
.PHONY: FORCE
$(READY): FORCE
	@PYTHON='$(PYTHON)' sh tools/bootstrap.sh $(VENV) $(STACK)

venv: $(READY)

demo: $(READY)
	$(RUN) tools/demo.py $(ARGS)

test: $(READY)
	$(RUN) -m pytest $(PARALLEL) $(ARGS)

test-all: $(READY)
	$(RUN) -m pytest -m '' $(PARALLEL) $(ARGS)

# The floor holds for the layers that hold the methods and what leaves the house.
FLOOR := $(foreach layer,core papers losses blocks nets metrics export,gluon_attn/$(layer)/*)
comma := ,
COVERAGE := --cov --cov-report=term:skip-covered
coverage: $(READY)
	$(RUN) -m pytest $(PARALLEL) $(COVERAGE) $(ARGS)
	$(MAKE) floor

.PHONY: floor
floor: $(READY)
	$(RUN) -m coverage report --skip-covered --fail-under=95 \
	    --include='$(subst $() $(),$(comma),$(FLOOR))'

# An environment for each version in .venv-matrix; no .venv needed.
test-matrix:
	@.ci/matrix $(PARALLEL) $(ARGS)

# What it needs is installed at the first call, and again when the list of it changes.
docs: $(READY)
	@cmp -s requirements-docs.txt $(VENV)/.docs || { $(RUN) -m pip --disable-pip-version-check \
	    install -q --only-binary :all: -r requirements-docs.txt \
	    && cp requirements-docs.txt $(VENV)/.docs; }
	$(RUN) docs/sphinx/build.py $(ARGS)

# Style, types, layers. What it needs is installed at the first call, and when the list of it changes.
lint: $(READY)
	@cmp -s requirements-lint.txt $(VENV)/.lint || { $(RUN) -m pip --disable-pip-version-check \
	    install -q --only-binary :all: -r requirements-lint.txt \
	    && cp requirements-lint.txt $(VENV)/.lint; }
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(VENV)/bin/lint-imports

# Needs cosmic-ray in .venv; a sample of 420 mutants takes about two hours.
mutation: $(READY)
	$(RUN) tools/bench/mutation.py $(ARGS)

doctor: $(READY)
	$(RUN) -m gluon_attn.runtime

clean:
	rm -rf $(VENV) .venv-matrix build dist .pytest_cache .ruff_cache .coverage *.egg-info
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
