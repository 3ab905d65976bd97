PYTHON ?= python

.DEFAULT_GOAL := help
.PHONY: help check test full bench readme

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/ -/'

check:  ## style and types, the same as CI
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

test:  ## the tests that need nothing but the package
	$(PYTHON) -m pytest

full:  ## the tests that need a real model, Chromium, vLLM or Ray, or more than a minute
	$(PYTHON) -m pytest -m 'real or browser or vllm or ray or slow'

bench:  ## wall time and peak memory of the main job, against their limits
	$(PYTHON) benchmarks/sweep.py

readme:  ## run what README.md and docs/ show, and fill it in; DATA=pairs.jsonl.gz: the real run too
	$(PYTHON) scripts/readme.py $(if $(DATA),--data $(DATA))
