#!/usr/bin/env bash
# The table of docs/results.md on an outer step: periodic averaging with and without one, each at its own inner rate.
# Remake: scripts/study_outer.sh    (324 runs, half an hour of one core)
set -eu
cd "$(dirname "$0")/.."
PATH="$PWD/.venv/bin:$PATH"
words="algo=pasgd data=digits partition=shards workers=8 processes=1 threads=1 steps=600 eval_every=100 log_every=100 save=none
  checkpoint_every=0 optim.lr=0.05,0.1,0.2,0.4,0.8,1.6 tau=5,25,100 seed=0,1,2"
coopsgd train -q -m $words outer=none hydra.sweep.dir=multirun/outer/none
coopsgd train -q -m $words outer=momentum outer.momentum=0.3,0.6,0.9 hydra.sweep.dir=multirun/outer/momentum
coopsgd train -q -m $words outer=nesterov outer.momentum=0.5,0.9 hydra.sweep.dir=multirun/outer/nesterov
coopsgd compare multirun/outer --best-of optim.lr --metric eval/loss --metric eval/accuracy \
  --column tau --column outer --column outer.momentum --column lr --column final -o build/figures/outer
