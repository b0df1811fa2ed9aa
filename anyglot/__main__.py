"""`python -m anyglot` is the `anyglot` command."""

from anyglot.cli import main

if __name__ == "__main__":
    main()
