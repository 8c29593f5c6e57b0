#!/usr/bin/env bash
# Makes the container images of publisher, subscriber, `confcast-component` and `confcast` from programs that are built, without a container engine.
#
#   tools/image/build.sh PROGRAMS OUT      PROGRAMS: a folder with the four, for example target/release
#
# OUT/confcast-publisher.tar, OUT/confcast-subscriber.tar, OUT/confcast-component.tar and OUT/confcast.tar are archives of one image each: an OCI image
# layout that `docker load`, `podman load` and `crane push` read as well. The same programs, files and commit give the same
# digest. Prints a table of digests and sizes.
set -euo pipefail

here=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
repository=$(cd "$here/../.." && pwd)
fail() { printf 'build.sh: %s\n' "$*" >&2; exit 1; }
[[ $# == 2 ]] || { sed -n '2,8s/^# \?//p' "${BASH_SOURCE[0]}" >&2; exit 64; }
programs=$1 out=$2
mkdir -p "$out"

case $(uname -m) in
  x86_64) platform=linux/amd64 ;;
  aarch64) platform=linux/arm64 ;;
  *) fail "no base for $(uname -m)" ;;
esac
# Which source the image is of, and that it is not exactly this one.
revision=$(git -C "$repository" rev-parse HEAD) || fail "the label of the revision needs git and its folder"
[[ -z $(git -C "$repository" status --porcelain) ]] || revision+=-modified

parts=$("$repository/e2e/dependencies/provide.sh" crane)
eval "$parts"
work=$(mktemp -d)
registry=
trap '[[ -z $registry ]] || kill "$registry"; rm -rf "$work" "$out"/confcast*.tar."$$"' EXIT

crane() { "$CRANE" "$@" 2>"$work/crane.log" || fail "crane $1: $(<"$work/crane.log")"; }

# crane changes images in a registry only. This one is in memory and on loopback, and ends also when nobody ends it.
start_registry() {
  : >"$work/registry.log"
  timeout 900 "$CRANE" registry serve --address 127.0.0.1:0 2>"$work/registry.log" &
  registry=$!
  local deadline=$((SECONDS + 30))
  until [[ $(<"$work/registry.log") =~ serving\ on\ port\ ([0-9]+) ]]; do
    kill -0 "$registry" && ((SECONDS < deadline)) || fail "the registry does not start: $(<"$work/registry.log")"
    sleep 0.05
  done
  host=127.0.0.1:${BASH_REMATCH[1]}
}

# The same bytes from the same files: no times, no names of users, one order.
layer() { # folder [folder within it that programs may write]
  local archive=(tar --directory="$1" --format=gnu --sort=name --mtime=@0 --numeric-owner --file="$1.tar")
  "${archive[@]}" --create --owner=0 --group=0 ${2:+--exclude="./$2"} .
  [[ -z ${2:-} ]] || "${archive[@]}" --append --owner=65532 --group=65532 --mode=0750 "./$2"
  gzip --best --no-name --keep "$1.tar"
}

# A program on the base, with the configuration that the Dockerfile gives its image; a test compares them.
image() { # program description [option of `crane mutate`...]
  local program=$1 description=$2 name=confcast-${1#confcast-} version key value options=()
  [[ $program != confcast ]] || name=confcast
  version=$("$programs/$program" --version) || fail "$programs/$program is not built, or does not run here"
  version=${version#* }
  while IFS='=' read -r key value; do
    options+=(--label "org.opencontainers.image.$key=$value" --annotation "org.opencontainers.image.$key=$value")
  done <<LABELS
title=$name
description=$description
version=$version
revision=$revision
licenses=Apache-2.0
LABELS

  "$here/root.sh" program "$work/base" "$programs/$program" "$work/$program"
  layer "$work/$program"
  crane append --oci-empty-base --new_tag "$host/$name" --new_layer "$work/base.tar.gz,$work/$program.tar.gz" >/dev/null
  crane mutate "$host/$name" --set-platform "$platform" --user 65532:65532 --workdir /confcast \
    --entrypoint "/usr/local/bin/$program" "${options[@]}" "${@:3}" >/dev/null
  crane pull --format=oci "$host/$name" "$work/$name"
  archive "$work/$name" "$name:$version" "$out/$name.tar"

  awk -v name="$name" -v archive="$(stat --format=%s "$out/$name.tar")" -v digest="$(crane digest "$host/$name")" \
    -v base="$(stat --format=%s "$work/base.tar")" -v own="$(stat --format=%s "$work/$program.tar")" \
    'BEGIN { printf "%-22s %6.1f MB %6.1f MB  %s\n", name, archive / 1e6, (base + own) / 1e6, digest }'
}

# One archive for every reader: beside the layout the manifest of `docker load`, which names the same files.
archive() { # layout reference file
  python3 - "$1" "$2" <<'PYTHON'
import json, pathlib, sys
layout, reference = pathlib.Path(sys.argv[1]), sys.argv[2]
index = json.loads((layout / "index.json").read_text())
[descriptor] = index["manifests"]
path = lambda described: "blobs/" + described["digest"].replace(":", "/")
manifest = json.loads((layout / path(descriptor)).read_text())
descriptor["annotations"] = {
    "io.containerd.image.name": f"docker.io/library/{reference}",
    "org.opencontainers.image.ref.name": reference.rpartition(":")[2],
}
(layout / "index.json").write_text(json.dumps(index, indent=1, sort_keys=True))
layers = [path(layer) for layer in manifest["layers"]]
entry = {"Config": path(manifest["config"]), "RepoTags": [reference], "Layers": layers}
(layout / "manifest.json").write_text(json.dumps([entry], indent=1))
PYTHON
  tar --directory="$1" --format=gnu --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX \
    --create --file="$3.$$" blobs index.json manifest.json oci-layout
  mv "$3.$$" "$3"
}

"$here/root.sh" base "$work/base"
data=var/lib/confcast
mkdir -p "$work/base/$data"
layer "$work/base" "$data"
start_registry
printf '%-22s %9s %9s  %s\n' image archive unpacked digest
service=(--env AURA_CONFIGURATION_LISTEN=0.0.0.0:8080 --exposed-ports 8080/tcp)
image publisher "Takes writes of configuration documents, and serves their change feed" \
  "${service[@]}" --env "AURA_CONFIGURATION_STORE_URL=file:/$data"
image subscriber "Holds a replica of all configuration documents, and serves it" "${service[@]}"
image confcast-component "A pluggable component of Dapr: pub/sub and state without a broker" "${service[@]}"
image confcast "The command line of Confcast"
