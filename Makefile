# make serve   Install if needed, then serve on 127.0.0.1:8642 (PORT=…).
# make test    Install if needed, then run every check and every test.
# make demo    Walk through the README's tour against a running server (URL=…).
#
# This needs Python 3.11 or newer and nothing else. VENV=… sets the folder of the virtual environment.

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
