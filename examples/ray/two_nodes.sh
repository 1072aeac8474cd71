#!/usr/bin/env bash
# Two nodes of a Ray cluster on this machine, and two replicas on them. Ctrl-C ends all of it.
#     examples/ray/two_nodes.sh [PORT]
set -euo pipefail
port=${1:-8000}
export RAY_SERVE_ENABLE_HA_PROXY=1 RAY_SERVE_INGRESS_REQUEST_ROUTER_FORWARD_BODY=1
export RAY_SERVE_HAPROXY_INGRESS_REQUEST_ROUTER_BUFSIZE=262144
export RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD=0
export RAY_worker_niceness=0 RAY_SERVE_METRICS_EXPORT_INTERVAL_MS=5000
export RAY_SERVE_HAPROXY_METRICS_ENABLED=0 RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S=600
export RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S=30 RAY_USAGE_STATS_ENABLED=0
export RAY_AUTH_MODE=token              # else whoever reaches the cluster's port runs what they like
ray get-auth-token --generate >/dev/null
node=(--node-ip-address=127.0.0.1 --object-store-memory=100000000 --num-cpus=2)
gcs=127.0.0.1:6399

ray start --head --port=6399 --include-dashboard=false --block "${node[@]}" &
nodes=($!)
trap 'kill "${nodes[@]}"; wait' EXIT
until ray health-check --address="$gcs" 2>/dev/null; do sleep 1; done
ray start --address="$gcs" --block "${node[@]}" &
nodes+=($!)
RAY_ADDRESS=$gcs python - "$port" <<'PY'
import signal
import sys

import ray
from ray import serve

from steerplug.ray import app

ray.init()
serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
serve.run(app({"model": "smollm2", "n-ctx": 2048, "n-threads": 1, "replicas": 2}), blocking=False)
print(f"Ask http://127.0.0.1:{sys.argv[1]}/v1, and see /metrics there.", flush=True)
signal.sigwait({signal.SIGINT, signal.SIGTERM})
PY
