# Everything from a machine that has Python and make. Every target sets up .venv first; that happens once,
# and again when pyproject.toml or constraints.txt change. TransformerLens 4 has an environment of its own.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

VENV4  := .venv-tl4
BIN4   := $(VENV4)/bin
STAMP4 := $(VENV4)/.installed
# What holds whatever version TransformerLens has: how models are loaded, read, gated and steered.
CONTRACT := $(patsubst %,tests/test_%.py,loading twins weights models hooks activations running_states vectors gates \
	lens_hooks steering parity architectures mutants identities generation likelihoods resuming packing verification insight organisms exchange \
	chat_templates show_prompt conversion conversion_refusals conversion_tokenizers)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-tl4 test-kill lint notebooks pictures organisms organisms-all dose benchmarks benchmark-peers clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "$(PYTHON) is $$($(PYTHON) -V 2>&1), expected Python 3.11 or newer: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

$(STAMP4): pyproject.toml constraints.txt constraints-tl4.txt
	$(PYTHON) -m venv --clear $(VENV4)
	@awk -F== '!seen[$$1]++' constraints-tl4.txt constraints.txt >$(VENV4)/constraints.txt
	$(BIN4)/python -m pip install --quiet --disable-pip-version-check -c $(VENV4)/constraints.txt -e '.[test]'
	@touch $@

demo: $(STAMP)  ## the main job in under three minutes, into figures/quick; FULL=1: every test prompt, into figures
	$(BIN)/workbench demo $(if $(filter-out 0,$(FULL)),--full)

# A process per core, a thread each, and a file stays with one: what it loads once is loaded once.
SIDE_BY_SIDE := -n auto --dist loadfile
test test-tl4: export OMP_NUM_THREADS ?= 1

test: $(STAMP)  ## the tests; SLOW=1: the long ones, too (wheel, snippet, course); ARGS=tests/test_gates.py: some
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) $(if $(filter-out 0,$(SLOW)),,-m 'not slow') $(ARGS)

test-tl4: $(STAMP) $(STAMP4)  ## the contract with TransformerLens 4, whose models are bridges, beside 3.9; as above
	WORKBENCH_OTHER_PYTHON=$(BIN)/python $(BIN4)/python -m pytest $(SIDE_BY_SIDE) $(if $(filter-out 0,$(SLOW)),,-m 'not slow') \
		$(or $(ARGS),$(CONTRACT))

test-kill: $(STAMP)  ## a hundred kills in the middle of sweeps, of drivers, workers and nodes (half an hour); KILLS=30
	WORKBENCH_KILLS=$(or $(KILLS),100) $(BIN)/python -m pytest tests/test_kill.py --durations=0 $(ARGS)

lint: $(STAMP)  ## ruff, mypy, and the import arrows between the rooms
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

notebooks: $(STAMP)  ## build and run the course; HTML=1: as pages, too; ARGS="01 04": some of it
	$(BIN)/python notebooks/build.py $(if $(filter-out 0,$(HTML)),--html) $(ARGS)

pictures: $(STAMP)  ## draw what reading and steering look like, layer by layer, into figures; ARGS="05 08": some
	$(BIN)/python figures/layer_by_layer.py $(ARGS)

organisms: $(STAMP)  ## retrain the embedded models from scratch, into runs/organisms (half an hour on two cores)
	$(BIN)/workbench organisms train

organisms-all: organisms  ## the same, the second family, of another architecture, width and depth, and the base with sight
	$(BIN)/workbench organisms train --family qwen
	$(BIN)/workbench organisms train --family llava

dose: $(STAMP)  ## own vector or the aligned model's, by how much the base refuses: trains four bases, twice (hours)
	$(BIN)/python figures/dose_response.py $(ARGS)

benchmarks: $(STAMP)  ## what reading, steering and sweeping cost, side by side with what they are compared with
	$(BIN)/python benchmarks/extraction.py
	$(BIN)/python benchmarks/extraction.py --model random:llama-768x12 --repeats 5
	$(BIN)/python benchmarks/extraction.py --memory
	$(BIN)/python benchmarks/generation.py
	$(BIN)/python benchmarks/generation.py --model random:llama-768x12 --prompts 32 --repeats 5
	$(BIN)/python benchmarks/multimodal.py
	$(BIN)/python benchmarks/twins.py
	$(BIN)/python benchmarks/sweep.py
	$(BIN)/python benchmarks/sweep.py --memory
	$(BIN)/python benchmarks/sweep.py --cost

# Environments of their own: steering-vectors wants an older transformers. The benchmark leaves out what is not there.
benchmark-peers:  ## install the libraries that ours is compared with, each into an environment under .peers
	@for peer in benchmarks/peers/*.txt; do \
		env=.peers/$$(basename $$peer .txt); \
		$(PYTHON) -m venv --clear $$env && \
		$$env/bin/python -m pip install --quiet --disable-pip-version-check -r $$peer || { rm -rf $$env; exit 1; }; \
	done

clean:  ## remove the environments and every cache; data and figures stay
	rm -rf $(VENV) $(VENV4) .peers build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
