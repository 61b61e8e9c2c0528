# make demo: from nothing to a pruned, exported, engine-built, profiled and packaged model.
# make test: the fast tests.  make test-all: all tests.  make check: lint, types, import layers.
# make docs: the documentation site, in site/.
# make smoke: a shortened demo, a real server and a few tests, for any Python (PYTHON=python3.13 VENV=.venv-3.13).
# Python 3.11+ and PyPI are all that is needed.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
EXTRAS := cpu,rtx,triton,demo,serve,genai
# Python compiles what it imports: of these packages that is a small part.
PIP    := -m pip install --quiet --no-compile

.PHONY: demo environments test test-all smoke check lint types docs clean

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP) --upgrade pip

$(VENV)/.installed-demo: pyproject.toml | $(BIN)/python
	$(BIN)/python $(PIP) -e '.[$(EXTRAS)]'
	touch $@

# Byte code of what every test process imports, made once: each would compile it anew.
COMPILED = torch transformers onnx onnx_ir onnxscript onnxruntime datasets accelerate sympy numpy

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/python $(PIP) -e '.[$(EXTRAS),dev]'
	cd $$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') && \
		$(abspath $(BIN)/python) -m compileall -q -j 0 $(COMPILED) || true
	touch $@ $(VENV)/.installed-demo

demo: $(VENV)/.installed-demo
	HF_HUB_OFFLINE=1 $(BIN)/nirvana deploy recipes/quickstart.yaml

# A real tritonserver for the tests of server packages. It wants NumPy 1, so an environment of its own.
$(VENV)/triton/.installed: | $(BIN)/python
	$(PYTHON) -m venv $(VENV)/triton
	$(VENV)/triton/bin/python $(PIP) nvidia-pytriton onnxruntime tokenizers
	touch $@

environments: $(VENV)/.installed-dev $(VENV)/triton/.installed

# A process a core, and a file in one of them: its fixtures are made once. One thread each. Tests start
# hundreds of processes: without byte code, each would compile torch and transformers anew.
RUN_TESTS = env -u PYTHONDONTWRITEBYTECODE NIRVANA_TRITON=$(abspath $(VENV)/triton) HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 \
	$(BIN)/python -m pytest --numprocesses=logical --dist=loadfile --no-loadscope-reorder

test: environments
	$(RUN_TESTS) -m "not slow" $(PYTEST_ARGS)

test-all: environments
	$(RUN_TESTS) $(PYTEST_ARGS)

# What differs between Python versions, in a few minutes: installing, the demo, loading, serving.
$(VENV)/.installed-smoke: pyproject.toml | $(BIN)/python
	$(BIN)/python $(PIP) -e '.[$(EXTRAS),test]'
	touch $@

smoke: $(VENV)/.installed-smoke
	env -u PYTHONDONTWRITEBYTECODE HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -p no:cacheprovider \
		tests/test_readme.py tests/nirvana_deploy/serving/server tests/nirvana_deploy/test_cli.py \
		tests/field/test_pipeline.py tests/field/test_class_names.py \
		--numprocesses=logical --dist=loadfile

check: lint types

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/.installed-dev
	$(BIN)/mypy

$(VENV)/.installed-docs: pyproject.toml | $(BIN)/python
	$(BIN)/python $(PIP) -e '.[docs]'
	touch $@

docs: $(VENV)/.installed-docs
	$(BIN)/python benchmarks/write_page.py --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

clean:
	rm -rf site $(VENV) .mypy_cache .ruff_cache .pytest_cache
