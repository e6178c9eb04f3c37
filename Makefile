# `make demo`, `make test`, `make test-all`, `make parity`, `make chaos`, `make check`: each builds what
# it needs in .venv first.
# `make test` touches every folder in minutes, with the recorded cases of tests/golden; `make test-all`
# runs everything that needs no torch, `make parity` all comparisons with official implementations.
# `make test-all ONLY=slow TEST_MINUTES=40` runs slow tests alone, begins none after 40 minutes, and
# counts those it left out; so does `make parity` with its peers.
# `make chaos` kills, fills and damages for tens of minutes; CHAOS_SEED=N repeats a run.
# `make parity PEER=1` leaves out what needs no peer: `make test-all` has run it.
PYTHON ?= python3
VENV := .venv
# Tests run in two processes: much of their time is compiling, which uses one core. Each grows to 7 GB.
WORKERS ?= -n 2 --dist loadscope
export TEST_MINUTES
PY := $(VENV)/bin/python
STAMP = $(VENV)/.installed-$(1)

.PHONY: demo test test-all parity chaos check clean

$(PY):
	$(PYTHON) -c 'import sys; sys.exit("oido needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; name another with `make PYTHON=python3.12`") if sys.version_info < (3, 11) else 0'
	$(PYTHON) -m venv $(VENV)

$(call STAMP,base): setup.cfg pyproject.toml | $(PY)
	$(PY) -m pip install --quiet --disable-pip-version-check -e .
	touch $@

$(call STAMP,test): setup.cfg pyproject.toml | $(PY)
	$(PY) -m pip install --quiet --disable-pip-version-check -e '.[test]'
	touch $@ $(call STAMP,base)

$(call STAMP,parity): setup.cfg pyproject.toml $(call STAMP,test)
	$(PY) -m pip install --quiet --disable-pip-version-check -e '.[test,parity]'
	touch $@

$(call STAMP,dev): setup.cfg pyproject.toml $(call STAMP,test)
	$(PY) -m pip install --quiet --disable-pip-version-check -e '.[test,dev]'
	touch $@

# Pretrains a tiny AudioMAE on the built-in sequences, probes it, writes runs/demo/report.html.
# SEED=1 is another run, in runs/demo-1.
SEED ?= 0
DEMO = runs/demo$(if $(filter-out 0,$(SEED)),-$(SEED))
demo: $(call STAMP,base)
	$(PY) -m launch.train --config=experiments/audio_mae/builtin_sequences.py --workdir=$(DEMO) \
	  --config.seed=$(SEED)
	$(PY) -m launch.evaluate --model=$(DEMO) --suite=builtin_sequences --protocol=logistic \
	  --pool=mean_bands --layers=all --out=$(DEMO)

test: $(call STAMP,test)
	OIDO_GOLDEN=$${OIDO_GOLDEN:-tests/golden} $(PY) -m pytest tests -m 'not slow' $(WORKERS)

test-all: $(call STAMP,test)
	$(PY) -m pytest tests $(if $(ONLY),-m '$(ONLY)') $(WORKERS)

parity: $(call STAMP,parity)
	$(PY) -m pytest tests/parity $(if $(PEER),tests/weights -m 'peer and not slow') $(WORKERS)

# One test at a time goes to each process: they are long and of unequal length.
chaos: $(call STAMP,test)
	$(PY) -m pytest tests/chaos -o python_files='*_chaos.py' -n 2 --dist load --maxschedchunk 1

check: $(call STAMP,dev)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

clean:
	rm -rf $(VENV) runs .pytest_cache .ruff_cache .mypy_cache
