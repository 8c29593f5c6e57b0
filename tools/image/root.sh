#!/usr/bin/env bash
# Makes the root file system of a container image: a base of five packages of Debian, and one program.
#
#   tools/image/root.sh base BASE                     makes the base in this folder
#   tools/image/root.sh program BASE PROGRAM FOLDER   adds the files of a program, in the folder of the base or another one
#
# No shell and no package manager is in it. The packages are those of packages.txt, by checksum, for the architecture of
# this machine; files are the same at every run. Who copies or archives the folder decides the owners, and adds /var/lib/confcast
# with the owner 65532:65532, the one folder that programs may write.
set -euo pipefail

here=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
repository=$here/../..
fail() { printf 'root.sh: %s\n' "$*" >&2; exit 1; }
[[ $# == 2 && $1 == base || $# == 4 && $1 == program ]] || { sed -n '2,5s/^# \?//p' "${BASH_SOURCE[0]}" >&2; exit 64; }

case $(uname -m) in
  x86_64) architecture=amd64 ;;
  aarch64) architecture=arm64 ;;
  *) fail "no base for $(uname -m): add its packages to pins.sh and packages.txt" ;;
esac
umask 022
mkdir -p "$2" "${4:-$2}"
base=$(cd "$2" && pwd)
root=$(cd "${4:-$2}" && pwd)

# What programs link and what the C library reads, the certificates, licences, and what scanners of images look for.
unpack_base() {
  type -P dpkg-deb >/dev/null || fail "no dpkg-deb (Debian: apt-get install dpkg)"
  local parts package name work
  work=$(mktemp -d)
  parts=$("$repository/e2e/dependencies/provide.sh" image-packages)
  eval "$parts"
  for package in "$IMAGE_PACKAGES/$architecture"/*.deb; do
    dpkg-deb --extract "$package" "$work/all"
    name=$(dpkg-deb --field "$package" Package)
    mkdir -p "$work/all/var/lib/dpkg/status.d"
    dpkg-deb --field "$package" >"$work/all/var/lib/dpkg/status.d/$name"
  done
  (
    cd "$work/all"
    shopt -s nullglob
    cp --archive --parents --target-directory="$root" dev proc run sys tmp lib* \
      usr/lib/ld-linux-* usr/lib64 usr/lib/*/ld-linux-* usr/lib/*/lib{c,m}.so.6 usr/lib/*/libgcc_s.so.1 \
      etc/debian_version etc/os-release usr/lib/os-release var/lib/dpkg/status.d \
      usr/share/common-licenses usr/share/doc/{base-files,ca-certificates,gcc-*,libc6}/copyright usr/share/doc/libgcc-s1
    # As `update-ca-certificates` does it, with all certificates.
    mkdir -p "$root/etc/ssl/certs"
    LC_ALL=C
    cat usr/share/ca-certificates/mozilla/*.crt >"$root/etc/ssl/certs/ca-certificates.crt"
  )
  rm -r "$work"
  cat >"$root/etc/passwd" <<'PASSWD'
root:x:0:0:root:/root:/usr/sbin/nologin
confcast:x:65532:65532:confcast:/confcast:/usr/sbin/nologin
PASSWD
  printf '%s\n' root:x:0: confcast:x:65532: >"$root/etc/group"
  printf '%s\n' 'passwd: files' 'group: files' 'hosts: files dns' >"$root/etc/nsswitch.conf"
  mkdir -p "$root/confcast"
}

# The program without debugging information, which stays in the folder of the build; and what it reads.
install_program() { # program
  local name=${1##*/}
  [[ -f $1 ]] || fail "$1 is not built"
  install -D --mode=755 --strip "$1" "$root/usr/local/bin/$name"
  install -D --mode=644 "$repository/LICENSE" "$root/usr/share/doc/confcast/copyright"
  [[ $name == confcast ]] && return
  install -D --mode=644 --target-directory="$root/confcast/schemas" "$repository"/schemas/*
}

# Every library is found in the base and has the symbols that the program was linked with: those of the machine that built it
# may be newer.
runs_on_base() { # program
  local libraries=("$base"/usr/lib/*-linux-*) found
  found=$("${libraries[0]}"/ld-linux-*.so.* --inhibit-cache --library-path "${libraries[0]}" --list "$1" 2>&1) &&
    ! grep --invert-match --fixed-strings "$base/" <<<"$found" | grep --quiet ' => ' ||
    fail "${1##*/} does not run on the base. Build it on Debian 13 or older, or renew the base with pins.sh:"$'\n'"$found"
}

case $1 in
  base) unpack_base ;;
  program) runs_on_base "$3"; install_program "$3" ;;
esac
