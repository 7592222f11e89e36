#!/bin/sh
# Puts what the playbooks install into the machine, as an apt source of its own: supplies.sh [ROOT].
# A box from Vagrant's catalogue fetches it once, with the resolver it came with; the project's own
# box has it (vagrant/box/build runs this for the folder ROOT). After that no way out is needed, and
# the test network can have a DNS in which the rest of the world does not exist.
set -eu

root=${1-}
store=/srv/packages
# With what each needs and recommends, as apt on a server installs that too.
packages="
    python3-venv acl openssl nftables
    postfix bind9 bind9-dnsutils
    mutt swaks libnet-ssleay-perl libio-socket-inet6-perl netbase
"

[ ! -e "$root$store/Packages" ] || exit 0

in_root() {
    if [ -n "$root" ]; then
        chroot "$root" "$@"
    else
        "$@"
    fi
}

mkdir -p "$root$store/partial"
export DEBIAN_FRONTEND=noninteractive
in_root apt-get update --quiet=2
# apt-utils makes the index of an apt source; with python3-apt Ansible installs from it.
in_root apt-get install --yes --quiet=2 apt-utils python3-apt
in_root apt-get install --yes --quiet=2 --download-only -o APT::Install-Recommends=true \
    -o Dir::Cache::archives=$store $packages
in_root sh -c "cd $store && rm -rf partial lock && apt-ftparchive packages . >Packages"
rm -rf "$root"/etc/apt/sources.list "$root"/etc/apt/sources.list.d/* "$root"/var/lib/apt/lists/*
echo "deb [trusted=yes] file:$store ./" >"$root/etc/apt/sources.list"
in_root apt-get update --quiet=2
in_root apt-get clean

# Boxes of the catalogue may bring the services of shared folders, which no mail server has: its firewall would ask why.
if [ -z "$root" ]; then
    systemctl --quiet disable --now rpcbind.socket rpcbind.service 2>/dev/null || true
fi
