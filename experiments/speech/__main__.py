"""Command line: `python -m experiments.speech`."""

from experiments.common import main
from experiments.speech import Config, run

if __name__ == "__main__":
    main(Config, run)
