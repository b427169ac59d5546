# Everything a newcomer needs: `make demo` shows it, `make test` tests it. Both install first what they lack.
.DEFAULT_GOAL := help
export OMP_WAIT_POLICY := PASSIVE
unexport PYTHONDONTWRITEBYTECODE  # compiled modules are kept: the tests start hundreds of interpreters

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SEVERAL := -n 4 --dist loadfile --no-loadscope-reorder  # processes with files of their own, the longest first; many tests wait

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

install: $(VENV)/.installed  ## create .venv and install bifocal[all,dev], pinned by constraints.txt

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[all,dev]'
	touch $@

demo: install  ## 1,200 generated memes, from pictures to a calibrated decision, in a few minutes
	$(BIN)/bifocal run configs/demo.yaml

services:  ## what tests run for real: PostgreSQL, Chromium, nginx; Debian's, where they are missing and may be installed
	@missing=""; \
	ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing="$$missing postgresql"; \
	command -v chromium >/dev/null || command -v chromium-browser >/dev/null || missing="$$missing chromium"; \
	command -v nginx >/dev/null || missing="$$missing nginx-light"; \
	if test -z "$$missing"; then exit 0; fi; \
	if test "$$(id -u)" != 0 || ! command -v apt-get >/dev/null; then \
		echo "missing for the tests:$$missing; those that want them are skipped"; exit 0; fi; \
	echo "installing for the tests:$$missing"; \
	{ apt-get install -y -qq $$missing || { apt-get update -qq && apt-get install -y -qq $$missing; }; } >/dev/null 2>&1 \
		|| echo "could not be installed: tests that want them are skipped"

test: install services  ## the tests (offline, about 14 minutes on 2 cores)
	$(BIN)/python -m pytest $(SEVERAL)

test-all: install services  ## the long suites too, unsampled; PART=2/6 runs a sixth of the files
	$(BIN)/python -m pytest $(SEVERAL) -m "not network and not gpu" $(if $(PART),--part $(PART))

lint: install  ## ruff format, ruff lint, mypy
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: install  ## let ruff rewrite the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

check: lint test  ## what CI runs

clean:  ## remove the environment and all runs
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache

.PHONY: help install services demo test test-all lint format check clean
