#!/bin/sh
# The first process of new namespaces (pid, mount, cgroup, ipc, uts) becomes systemd. What it changes in the file system
# is in memory, above the machine's own root, and gone with it.
# $1: an empty directory; $2: where systemd says READY=1; then pairs: a file, and where it is to lie
set -eu
work=$1 notify=$2
shift 2
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$work"
mkdir "$work/upper" "$work/work" "$work/root"
mount -t overlay -o "lowerdir=/,upperdir=$work/upper,workdir=$work/work" overlay "$work/root"
cd "$work/root"
while [ $# -gt 0 ]; do
    mode=644
    [ ! -x "$1" ] || mode=755
    install -D -m "$mode" "$1" ".$2"
    shift 2
done
echo 'kv:x:990:990::/nonexistent:/usr/sbin/nologin' >>etc/passwd
echo 'kv:x:990:' >>etc/group
mount -t proc proc proc
# the kernel's settings are the machine's: not to be touched
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 -o nsdelegate cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev
for device in null:3 zero:5 full:7 random:8 urandom:9; do
    mknod -m 666 "dev/${device%:*}" c 1 "${device#*:}"
done
ln -s /proc/self/fd dev/fd
# a plain file, where systemd logs
: >dev/kmsg
mkdir .machine
pivot_root . .machine
umount -l /.machine
# without the capabilities that reach beyond namespaces
keep=-sys_time,-sys_boot,-sys_module,-syslog
exec setpriv --bounding-set="$keep" --inh-caps="$keep" \
    env -i container=handoff-tests "NOTIFY_SOCKET=$notify" PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    SYSTEMD_UNIT_PATH=/etc/handoff-units SYSTEMD_GENERATOR_PATH=/nonexistent \
    SYSTEMD_ENVIRONMENT_GENERATOR_PATH=/nonexistent \
    /lib/systemd/systemd --system --unit=basic.target --log-target=kmsg --log-level=info --show-status=no
