#!/bin/bash
# Trains on every machine of a Compute Engine TPU slice:
# launch/tpu_vm.sh TPU ZONE +experiment=af2_initial data.root=DIRECTORY run_dir=DIRECTORY
# `python` of a login shell there must have evotrain[tpu]. Several slices that were requested as one queued resource:
# RESOURCE=queued-resources launch/tpu_vm.sh NAME ZONE …

set -euo pipefail

tpu=$1 zone=$2
shift 2
# Quoted once for the login shell, once more for the shell that ssh starts.
printf -v words ' %q' python -m evotrain "$@"
printf -v command '%q' "exec$words"

where=(tpu-vm ssh "$tpu" --worker=all)
if [[ ${RESOURCE:-tpu-vm} == queued-resources ]]; then
    where=(queued-resources ssh "$tpu" --node=all --worker=all)
fi
exec gcloud compute tpus "${where[@]}" --zone="$zone" --command="bash -lc $command"
