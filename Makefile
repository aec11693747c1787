# Needs only make and Python 3.10 to 3.14. `make` alone lists the targets.
#
# PYTHON=PATH            the interpreter for .venv (default: the one .venv has, else the newest found)
# DETECTRON2=REQUIREMENT what pip installs as Detectron2; give it on every call, or export it
# ARGS="..."             passed on to the demo or to pytest; "-n 0" runs all tests in one process
# COVERAGE=yes           make test measures what the tests reach, and fails below the floor in pyproject.toml
# PIP_FLAGS=             shows pip's own output, progress bars included

PYTHON ?=
DETECTRON2 ?=
ARGS ?=
COVERAGE ?=
PIP_FLAGS ?= -qq
export PIP_DISABLE_PIP_VERSION_CHECK := 1

VENV := .venv
RUN := $(VENV)/bin/python
PIP_INSTALL := $(RUN) -m pip install $(PIP_FLAGS)

# "3.13.5 /usr/bin/python3.13", or nothing where no suitable interpreter is found.
FOUND := $(shell sh requirements/find_python.sh "$(PYTHON)" 2>/dev/null)
FOUND_VERSION := $(firstword $(FOUND))
FOUND_PYTHON := $(wordlist 2,$(words $(FOUND)),$(FOUND))

# Everything the content of .venv depends on names its stamp, so a finished install is never repeated
# and a changed one never overlooked.
KEY := $(firstword $(shell { cat requirements/* pyproject.toml; \
	echo '$(FOUND_VERSION) $(DETECTRON2) $(CURDIR)'; } | cksum))
STAMP := $(VENV)/installed-$(KEY)
INCOMPLETE := $(VENV)/incomplete

.DEFAULT_GOAL := help
.PHONY: help venv demo test lint format clean

help:
	@echo "make venv    create $(VENV) with everything pinned; every target below does so first"
	@echo "make demo    train the quickstart on the built-in sample set, evaluate, draw, print a table, write a report"
	@echo "make test    run the whole test suite, but for the slow part: ARGS=\"-m slow\" kills runs over and over"
	@echo "               and runs every command in README and docs"
	@echo "               COVERAGE=yes: and what it reaches, processes that it starts included; twice as slow"
	@echo "make lint    ruff check, ruff format --check, mypy"
	@echo "make format  let ruff rewrite the code"
	@echo "make clean   remove $(VENV) and caches; outputs and datasets stay"
	@echo
	@echo "PYTHON=PATH             interpreter to use, 3.10 to 3.14"
	@echo "DETECTRON2=REQUIREMENT  what pip installs as Detectron2: an address, a folder, a version"
	@echo 'ARGS="..."              passed on to the demo or to pytest'
	@echo "PIP_FLAGS=              shows pip's own output"

venv: $(STAMP)

$(STAMP):
	@sh requirements/find_python.sh "$(PYTHON)" >/dev/null
	@rm -f $(VENV)/installed-*
	@echo "[1/4] creating $(VENV) with Python $(FOUND_VERSION)"
	@if test -e $(INCOMPLETE) \
		|| ! $(RUN) -c 'import pip, platform, sys; sys.exit(platform.python_version() != "$(FOUND_VERSION)")' \
			2>/dev/null; then \
		rm -rf $(VENV) && "$(FOUND_PYTHON)" -m venv $(VENV); \
	fi
	@touch $(INCOMPLETE)
	@$(PIP_INSTALL) -r requirements/build.txt
	@echo "[2/4] installing the pinned requirements (some 3 GB to download the first time)"
	@$(PIP_INSTALL) --no-build-isolation -r requirements/base.txt -r requirements/dev.txt
	@if ! $(RUN) -c 'import cv2' 2>/dev/null; then \
		echo "      opencv-python needs libGL, which is missing: its build without windows instead"; \
		$(RUN) -m pip uninstall -q -y opencv-python; \
		$(PIP_INSTALL) "$$(sed -n 's/^opencv-python==/opencv-python-headless==/p' requirements/base.txt)"; \
	fi
	@rm $(INCOMPLETE)
	@echo "[3/4] installing Detectron2"
	@PIP_FLAGS='$(PIP_FLAGS)' sh requirements/install_detectron2.sh $(RUN) '$(DETECTRON2)'
	@echo "[4/4] installing dre_ssod, editable"
	@$(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	@$(RUN) -W ignore requirements/check_imports.py
	@touch $@

demo: $(STAMP)
	$(RUN) tools/quickstart.py $(ARGS)

# Files side by side, since the tests of one share what they build; but for single files and tests,
# see tests/conftest.py. What is compiled is kept, whatever the environment says, for the many
# programs that tests start.
PYTEST := pytest -q -n auto --dist loadfile --no-loadscope-reorder

test: $(STAMP)
ifeq ($(COVERAGE),)
	PYTHONDONTWRITEBYTECODE= $(RUN) -m $(PYTEST) $(ARGS)
else
	$(RUN) -m coverage erase
	PYTHONDONTWRITEBYTECODE= PROJECT='$(CURDIR)' $(RUN) -m coverage run -m $(PYTEST) $(ARGS)
	$(RUN) -m coverage combine -q
	$(RUN) -m coverage report
endif

lint: $(STAMP)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

format: $(STAMP)
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
