"""`torchrun ... -m coopsgd.worker [--trust] FOLDER`: one process of a run that `coopsgd train ... launch=false` has frozen."""

from coopsgd.run.elsewhere import main

if __name__ == "__main__":
    main()
