#!/bin/sh
# Gives the interface with this MAC its two addresses, and makes RESOLVER the machine's resolver:
# network.sh MAC IPV4 IPV6 RESOLVER. By systemd-networkd, which every Debian has, whatever runs the
# box's first interface. Running it again changes nothing.
set -eu

mac=$(echo "$1" | sed 's/../&:/g; s/:$//')
unit=/etc/systemd/network/50-smtpmail.network
wanted="# The test network (vagrant/network.sh)
[Match]
MACAddress=$mac

[Network]
Address=$2/24
Address=$3/64
IPv6AcceptRA=no"

if [ "$(cat $unit 2>/dev/null)" != "$wanted" ]; then
    echo "$wanted" >$unit
    systemctl --quiet enable systemd-networkd
    systemctl restart systemd-networkd
fi

# A resolv.conf of our own, and no DHCP client that writes another.
if [ -d /etc/dhcp/dhclient-enter-hooks.d ]; then
    echo 'make_resolv_conf() { :; }' >/etc/dhcp/dhclient-enter-hooks.d/smtpmail
fi
if [ -f /etc/dhcpcd.conf ] && ! grep -q '^nohook resolv.conf' /etc/dhcpcd.conf; then
    echo 'nohook resolv.conf' >>/etc/dhcpcd.conf
fi
if [ -L /etc/resolv.conf ]; then
    rm /etc/resolv.conf
fi
echo "nameserver $4" >/etc/resolv.conf

# The machines start together; what follows on this one may need the other.
for _ in $(seq 1800); do
    if ping -c 1 -W 1 "$4" >/dev/null; then
        exit 0
    fi
done
echo "network.sh: the resolver $4 is not on the network after half an hour; is \`remote\` up?" >&2
exit 1
