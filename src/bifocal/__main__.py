"""`python -m bifocal`: the command line."""

from .cli.app import app, main

__all__ = ["app", "main"]

if __name__ == "__main__":
    main()
