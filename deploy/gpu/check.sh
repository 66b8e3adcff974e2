#!/usr/bin/env bash
# Checks Ropewalk on a GPU machine: builds it, compares losses with the CPU's, times it, and prints two tables.
#
#   deploy/gpu/check.sh                       builds with --features cuda (needs the CUDA 13 tool kit) and checks cuda:0
#   deploy/gpu/check.sh --flash-attn          builds with FlashAttention too (an hour and more of compilation)
#   deploy/gpu/check.sh --binary PATH         checks a `ropewalk` that was built elsewhere; nothing is downloaded or built
#   deploy/gpu/check.sh --device cpu          the same run without a GPU, to try out the script
#
# All other options are those of check.py: see `deploy/gpu/check.sh --help`. Needs bash and python3 (3.9 or newer), no packages.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)

features=cuda binary= device=cuda:0 help= rest=()
while [ $# -gt 0 ]; do
    case "$1" in
        --flash-attn) features=flash-attn ;;
        --binary) binary=${2:?--binary needs a path}; shift ;;
        --device) device=${2:?--device needs cpu or cuda:N}; shift ;;
        -h | --help) help=1 ;;
        *) rest+=("$1") ;;
    esac
    shift
done
if [ -n "$help" ]; then
    sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//;p}' "$0"
    exec python3 "$here/check.py" --help
fi
if [ -z "$binary" ]; then
    build=(cargo build --release --locked)
    [ "$device" = cpu ] || build+=(--features "$features")
    (cd "$root" && "${build[@]}") >&2
    binary=${CARGO_TARGET_DIR:-$root/target}/release/ropewalk
fi
exec python3 "$here/check.py" --binary "$binary" --device "$device" ${rest[@]+"${rest[@]}"}
