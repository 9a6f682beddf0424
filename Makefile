# The same tasks without make: python run.py demo|test|comfyui, and python run.py test --quick
PYTHON ?= python3

.PHONY: demo test quick comfyui
demo test comfyui:
	@$(PYTHON) run.py $@ $(ARGS)
quick:
	@$(PYTHON) run.py test --quick $(ARGS)
