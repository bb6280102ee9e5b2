#!/usr/bin/env bash
# A Ray head on this machine that `msm submit` can use, closed to everyone without its token.
#
#   cluster/local.sh start [ray start options]   starts it, prints what to export
#   cluster/local.sh stop                        ends the processes that start began, no others
#
# MSM_CLUSTER_DIR   where the token and Ray's files go (default: ~/.msm-ray-cluster)
# MSM_PORT, MSM_DASHBOARD_PORT   of the head (default: 6379, 8265)
# MSM_RAY           the ray command (default: that of ./.venv, else the one on the path)
set -euo pipefail

dir=${MSM_CLUSTER_DIR:-$HOME/.msm-ray-cluster}
port=${MSM_PORT:-6379}
dashboard=${MSM_DASHBOARD_PORT:-8265}
here=$(cd "$(dirname "$0")/.." && pwd)
ray=${MSM_RAY:-$here/.venv/bin/ray}
[ -x "$ray" ] || ray=ray

export RAY_AUTH_MODE=token
export RAY_AUTH_TOKEN_PATH=$dir/token
export RAY_USAGE_STATS_ENABLED=0
export RAY_process_group_cleanup_enabled=true # a killed worker takes its children along
export RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO=0
# So that the entrypoint of a job finds the same Python and msm as this head.
PATH=$(cd "$(dirname "$(command -v "$ray")")" && pwd):$PATH
export PATH

start() {
    mkdir -p "$dir"
    chmod 700 "$dir"
    if [ -s "$dir/pid" ] && [ -n "$(members "$(cat "$dir/pid")")" ]; then
        echo "a cluster of this folder runs already: $0 stop" >&2
        exit 2
    fi
    if [ ! -s "$RAY_AUTH_TOKEN_PATH" ]; then
        (umask 177 && python3 -c 'import secrets; print(secrets.token_hex(32), end="")' \
            >"$RAY_AUTH_TOKEN_PATH")
    fi
    # A session of its own holds all that Ray starts, and only that.
    setsid "$ray" start --head --block --port="$port" --dashboard-host=127.0.0.1 \
        --dashboard-port="$dashboard" --min-worker-port=0 --max-worker-port=0 \
        --temp-dir="$dir/ray" --disable-usage-stats "$@" \
        >"$dir/log" 2>&1 </dev/null &
    echo $! >"$dir/pid"
    for _ in $(seq 120); do
        if [ -z "$(members "$(cat "$dir/pid")")" ]; then
            rm -f "$dir/pid"
            echo "the head did not start; the end of $dir/log:" >&2
            tail -n 5 "$dir/log" >&2
            exit 1
        fi
        if (exec 3<>"/dev/tcp/127.0.0.1/$dashboard") 2>/dev/null; then
            echo "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$RAY_AUTH_TOKEN_PATH"
            echo "msm submit jobs/cheese_micro.py --address http://127.0.0.1:$dashboard"
            return
        fi
        sleep 0.5
    done
    echo "the dashboard did not come up within 60 s: see $dir/log" >&2
    stop
    exit 1
}

# Every process of the head's session that still runs; a zombie only waits to be counted.
members() {
    ps -o pid=,stat= -s "$1" | awk '$2 !~ /^Z/ { print $1 }'
}

stop() {
    [ -s "$dir/pid" ] || { echo "nothing to stop in $dir" >&2; return; }
    local session left
    session=$(cat "$dir/pid")
    if kill -0 "$session" 2>/dev/null && ps -ww -o args= -p "$session" | grep -qv -e "$dir" -e defunct; then
        echo "process $session is not what start began: remove $dir/pid" >&2
        exit 1
    fi
    kill -TERM "$session" 2>/dev/null || true
    for _ in $(seq 30); do
        left=$(members "$session")
        [ -n "$left" ] || break
        sleep 0.5
    done
    # shellcheck disable=SC2086  # one word per process
    [ -z "$left" ] || kill -KILL $left 2>/dev/null || true
    rm -f "$dir/pid"
}

case ${1:-} in
    start) shift && start "$@" ;;
    stop) stop ;;
    *) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2; exit 2 ;;
esac
