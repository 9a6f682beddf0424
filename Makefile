# The same tasks without make: python run.py demo|test|comfyui
PYTHON ?= python3

.PHONY: demo test comfyui
demo test comfyui:
	@$(PYTHON) run.py $@ $(ARGS)
