#!/usr/bin/env bash
# Builds docker/Dockerfile and trains in the image where there is no Docker engine and no image
# registry: with buildah in a chroot, on a Debian 12 from debootstrap. As root on Debian:
#
#   apt-get install buildah debootstrap iproute2
#   bash docker/build_without_docker.sh [--build-arg FOOTBALL=1 ...]
#
# Environment variables:
#   TORCH    cpu (an index of pip's must have PyTorch's CPU wheels) or cuda (PyPI's)
#   EXTRAS   as in docker/Dockerfile
#   KEEP     a folder that keeps the wheels and the Debian for the next time
# pip's own settings (pip.conf, PIP_*) say where wheels come from: they are downloaded outside of the
# build, which then needs none. Everything else, 10 GB while it runs, lies in a folder in $TMPDIR that
# is removed at the end. Exit status: 0 built and trained; 77 skipped, as something is missing here
# (one line says what); anything else: failed.
set -euo pipefail
cd "$(dirname "$0")/.."

missing() {
  echo "build_without_docker.sh: $1" >&2
  exit 77
}
for command in buildah debootstrap ip unshare python3.11; do
  command -v "$command" > /dev/null || missing "skipped: there is no $command (apt-get install buildah debootstrap iproute2)."
done
[ "$(id -u)" -eq 0 ] || missing "skipped: a chroot and a network namespace need root."

torch=${TORCH:-cpu}
extras=${EXTRAS:-cluster,smax,mamujoco,pettingzoo,render}
work=$(mktemp -d)
keep=${KEEP:-$work/keep}
mkdir -p "$keep"
keep=$(realpath "$keep")
storage=(--storage-driver vfs --root "$work/storage" --runroot "$work/run")
clean_up() {
  buildah "${storage[@]}" rm --all > /dev/null 2>&1 || true
  if grep -q " $work/" /proc/mounts; then
    echo "build_without_docker.sh: $work is still mounted and was left behind." >&2
  else
    rm -rf --one-file-system "$work"
  fi
}
trap clean_up EXIT
step() { printf '\n== %4d s  %s\n' "$SECONDS" "$*"; }

python3.11 docker/requirements.py "$extras" > "$work/requirements.txt"
if [ "$torch" = cpu ]; then
  sed -n 's/^torch==.*/&+cpu/p' constraints.txt >> "$work/requirements.txt"
fi
wheels=$keep/wheels-$(cat constraints.txt "$work/requirements.txt" | sha256sum | cut -c 1-12)
if [ ! -d "$wheels" ]; then
  step "wheels of constraints.txt"
  python3.11 -m pip wheel --quiet --wheel-dir "$work/wheels" \
    -c constraints.txt -r "$work/requirements.txt" setuptools wheel 2> "$work/pip.log" || {
    cat "$work/pip.log" >&2
    exit 1
  }
  mv "$work/wheels" "$wheels"
fi

if [ ! -d "$keep/debian" ]; then
  step "a Debian 12 with Python 3.11"
  debootstrap --variant=minbase --include=ca-certificates,python3,python3-distutils,python3-venv \
    bookworm "$work/debian" > "$work/debootstrap.log" || {
    tail -n 20 "$work/debootstrap.log" >&2
    exit 1
  }
  rm -rf "$work"/debian/var/cache/apt/archives/*.deb "$work"/debian/var/lib/apt/lists/*
  mv "$work/debian" "$keep/debian"
fi
base=$(buildah "${storage[@]}" from scratch)
buildah "${storage[@]}" copy --quiet "$base" "$keep/debian" / > /dev/null
buildah "${storage[@]}" config \
  --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$base"
buildah "${storage[@]}" commit --quiet --rm "$base" debian-python:3.11 > /dev/null

step "docker/Dockerfile"
image=rllib-seqmarl:check
buildah "${storage[@]}" bud --isolation chroot --quiet \
  --ignorefile docker/Dockerfile.dockerignore --file docker/Dockerfile --tag "$image" \
  --volume "$wheels:/wheels:ro" \
  --build-arg BASE_IMAGE=localhost/debian-python:3.11 --build-arg TORCH="$torch" \
  --build-arg EXTRAS="$extras" \
  --build-arg PIP_NO_INDEX=1 --build-arg PIP_FIND_LINKS=/wheels "$@" . > "$work/build.log" 2>&1 || {
  tail -n 60 "$work/build.log" >&2
  exit 1
}

mkdir "$work/results"
chown 1000:100 "$work/results"
container=$(buildah "${storage[@]}" from "$image")
du -sh "$(buildah "${storage[@]}" mount "$container")" | sed 's/\t.*/ in the image/'
run() {
  buildah "${storage[@]}" run --isolation chroot --volume "$work/results:/results" \
    --env OMP_NUM_THREADS=1 "$container" -- "$@"
}

step "a training as $(run id -un), uid $(run id -u)"
run rllib train file tuned_examples/mat_distinct_actions.yaml --experiment-name check \
  --stop '{"training_iteration": 2}' --storage-path /results
checkpoint=$(cd "$work/results" && find . -name 'checkpoint_*' -type d | sort | tail -n 1)
[ -n "$checkpoint" ] || { echo "build_without_docker.sh: no checkpoint was written." >&2; exit 1; }
[ "$(stat -c %u "$work/results/$checkpoint")" = 1000 ]
run rllib evaluate "/results/$checkpoint" --episodes 4

step "the commands of docker/compose.yaml, in a network of their own"
mkdir "$work/secrets"
(umask 022; head -c 32 /dev/urandom | base64 > "$work/secrets/ray_auth_token")
cp docker/check_compose.py docker/compose.yaml "$work/results/"
cluster=$(buildah "${storage[@]}" from --add-host head:10.231.0.1 "$image")
# The nodes' address is one of the loopback device: nothing leaves this machine. No name server
# answers here, for which gRPC's own resolver would wait.
unshare --net bash -euc '
  ip link set lo up
  ip address add 10.231.0.1/24 dev lo
  ip route add default dev lo src 10.231.0.1
  exec "$@"' - \
  buildah "${storage[@]}" run --isolation chroot --env OMP_NUM_THREADS=1 \
  --env GRPC_DNS_RESOLVER=native --volume "$work/results:/results" \
  --volume "$work/secrets:/run/secrets:ro" "$cluster" -- \
  python /results/check_compose.py /results/compose.yaml

step "built, trained and cleaned up"
