"""Run a command while this machine has several times as much to do as it can: so many endless loops a core, as nice as it.

Remake: python scripts/oversubscribed.py 4 make test
"""

from __future__ import annotations

import subprocess
import sys

from coopsgd.host import processors

LOOP = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"  # it ends with this script, however that ends


def main() -> int:
    times, *command = sys.argv[1:]
    cores = processors.cores()
    loops = [subprocess.Popen([sys.executable, "-S", "-c", LOOP]) for _ in range(int(times) * cores)]
    try:
        return subprocess.run(command).returncode
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


if __name__ == "__main__":
    sys.exit(main())
