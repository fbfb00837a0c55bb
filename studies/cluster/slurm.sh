#!/bin/bash
# One search on many GPUs of a SLURM cluster:
#
#     sbatch studies/cluster/slurm.sh
#
# Each task of the array runs the same command. The first one that has a GPU begins the search, the
# others join it when they start, and a task that starts after the end does nothing. Change what is
# marked with CHANGE; options of sbatch on the command line have precedence over those here.

#SBATCH --job-name=autotl
#SBATCH --array=0-7                     # CHANGE: the number of workers
#SBATCH --gpus-per-task=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --mem=16G                       # CHANGE: more for large images
#SBATCH --time=04:00:00                 # CHANGE: a limit of your cluster; tasks go on after it
#SBATCH --signal=B:TERM@120             # two minutes before that limit, and ...
#SBATCH --requeue                       # ... after preemption the task is started again
#SBATCH --open-mode=append
#SBATCH --output=autotl-%A_%a.log

# CHANGE: the data, and a folder that all nodes share.
DATA="${DATA:-photos/}"
OUT="${OUT:-runs}"

# CHANGE: the server of the database, in a file that only you can read, such as
#     export AUTOTL_STORAGE=postgresql+psycopg://USER:PASSWORD@HOST/NAME
# SQLite is not enough for several nodes.
CREDENTIALS="${CREDENTIALS:-$HOME/.autotl-storage}"
if [ -f "$CREDENTIALS" ]; then
  . "$CREDENTIALS"
fi

# CHANGE: how AutoTL is activated on your cluster.
if [ -n "${AUTOTL_ENVIRONMENT:-}" ]; then
  . "$AUTOTL_ENVIRONMENT/bin/activate"
fi

# The task gives its trial back at its time limit, as after Ctrl-C, and is queued again. The budget
# is that of the search: the time before counts.
ends=
give_back() {
  ends=1
  kill -TERM "$worker"
}
trap give_back TERM

srun autotl search "$DATA" --join --out "$OUT" --budget 8h "$@" &  # CHANGE: the budget
worker=$!
wait "$worker"
status=$?
if [ -n "$ends" ]; then
  wait "$worker"  # until it has stored its checkpoint
  scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
  exit 0
fi
exit "$status"
