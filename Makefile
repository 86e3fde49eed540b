# make serve   installs if need be, then serves on 127.0.0.1:8642 (PORT=…)
# make test    installs if need be, then runs every check and every test
# make demo    walks through the README's tour against a server that runs (URL=…)
#
# Needs Python 3.11 or newer, nothing else. VENV=… puts the environment elsewhere.

VENV ?= .venv
PORT ?= 8642
URL ?= http://127.0.0.1:$(PORT)
export VENV

.PHONY: serve test demo

serve:
	@scripts/install $(VENV) server,cpu,openvino
	@exec $(VENV)/bin/penchant serve --port $(PORT)

test:
	@scripts/check --no-tests
	@scripts/test

demo:
	@scripts/install $(VENV) server,cpu,openvino
	@$(VENV)/bin/penchant demo --base-url $(URL)
