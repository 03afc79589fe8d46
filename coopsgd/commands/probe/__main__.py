"""`python -m coopsgd.commands.probe FOLDER`: one process of a probe that torchrun started."""

from coopsgd.host import collector

if __name__ == "__main__":
    collector.rest()
    from coopsgd.commands.probe import worker

    worker.main()
