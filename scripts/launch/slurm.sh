#!/usr/bin/env bash
# Train on the nodes of a SLURM job, one torchrun a node:
#   sbatch --nodes 8 scripts/launch/slurm.sh sizes/7b vars.tokenizers=/tokenizers
# `out` and the token stores must lie on a file system that all nodes share. A process that dies ends all others; torchrun
# starts them again, up to RESTARTS times, and the run goes on from its newest checkpoint. Submitted again, it goes on too.
#SBATCH --job-name=anyglot
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
processes=${SLURM_GPUS_ON_NODE:-1}
export OMP_NUM_THREADS=$((${SLURM_CPUS_PER_TASK:-$processes} / processes))

exec srun --kill-on-bad-exit=1 torchrun \
    --nnodes "$SLURM_JOB_NUM_NODES" \
    --nproc-per-node "$processes" \
    --rdzv-backend c10d \
    --rdzv-endpoint "$head:${PORT:-29500}" \
    --rdzv-id "$SLURM_JOB_ID" \
    --max-restarts "${RESTARTS:-3}" \
    -m anyglot train "$@"
