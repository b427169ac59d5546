# Everything a newcomer needs: `make demo` shows it, `make test` tests it. Both install first what they lack.
.DEFAULT_GOAL := help
export OMP_WAIT_POLICY := PASSIVE

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TWO := -n 2 --dist loadfile --no-loadscope-reorder  # two processes, each with files of its own, the longest file first

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

install: $(VENV)/.installed  ## create .venv and install bifocal[all,dev], pinned by constraints.txt

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[all,dev]'
	touch $@

demo: install  ## 1,200 generated memes, from pictures to a calibrated decision, in a few minutes
	$(BIN)/bifocal run configs/demo.yaml

browser:  # pages are tested in Debian's chromium; without it those tests are skipped, and say so
	@command -v chromium >/dev/null || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && \
		{ apt-get install -y -qq chromium >/dev/null 2>&1 || { apt-get update -qq && apt-get install -y -qq chromium; } >/dev/null 2>&1; }; } \
		|| echo "no chromium: install it to have the pages tested"

postgres:  # the decision log is tested in a real PostgreSQL too; without it those tests fail, and say what to do
	@ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && \
		{ apt-get install -y -qq postgresql >/dev/null 2>&1 || { apt-get update -qq && apt-get install -y -qq postgresql; } >/dev/null 2>&1; }; } \
		|| echo "no PostgreSQL under /usr/lib/postgresql: install it, or set BIFOCAL_SKIP_POSTGRES=1"

nginx:  # the service is tested behind a real reverse proxy; without it those tests are skipped, and say so
	@command -v nginx >/dev/null || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && \
		{ apt-get install -y -qq nginx-light >/dev/null 2>&1 || { apt-get update -qq && apt-get install -y -qq nginx-light; } >/dev/null 2>&1; }; } \
		|| echo "no nginx: install it to have the service tested behind a proxy"

test: install browser postgres nginx  ## the tests (offline, a quarter of an hour on 2 cores)
	$(BIN)/python -m pytest $(TWO)

test-all: install browser postgres nginx  ## the long suites too, unsampled
	$(BIN)/python -m pytest $(TWO) -m "not network and not gpu"

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

.PHONY: help install browser postgres nginx demo test test-all lint format check clean
