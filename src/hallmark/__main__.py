"""``python -m hallmark STAGE ...``: see :mod:`hallmark.cli`."""

from hallmark.cli import main

if __name__ == "__main__":
    main()
