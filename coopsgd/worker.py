"""`torchrun ... -m coopsgd.worker [--trust] FOLDER`: one process of a run that `coopsgd train ... launch=false` has frozen."""

from coopsgd.host import collector


def main() -> None:
    """One process of a torchrun."""
    collector.rest()
    from coopsgd.run import elsewhere

    elsewhere.main()


if __name__ == "__main__":
    main()
