#!/usr/bin/env bash
# Train on the machines of a hostfile, over ssh, with DeepSpeed's launcher:
#   scripts/launch/hostfile.sh hosts.txt sizes/7b vars.tokenizers=/tokenizers
# A line of the hostfile is `HOST slots=GPUS`. Every machine needs the same folder, the same Python environment, and `out`
# and the token stores on a file system that all share. A run that ends with an error is started again, up to RESTARTS
# times, and goes on from its newest checkpoint.
set -euo pipefail

if [ $# -lt 2 ]; then
    echo "usage: $0 HOSTFILE CONFIG [key=value ...]" >&2
    exit 2
fi
hostfile=$1
shift

for ((start = 0; start <= ${RESTARTS:-3}; start++)); do
    if deepspeed --hostfile "$hostfile" --master_port "${PORT:-29500}" --module anyglot train "$@"; then
        exit 0
    fi
    echo "$0: ended with an error; start $((start + 1)) of $((${RESTARTS:-3} + 1))" >&2
done
exit 1
