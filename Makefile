.PHONY: check docs format lowest newest release test

# Everything that a change must pass: formatter, linter, strict types, tests.
check:
	ruff format --check src tests benchmarks docs
	ruff check src tests benchmarks docs
	mypy
	pytest -n auto

# The documentation site: open build/site/index.html.
docs:
	python -m sphinx -W --keep-going -n -q -c docs/site -d build/doctrees . build/site

format:
	ruff format src tests benchmarks docs
	ruff check --fix src tests benchmarks docs

test:
	pytest -n auto

# Tries the wheel in a new environment with the lowest Python and libraries that pyproject.toml allows,
# or with the newest libraries and this Python. It takes 6 GB in TMPDIR.
lowest newest:
	python .ci/versions.py $@ $(if $(PYTHON),--python $(PYTHON))

# Builds and tries a release; prints what it would publish. `make release PUBLISH=1` publishes it.
release:
	python .ci/release.py $(if $(PUBLISH),--publish)
