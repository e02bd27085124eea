#!/bin/bash
# Trains on a SLURM cluster, one process per GPU:
# sbatch --nodes=2 launch/slurm.sh +experiment=af2_initial data.root=DIRECTORY
# Options given to sbatch win over the ones below. With one process a machine, for TPUs or (JAX_PLATFORMS=cpu) for none:
# sbatch --ntasks-per-node=1 --gpus-per-node=0 …
#SBATCH --job-name=evotrain
#SBATCH --nodes=1
# One task for each GPU of a node, and no --gpus-per-task: JAX gives each task the GPU of its number on the node.
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
# Two minutes before the time limit this script gets USR1; on preemption it gets TERM. Either way it saves and requeues.
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out

set -euo pipefail

interrupted=no
save_and_requeue() {
    trap '' USR1 TERM
    interrupted=yes
    # To every process of the step, which saves and ends. A TERM to srun itself would have it kill them instead.
    scancel --signal=TERM "$SLURM_JOB_ID"
}

srun --kill-on-bad-exit=1 python -m evotrain "$@" &
step=$!
trap save_and_requeue USR1 TERM

status=0
wait "$step" || status=$?
if [[ $interrupted == yes ]]; then
    # The signal ended the first wait, not the step.
    status=0
    wait "$step" || status=$?
    scontrol requeue "$SLURM_JOB_ID" # the same command continues from the run directory's checkpoint
fi
exit "$status"
