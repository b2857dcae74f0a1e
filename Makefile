# Everything here runs on a fresh machine that has Python >= 3.10 and make.
# The first target you ask for sets up $(VENV) by itself; after that, set-up costs nothing.
PYTHON ?= python3
VENV   ?= .venv
LATEST ?= .venv-latest
ARGS   ?=
NB     ?=
FLAGS  ?=
DATA   ?=
ON     ?= colab kaggle

BIN   := $(VENV)/bin
STAMP := $(VENV)/.ready
export NO_ALBUMENTATIONS_UPDATE = 1

.PHONY: help train test docs export clean lab test-latest test-colab records gpu-kit pins distclean
.DEFAULT_GOAL := help

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  PYTHON=python3.12 picks the Python, VENV=path the environment (default $(VENV))."

train: $(STAMP)  ## Train on the built-in sample: a minute or two, several without bfloat16 (ARGS="--epochs 3")
	@echo "==> Training ResNet18 on the built-in sample: a minute or two on two cores, several without bfloat16"
	@$(BIN)/tinycourse train --data sample --baseline $(ARGS)

test: $(STAMP)  ## Run every check (NB=lessons/01 for one notebook, FLAGS="slow cuda" for all cells)
	@$(BIN)/python .ci/test.py --flags "$(FLAGS)" $(NB)

docs: $(STAMP)  ## Build docs/, README.md and the students' edition from the notebooks
	@echo "==> Building docs/, README.md and tinycourse/notebooks: about half a minute"
	@$(BIN)/python .ci/students.py
	@$(BIN)/python .ci/docs.py

export: $(STAMP)  ## Write tinycourse/*.py from the notebooks
	@$(BIN)/nbdev_export
	@echo "==> tinycourse/ is in step with nbs/"

lab: $(STAMP)  ## Open the notebooks in JupyterLab, which saves them clean
	@echo "==> Starting JupyterLab in nbs/; stop it with Ctrl-C"
	@JUPYTER_CONFIG_PATH="$(abspath $(VENV))/.jupyter" $(BIN)/jupyter lab nbs $(ARGS)

test-latest:  ## Run the notebooks under the newest fastai, fastcore and nbdev
	@.ci/setup "$(PYTHON)" "$(LATEST)" latest
	@$(LATEST)/bin/python .ci/test.py --latest --flags "$(FLAGS)" $(NB)

test-colab:  ## Try the wheel in environments as Colab and Kaggle have them (ON=colab for one)
	@for p in $(ON); do "$(PYTHON)" .ci/try_platform.py $$p $(ARGS) || exit 1; done

clean:  ## Strip notebooks of noise and delete everything a build left behind
	@if [ -x $(BIN)/nbdev_clean ]; then $(BIN)/nbdev_clean; fi
	@rm -rf _proc build dist *.egg-info
	@find . -path './.venv*' -prune -o -type d \( -name __pycache__ -o -name .ipynb_checkpoints \) -exec rm -rf {} +
	@echo "==> Clean. Environments stay; 'make distclean' removes them too"

distclean: clean  ## Also delete the environments
	@rm -rf .venv .venv-latest .venv-colab .venv-kaggle

records: $(STAMP)  ## Show the list of recorded runs (ARGS="run --minutes 60" makes what is missing)
	@$(BIN)/tinycourse records $(ARGS)

gpu-kit: $(STAMP)  ## Pack source, wheels and data for a GPU machine without a network (DATA=tiny-imagenet-200.zip)
	@.ci/gpu-kit $(BIN)/python dist/gpu "$(DATA)"

pins: $(STAMP)  ## Renew requirements-dev.txt from settings.ini and requirements-dev.in
	@.ci/pins $(BIN)

$(STAMP): requirements-dev.txt setup.py settings.ini
	@.ci/setup "$(PYTHON)" "$(VENV)"
