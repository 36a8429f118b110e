"""``python -m vitmem``."""

from vitmem.cli import entry

if __name__ == "__main__":
    entry()
