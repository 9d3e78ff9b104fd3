# Ceph for one test: a mon, an osd and a radosgw on the loopback address, made at the first start and started again after that.
#
# Arguments: a directory, two ports of the mon, that of S3, a key and its secret. This process becomes the radosgw; the others end with it,
# however that happens. What was killed may still hold its files for a moment, so each has a lock.
set -e
at=$1 mon2=$2 mon1=$3 s3=$4 key=$5 secret=$6
export CEPH_CONF="$at/ceph.conf"

daemon() {
    ( exec 9>"$at/$1.lock"; flock 9; exec setpriv --pdeathsig KILL "$@" ) &
}

made=yes
if [ ! -e "$at/made" ]; then
    made=no
    mkdir -p "$at/mon" "$at/osd" "$at/rgw"
    id=$(cat /proc/sys/kernel/random/uuid)
        # Without tcp_nodelay each answer waits 44 ms for an acknowledgement of its head.
    # Of the osd, "block" is a file in its directory, sparse. Neither replicas nor a disk that is nearly full are of interest here.
    cat >"$CEPH_CONF" <<C
[global]
fsid = $id
mon initial members = a
mon host = [v2:127.0.0.1:$mon2,v1:127.0.0.1:$mon1]
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
auth allow insecure global id reclaim = false
keyring = $at/keyring
run dir = $at
admin socket =
log file = $at/log.\$name
mon data = $at/mon
mon data avail warn = 1
mon data avail crit = 1
mon allow pool size one = true
osd data = $at/osd
osd objectstore = bluestore
bluestore block size = 4294967296
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd crush chooseleaf type = 0
rgw data = $at/rgw
rgw frontends = beast endpoint=127.0.0.1:$s3 tcp_nodelay=1
C
    ceph-authtool --create-keyring "$at/keyring" --gen-key -n mon. --cap mon 'allow *'
    ceph-authtool "$at/keyring" --gen-key -n client.admin --cap mon 'allow *' --cap osd 'allow *'
    ceph-authtool "$at/keyring" --gen-key -n osd.0 --cap mon 'allow profile osd' --cap osd 'allow *'
    ceph-authtool "$at/keyring" --gen-key -n client.rgw --cap mon 'allow rw' --cap osd 'allow rwx'
    monmaptool --create --addv a "[v2:127.0.0.1:$mon2,v1:127.0.0.1:$mon1]" --fsid "$id" "$at/monmap"
    ceph-mon -i a --mkfs --monmap "$at/monmap" --keyring "$at/keyring"
fi
daemon ceph-mon -i a -f
if [ $made = no ]; then
    timeout 60 ceph osd new "$id"
    ceph-osd -i 0 --mkfs --osd-uuid "$id"
fi
daemon ceph-osd -i 0 -f
if [ $made = no ]; then
    timeout 90 radosgw-admin user create --uid test --display-name test --access-key "$key" --secret-key "$secret"
    touch "$at/made"
fi
exec radosgw -n client.rgw -f
