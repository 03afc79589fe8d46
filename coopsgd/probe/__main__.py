"""`python -m coopsgd.probe FOLDER`: one process of a probe that torchrun started."""

from coopsgd.probe.worker import main

main()
