"""What Ray must be told before it starts, on every node, for it reads this from the environment."""

import os
import random

ENVIRONMENT = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",  # HAProxy streams between client and replica
    "RAY_SERVE_INGRESS_REQUEST_ROUTER_FORWARD_BODY": "1",  # by which a front knows a chat
    "RAY_SERVE_HAPROXY_INGRESS_REQUEST_ROUTER_BUFSIZE": "262144",  # bytes of it
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",  # no thread more for each token
    "RAY_worker_niceness": "0",  # Ray's own is 15: each token would wait for all else that runs
    "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "5000",  # of Serve's counts, which wakes every process
    "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",  # replicas count requests, without a process more
    "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "600",  # a stream may outlast what HAProxy was told
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",  # of a small machine
    "RAY_USAGE_STATS_ENABLED": "0",  # Ray tells nobody
}


def prepare() -> None:
    """Set what nobody has set yet; this comes before Ray is imported."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def choose_ports() -> None:
    """Set ports of what Serve runs that no other cluster of this machine is likely to have.

    Two clusters that share them answer each other's requests: both listen on one fallback's port,
    and a replica may take the port that one of the other's has just left.
    """
    first = random.randrange(20_000, 30_000, 100)
    ports = {
        "RAY_SERVE_HAPROXY_METRICS_PORT": first,
        "RAY_SERVE_HAPROXY_STATS_PORT": first + 1,
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": first + 2,
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": first + 3,
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": first + 4,
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": first + 99,
    }
    for name, port in ports.items():
        os.environ.setdefault(name, str(port))
