"""``python -m prefeval``: the same as the ``prefeval`` command."""

from prefeval.harness.cli import main

if __name__ == "__main__":
    main()
