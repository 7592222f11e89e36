#!/bin/sh
# Puts what the playbooks install into the machine's apt cache: supplies.sh [ROOT].
# A box from Vagrant's catalogue fetches it once, with the resolver it came with; the project's own
# box has it (vagrant/box/build runs this for the folder ROOT). After that no way out is needed, and
# the test network can have a DNS in which the rest of the world does not exist. The machine's apt
# sources stay as they are, for whoever gives it a way out.
set -eu

root=${1-}
fetched=$root/var/cache/apt/smtpmail-supplies
stamp=$root/var/lib/apt/periodic/update-success-stamp
# With what each needs and recommends, as apt on a server installs that too.
packages="
    python3-venv acl openssl nftables
    postfix bind9 bind9-dnsutils
    mutt swaks libnet-ssleay-perl libio-socket-inet6-perl netbase
"

in_root() {
    if [ -n "$root" ]; then
        chroot "$root" "$@"
    else
        "$@"
    fi
}

if [ ! -e "$fetched" ]; then
    export DEBIAN_FRONTEND=noninteractive
    in_root apt-get update --quiet=2
    # Ansible installs with it.
    in_root apt-get install --yes --quiet=2 python3-apt
    # shellcheck disable=SC2086
    in_root apt-get install --yes --quiet=2 --download-only -o APT::Install-Recommends=true $packages
    touch "$fetched"
fi
# The package lists count as fresh: there is no mirror to ask any more.
mkdir -p "${stamp%/*}"
touch "$stamp"

# Boxes of the catalogue may bring the services of shared folders, which no mail server has: its firewall would ask why.
if [ -z "$root" ]; then
    systemctl --quiet disable --now rpcbind.socket rpcbind.service 2>/dev/null || true
fi
