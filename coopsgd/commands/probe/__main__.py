"""`python -m coopsgd.commands.probe FOLDER`: one process of a probe that torchrun started."""

from coopsgd.commands.probe.worker import main

main()
