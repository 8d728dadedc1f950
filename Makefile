.PHONY: check format test

# Everything that a change must pass: formatter, linter, strict types, tests.
check:
	ruff format --check src tests benchmarks
	ruff check src tests benchmarks
	mypy
	pytest

format:
	ruff format src tests benchmarks
	ruff check --fix src tests benchmarks

test:
	pytest
