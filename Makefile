.PHONY: check format test

# Everything that a change must pass: formatter, linter, strict types, tests.
check:
	ruff format --check src tests
	ruff check src tests
	mypy
	pytest

format:
	ruff format src tests
	ruff check --fix src tests

test:
	pytest
