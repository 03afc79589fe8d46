"""`torchrun ... -m coopsgd.worker [--trust] FOLDER`: one process of a run that `coopsgd train ... launch=false` has frozen."""

import os

from coopsgd.host import collector


def main() -> None:
    """One process of a torchrun."""
    collector.rest()
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # when one ends, torch tells of each connection in twenty lines
    from coopsgd.run import elsewhere

    elsewhere.main()


if __name__ == "__main__":
    main()
