#!/usr/bin/env bash
# Writes packages.txt: the newest packages of the base of the images, by checksum.
#
#   tools/image/pins.sh >packages && mv packages tools/image/packages.txt
#
# Needs apt-get and the keyring of Debian (debian-archive-keyring). It changes nothing of this machine's package manager.
set -euo pipefail

suite=trixie
packages=(base-files ca-certificates gcc-14-base libc6 libgcc-s1)
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

[[ -f $keyring ]] || { echo "pins.sh: no $keyring (Debian: apt-get install debian-archive-keyring)" >&2; exit 1; }
# The mirror that this machine is configured for.
mirror=$(apt-get download --print-uris libc6 | sed -nE "s|^'([^']+)/debian[a-z-]*/pool/.*|\1|p")
[[ -n $mirror ]] || { echo "pins.sh: apt-get has no mirror of Debian" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat >"$work/sources.list" <<SOURCES
deb [signed-by=$keyring] $mirror/debian $suite main
deb [signed-by=$keyring] $mirror/debian-security $suite-security main
SOURCES

echo "# The base of the images: Debian $suite. Written by pins.sh: architecture, SHA-256, path on a mirror of Debian."
for architecture in amd64 arm64; do
  state=$work/$architecture
  mkdir -p "$state/lists/partial" "$state/cache/archives/partial"
  apt=(apt-get -q -o "APT::Architecture=$architecture" -o "APT::Architectures::=$architecture"
    -o "Dir::Etc::sourcelist=$work/sources.list" -o Dir::Etc::sourceparts=- -o Dir::Etc::main=- -o Dir::Etc::parts=-
    -o "Dir::State=$state" -o Dir::State::status=/dev/null -o "Dir::Cache=$state/cache" -o Acquire::Languages=none)
  "${apt[@]}" update >&2
  "${apt[@]}" download --print-uris "${packages[@]}" | sed -nE \
    "s|^'$mirror/([^']+)' [^ ]+ [0-9]+ SHA256:([0-9a-f]{64})\$|$architecture \2 \1|p" | sed 's|%2b|+|g' | sort -k3
done >"$work/pins"
[[ $(wc -l <"$work/pins") == $((2 * ${#packages[@]})) ]] || { echo "pins.sh: apt-get did not name every package" >&2; exit 1; }
cat "$work/pins"
