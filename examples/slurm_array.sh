#!/usr/bin/env bash
#SBATCH --job-name=neuralprep
#SBATCH --cpus-per-task=2
#SBATCH --mem=3G
#SBATCH --time=02:00:00
#SBATCH --output=neuralprep-%A_%a.log
#
# sbatch --array=0-9 slurm_array.sh scans.txt /my/out [options of neuralprep run]
#
# scans.txt has one path a line. Task i of n takes the lines i, i+n, i+2n, ... and writes to /my/out/part-i. Submitting the
# same command again skips what is finished. Then, for one table of everything:
#   head -1 /my/out/part-0/status.tsv; tail -qn +2 /my/out/part-*/status.tsv
set -euo pipefail

if [ "$#" -lt 2 ]; then
  echo "usage: sbatch --array=0-9 slurm_array.sh LIST OUT [OPTIONS]" >&2
  exit 2
fi
list="$(realpath "$1")" out="$2"
shift 2

task="${SLURM_ARRAY_TASK_ID:-0}" tasks="${SLURM_ARRAY_TASK_COUNT:-1}" first="${SLURM_ARRAY_TASK_MIN:-0}"
part="$((task - first))"
threads="${SLURM_CPUS_PER_TASK:-2}"
export OMP_NUM_THREADS="$threads"

mkdir -p "$out"
mine="$out/part-$part.txt"
awk -v part="$part" -v tasks="$tasks" -v folder="$(dirname "$list")" '
  { sub(/\r$/, "") }
  /^[[:space:]]*(#|$)/ { next }
  n++ % tasks == part { print (/^[\/~]/ ? $0 : folder "/" $0) }' "$list" >"$mine"
if [ ! -s "$mine" ]; then
  echo "task $task: nothing to do"
  exit 0
fi
exec neuralprep run "$mine" "$out/part-$part" --threads "$threads" --quiet "$@"
