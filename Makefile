# Two commands matter: `make book` and `make test`. `make help` lists the rest.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
SITE   := _build/html
PORT   ?= 8000

.DEFAULT_GOAL := help
.PHONY: help book test check serve gpu bench results clean distclean

help: ## show this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | awk -F '\t' '{ printf "  make %-10s %s\n", $$1, $$2 }'

# The environment: made once, renewed when the pins or the package's metadata change.
$(STAMP): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Python 3.11 or later is needed, and '$(PYTHON)' is not: $$($(PYTHON) --version 2>&1)."; \
	  echo "Name another one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
	  echo "No virtual environment could be made. On Debian and Ubuntu: apt-get install python3-venv"; \
	  rm -rf $(VENV); exit 1; }
	@echo "Installing into $(VENV); the first time this takes a few minutes."
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -r requirements.txt
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps -e .
	@touch $@

book: $(STAMP) ## execute the chapters that changed and build the site into _build/html
	$(BIN)/jupyter-book build . -W -n --keep-going

# A process for each core. They steal tests from one another, as a few tests take as long as hundreds.
PYTEST := $(BIN)/python -m pytest -n auto --dist worksteal

test: book ## run the tests, on the site just built; of pages in a browser a few
	$(PYTEST)

check: book ## run what make test leaves out: the other pages in a browser, all notebooks as in Colab
	$(PYTEST) -m check

serve: book ## show the site on http://localhost:8000 (another port: PORT=8001)
	@echo "http://localhost:$(PORT), Ctrl-C to stop"
	@$(BIN)/python -m http.server --bind 127.0.0.1 --directory $(SITE) $(PORT)

gpu: $(STAMP) ## check the GPU of this machine, in a few minutes; where there is none it says so
	$(BIN)/python -m sgdvi_lite gpu-check
	$(BIN)/python -m pytest tests/devices -m gpu

results: $(STAMP) ## list the saved runs: commit, minutes, source of the data, and the command that makes each again
	$(BIN)/python -m sgdvi_lite shipped

# The last two of the peers ask for torchvision, which would replace torch, and do not need it here.
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet

bench: $(STAMP) ## time the library beside its peers; what is missing without a network is skipped and named
	{ $(PIP) -e '.[bench]' && $(PIP) --no-deps backpack-for-pytorch==1.7.1 curvlinops-for-pytorch==3.0.1; } || \
	  echo "Not all peers could be installed: those that are missing are skipped."
	$(BIN)/python -m pytest tests/benchmarks -rs --benchmark-only --benchmark-columns=min,median,stddev,rounds

clean: ## remove the site, the execution cache and what tools leave behind
	rm -rf _build .pytest_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean ## clean, and remove the virtual environment too
	rm -rf $(VENV)
