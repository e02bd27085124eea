#!/bin/bash
# Prepares a data set on a SLURM cluster: each job of an array does its share of the files.
# sbatch --array=0-63 launch/slurm_prepare.sh data.root=DIRECTORY prepare.out=prepared
# Submit the same array again, whole, after a job has failed: files that are done stay. Options given to sbatch win over
# the ones below. --array starts at 0; --array=0-63%8 runs eight jobs at a time.
#SBATCH --job-name=evotrain-prepare
#SBATCH --array=0-7
#SBATCH --nodes=1
#SBATCH --ntasks=1
# One process a core reads proteins. The deepest alignments take a few GB each.
#SBATCH --cpus-per-task=16
#SBATCH --mem-per-cpu=4G
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%A-%a.out

set -euo pipefail

exec python -m evotrain command=prepare "prepare.shard=$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" "$@"
