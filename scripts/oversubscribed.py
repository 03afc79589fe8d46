"""Run a command while this machine has several times as much to do as it can: so many endless loops a core, as nice as it.

Remake: python scripts/oversubscribed.py 4 make test
"""

from __future__ import annotations

import os
import subprocess
import sys

LOOP = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"  # it ends with this script, however that ends


def main() -> int:
    times, *command = sys.argv[1:]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    loops = [subprocess.Popen([sys.executable, "-S", "-c", LOOP]) for _ in range(int(times) * cores)]
    try:
        return subprocess.run(command).returncode
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


if __name__ == "__main__":
    sys.exit(main())
