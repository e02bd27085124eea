"""`python -m evotrain`."""

import sys

from evotrain.cli import main

if __name__ == "__main__":
    sys.exit(main())
