#!/bin/bash
# What a clone needs, in a fresh Debian 12 with its own Python 3.11: `make demo` and `make test`, or the targets named.
#
#     sudo benchmarks/fresh_debian.sh FOLDER [TARGET …]
#
# FOLDER is made by debootstrap, unless it is there. It takes 7 GB, and the network.
set -euo pipefail

folder=$(realpath -m "$1")
[ $# -gt 1 ] || set -- "$1" demo test
clone=$(git -C "$(dirname "$0")" rev-parse --show-toplevel)
with=python3,python3-venv,make,git,ca-certificates
[ -d "$folder/usr" ] || debootstrap --variant=minbase --include="$with" bookworm "$folder" http://deb.debian.org/debian
[ -d "$folder/root/ntt" ] || git clone -q "$clone" "$folder/root/ntt"
cp /etc/resolv.conf "$folder/etc/"
cp /etc/ssl/certs/ca-certificates.crt "$folder/etc/ssl/certs/"
echo "127.0.1.1 $(hostname)" > "$folder/etc/hosts"  # as Debian's installer writes it
export folder
# Mounts of a namespace of its own go with it.
unshare --mount --propagation private bash -c '
    mount --bind /proc "$folder/proc"
    mount --rbind /dev "$folder/dev"
    exec chroot "$folder" env -i PATH=/usr/bin:/bin:/usr/sbin:/sbin HOME=/root LANG=C.UTF-8 make -C /root/ntt "$@"
' make "${@:2}"
