"""Under a real torchrun with four processes: the README's loop as it stands there, and the rows of runs."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

from conftest import HANG
from playing import settle
from test_equal import MLP, RUN, SGD, agree

HERE = Path(__file__).parent
README = (HERE.parents[1] / "README.md").read_text()
CASES = [("algo=easgd", "tau=2"), ("algo=dpsgd", "topology=exponential", "tau=5", "delay=1"), ("algo=fullsync",)]

BEFORE = """
import os
import torch
import torch.distributed as dist
from torch import nn

torch.set_num_threads(1)
rank = int(os.environ["RANK"])
torch.manual_seed(rank)
model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
loss_fn = nn.CrossEntropyLoss()
loader = [(torch.randn(16, 4), torch.randint(0, 3, (16,))) for _ in range(9)]
seen = []
evaluate = lambda model: seen.append(torch.cat([x.double().flatten() for x in model.state_dict().values()]))
"""
AFTER = """
everyone = [torch.empty_like(seen[0]) for _ in range(4)]
dist.all_gather(everyone, seen[0])
assert all(torch.equal(one, everyone[0]) for one in everyone)
assert coop.ledger.rounds == 2 and coop.ledger.wire_bytes > 0
import pickle
import sys
from test_equal import users_loop
found = []
for config, words in pickle.load(open(sys.argv[1], "rb")):
    torch.set_default_dtype(torch.float32)
    found.append(users_loop(rank, 4, config, words))
pickle.dump(found, open(f"{sys.argv[1]}.{rank}", "wb"))
dist.destroy_process_group()
"""


def test_the_readmes_loop_and_the_rows_of_runs(tmp_path):
    script, job = tmp_path / "yours.py", tmp_path / "job"
    loop = README.partition("```python\n# yours.py")[2].partition("```")[0]
    script.write_text(BEFORE + "#" + loop + AFTER)
    configs = [settle((*RUN, *MLP, *SGD, *words)) for words in CASES]
    job.write_bytes(pickle.dumps([(config, (*MLP, *words)) for config, words in zip(configs, CASES, strict=True)]))
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=4", str(script), str(job)]
    env = {**os.environ, "PYTHONPATH": f"{HERE}:{HERE.parent}"}
    done = subprocess.run(line, capture_output=True, text=True, env=env, timeout=HANG)
    assert done.returncode == 0, done.stderr[-3000:]
    answers = [pickle.loads(Path(f"{job}.{rank}").read_bytes()) for rank in range(4)]
    for config, *of_ranks in zip(configs, *answers, strict=True):
        agree(config, of_ranks)
