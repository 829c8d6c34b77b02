#!/bin/sh
# The first stage: the root disk's modules, the root disk, and on to /sbin/labinit (init.sh), or to
# $LAB_INIT, which is a word of the kernel command line.
busybox=/bin/busybox
for module in $($busybox cat /modules/order); do
    $busybox insmod "/modules/$module"
done
$busybox mount -t devtmpfs dev /dev
tries=0
while [ ! -b /dev/vda ] && [ $tries -lt 100 ]; do
    $busybox sleep 0.05
    tries=$((tries + 1))
done
$busybox mount -t ext4 -o rw,noatime /dev/vda /mnt
$busybox mount -o move /dev /mnt/dev
exec $busybox switch_root /mnt "${LAB_INIT:-/sbin/labinit}"
