# Two commands from a fresh clone: `make quickstart` and `make test`.
# Each makes .venv when it is missing and installs what it needs, once.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
PINS := requirements/constraints.txt
EXTRA := $(VENV)/share/upernet_ext_tests
ONLY_TESTS := torchvision|timm|medicai|keras|h5py|ml_dtypes|namex|optree
ONLY_TESTS := $(ONLY_TESTS)|segmentation-models-pytorch
# Where the cores are few, threads that wait for each other cost more than
# they bring; a caller may say otherwise.
TEST_THREADS ?= 1

.PHONY: help quickstart quickstart-3d test test-fast lint bench clean

help:
	@echo 'make quickstart     train, test and predict on the MNI152 template'
	@echo 'make quickstart-3d  the same on volumes of it'
	@echo 'make test           lint and the whole test suite'
	@echo 'make test-fast      lint and the tests that take no processes'
	@echo 'make bench          time and memory against the peers'

# torch first, and pinned: other packages would pull the newest build.
$(VENV)/.torch: $(PINS)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	  "upernet_ext needs Python 3.11 or newer: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) $$(grep '^torch==' $(PINS))
	touch $@

$(VENV)/.quickstart: $(VENV)/.torch setup.cfg setup.py requirements/core.txt \
                     requirements/quickstart.txt
	$(PIP) -c $(PINS) -e '.[quickstart]'
	touch $@

# What only the tests need, without its dependencies, and where nothing but the
# tests finds it: the CUDA build of torchvision for timm and mmpretrain, and
# medicai with what Keras needs beside torch; the bench's peers are among them.
$(VENV)/.tests: $(VENV)/.quickstart $(wildcard requirements/*.txt)
	$(PIP) -c $(PINS) -e '.[tests]'
	rm -rf $(EXTRA)
	$(PIP) --no-deps --target $(EXTRA) \
	  $$(grep -E '^($(ONLY_TESTS))==' $(PINS))
	touch $@

quickstart: $(VENV)/.quickstart
	$(BIN)/python tools/quickstart.py

$(VENV)/.volumes: $(VENV)/.quickstart requirements/volumes.txt
	$(PIP) -c $(PINS) -e '.[quickstart,volumes]'
	touch $@

quickstart-3d: $(VENV)/.volumes
	$(BIN)/python tools/quickstart.py --volumes

lint: $(VENV)/.tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

test: lint
	OMP_NUM_THREADS=$(TEST_THREADS) $(BIN)/python -m pytest --durations=10

test-fast: lint
	OMP_NUM_THREADS=$(TEST_THREADS) $(BIN)/python -m pytest -m 'not slow'

bench: $(VENV)/.tests
	$(BIN)/python -m benchmarks.run

clean:
	rm -rf $(VENV) build dist *.egg-info
