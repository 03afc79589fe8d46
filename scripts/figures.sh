#!/usr/bin/env bash
# The pictures of docs/results.md anew, by the commands that stand there; its tables are left in build/figures/*/table.md.
# Remake: make figures    (21 minutes on 2 cores that others used too, 18 of one core's time)
set -eu
cd "$(dirname "$0")/.."
PATH="$PWD/.venv/bin:$PATH"

coopsgd train -m experiment=alpha hydra.sweep.dir=multirun/alpha
coopsgd compare multirun/alpha --tail 0.34 --metric eval/loss --metric train/loss --metric consensus \
  --column alpha --column zeta --column last -o build/figures/alpha
cp build/figures/alpha/against_zeta.png docs/alpha.png

coopsgd train -m experiment=crossing hydra.sweep.dir=multirun/crossing
coopsgd compare multirun/crossing --tail 0.5 --metric consensus --metric eval/loss \
  --column algo --column tau --column last -o build/figures/crossing
cp build/figures/crossing/against_tau.png docs/crossing.png

coopsgd train -m experiment=crossing_network hydra.sweep.dir=multirun/crossing_network
coopsgd compare multirun/crossing_network --tail 0.5 --metric consensus --metric eval/loss \
  --column algo --column tau --column last -o build/figures/crossing_network
cp build/figures/crossing_network/against_tau.png docs/crossing_network.png

coopsgd train -m experiment=equal_bytes hydra.sweep.dir=multirun/equal_bytes
coopsgd compare multirun/equal_bytes --by bytes --at bytes=50MB --at bytes=100MB --at bytes=250MB \
  --column algo --column tau --column " by " --column final --column sent -o build/figures/equal_bytes
cp build/figures/equal_bytes/by_bytes.png docs/equal_bytes.png

coopsgd train -m experiment=skew hydra.sweep.dir=multirun/skew
coopsgd compare multirun/skew multirun/equal_bytes --metric eval/accuracy --metric eval/loss --metric eval/accuracy_worst \
  --column algo --column partition --column final -o build/figures/skew
cp build/figures/skew/final.png docs/skew.png
