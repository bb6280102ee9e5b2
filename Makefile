# make demo   set-up (first time only), then the whole method on the micro-world; prints the report's path
# make test   set-up, lint, types, every test
# make test-long   those that repeat or measure more than make test has time for
#
# DEVICE=cpu|gpu   default: found by itself       PYTHON=...   default: python3.11
# VENV=DIR         default: .venv                 STORE=URL    default: ./msm-store
# ARGS="..."       passed on, e.g. make demo ARGS="--set aft.train.learning_rate=2e-4"

PYTHON ?= $(shell command -v python3.11 || command -v python3 || echo python3.11)
VENV   ?= .venv
DEVICE ?=
STORE  ?=
ARGS   ?=
BIN    := $(VENV)/bin
# ninja, with which DeepSpeed builds, comes as a package and is looked for on the path
IN_ENV  = PATH="$(abspath $(BIN)):$$PATH"
# Half of the time the slow tests wait for processes to start; a file's tests stay together.
PYTEST  = $(BIN)/python -m pytest -q --durations=15 -n 2 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast test-slow test-long lint format doctor clean

help:
	@sed -n '/^#/!q;s/^# \{0,1\}//p' Makefile

# -I: the script must see the standard library only, not the modules beside it
setup:
	@$(PYTHON) -I msm_ray/install.py --venv "$(VENV)" --device "$(DEVICE)"

demo: setup
	@$(IN_ENV) $(BIN)/msm run jobs/cheese_micro.py $(if $(STORE),--store "$(STORE)") $(ARGS)

test: lint
	$(IN_ENV) $(PYTEST) $(ARGS)

test-fast: setup
	$(IN_ENV) $(PYTEST) -m "not slow and not ray and not vllm and not browser" $(ARGS)

test-slow: setup
	$(IN_ENV) $(PYTEST) -m "slow or ray or vllm or browser" $(ARGS)

# What has a shorter version in "make test" (fewer kills), or repeats it on more (every backend).
LONG = tests/train/test_parity.py tests/train/test_resume.py tests/test_crash.py tests/test_overlap.py \
       tests/test_backends_whole.py tests/search/test_tune.py tests/corpus/test_stages.py
test-long: setup
	$(IN_ENV) $(PYTEST) --long $(LONG) $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict msm_ray

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

doctor: setup
	@$(BIN)/msm doctor $(ARGS)

# Leaves msm-store alone: what was computed is not build output.
clean:
	rm -rf "$(VENV)" build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
