"""One of several processes that train, each with overrides of its own: `python differing_hosts.py key=value …`.

Prints the sentence with which the run is refused.
"""

import sys

from evotrain.compose import compose
from evotrain.errors import EvotrainError
from evotrain.train import train


def main(*overrides: str) -> None:
    try:
        train(compose(list(overrides)))
    except EvotrainError as error:
        print(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main(*sys.argv[1:])
