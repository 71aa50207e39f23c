#!/bin/bash
# Disks as a Linux guest sees them and what is in their images afterwards:
# order, serial numbers, overlays, queues, engines, discard, zeroes, odd ends.
# shellcheck source=tests/system/lib.sh
. "$(dirname "$0")/lib.sh"

# ---- what the host can refuse
mini
cd "$dir" || exit 1
truncate -s 1M small.img
# Run a command where io_uring_setup() fails, as under many seccomp profiles.
no_uring() {
	perl -e '
		my $filter = pack("SCCL" x 4, 0x20, 0, 0, 0, 0x15, 0, 1, 425,
			0x06, 0, 0, 0x50001, 0x06, 0, 0, 0x7fff0000);
		my $program = pack("Sx6P", 4, $filter);
		syscall(157, 38, 1, 0, 0, 0) == 0 or die; # no new privileges
		syscall(157, 22, 2, $program) == 0 or die "no seccomp: $!";
		exec @ARGV or die;' "$@"
}
tiny=(run --accel interp -k mini -m 16M -c 1 -a poweroff)
no_uring timeout 20 "$ringer" "${tiny[@]}" -v -d small.img </dev/null >out 2>err
code=$?
ok e9_falls_back_to_threads eval \
	'[ $code = 0 ] && has err "this host refuses io_uring" && has err "disks use threads"' ||
	show err
no_uring timeout 20 "$ringer" "${tiny[@]}" \
	--device virtio-blk,file=small.img,engine=io_uring </dev/null >out 2>err
code=$?
ok e9_asked_for_it_says_why eval \
	'[ $code = 125 ] && has err "refuses io_uring: Operation not permitted" && has err "engine=auto"' ||
	show err

# ---- a guest with eight disks
"$tools/guest-kernel" cloud >/dev/null 2>&1 || {
	finish
	exit
}
cat >zeroout.c <<'C'
#include <fcntl.h>
#include <linux/fs.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/ioctl.h>
int main(int argc, char **argv)
{
	uint64_t range[2] = { atoll(argv[2]), atoll(argv[3]) };

	return ioctl(open(argv[1], O_RDWR), BLKZEROOUT, range) != 0;
}
C
gcc -static -O1 -o zeroout zeroout.c || skip_all "no static C library"
linux initrd virtio_pci virtio_blk -- zeroout <<'GUEST'
cd /sys/block
for d in vd?; do
	echo "guest: $d sectors $(cat $d/size) serial $(cat $d/serial) ro $(cat $d/ro) queues $(ls $d/mq | wc -l) discard $(cat $d/queue/discard_granularity) cache $(cat $d/queue/write_cache | tr -d ' ')"
	echo "guest: $d sum $(sha256sum </dev/$d | cut -c1-64)"
done
write() { # DISK SKIP COUNT, in sectors: of its name, again and again
	yes "$1" | dd of=/dev/$1 bs=512 seek=$2 count=$3 iflag=fullblock conv=notrunc,fsync 2>/dev/null ||
		echo "guest: cannot write $1"
}
write vda 0 100
write vdb 7 100
write vdc 0 8
write vdd 0 8
write vde 1001 2000
write vdf $(($(cat vdf/size) - 1)) 1
# 16 MiB of bytes, then a part goes away and another one becomes zeroes.
yes full | head -c 1048575 >/tmp/full
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do cat /tmp/full; done |
	dd of=/dev/vdg bs=64k iflag=fullblock conv=notrunc,fsync 2>/dev/null
blkdiscard -o $((2 << 20)) -l $((4 << 20)) /dev/vdg || echo "guest: no discard"
/files/zeroout /dev/vdg $((8 << 20)) $((2 << 20)) || echo "guest: no zeroes"
[ ! -e vdh ] || yes direct | dd of=/dev/vdh bs=512 seek=3 count=77 iflag=fullblock conv=notrunc,fsync 2>/dev/null
sync
echo 3 >/proc/sys/vm/drop_caches
for d in vd?; do
	echo "guest: $d now $(sha256sum </dev/$d | cut -c1-64)"
done
dmesg | grep -iE 'I/O error|bug:|warning:' | sed 's/^/guest: BAD /'
echo "guest: end"
GUEST
image() { # NAME SIZE
	head -c "$2" /dev/urandom >"$1.img"
	cp "$1.img" "$1.before"
}
image a 1M
image b 2M
image c 3M
image d 4M
image e 5M
image f 1000003
truncate -s 24M g.img
cp --sparse=always g.img g.before
args=(-d a.img -d b.img
	--device "virtio-blk,file=c.img,rw=on,serial=twenty-characters-ok,queues=3"
	--device "virtio-blk,file=d.img,readonly=on,serial=d"
	--device "virtio-blk,file=e.img,rw=on,engine=threads,queues=1,queue-size=8"
	--device "virtio-blk,file=f.img,rw=on,iothread=off"
	--device "virtio-blk,file=g.img,rw=on")
disks="a b c d e f g"
if dd if=/dev/zero of=h.img bs=4096 count=256 oflag=direct 2>/dev/null; then
	cp h.img h.before
	args+=(--device "virtio-blk,file=h.img,rw=on,direct=on")
	disks+=" h"
fi
guest 180 out --accel interp -k "$kernel/vmlinuz" -i initrd -m 256M -c 2 \
	-a "console=ttyS0 quiet" "${args[@]}"
ok the_guest_ran_to_its_end eval '[ $code = 0 ] && has out "guest: end"' || {
	echo "# exit code $code"
	show out
	show out.err
}
tr -d '\r' <out | grep '^guest:' >seen
seen() { # DISK KEY
	sed -n "s/^guest: vd$1 .*\b$2 \([^ ]*\).*/\1/p" seen | head -1
}
sum() {
	sha256sum <"$1" | cut -c1-64
}

# Where a file ends within a sector, the guest reads zeroes up to its end.
truncate -s %512 f.before
for x in $disks; do
	[ "$(seen $x sectors)" = $(($(stat -c %s $x.before) / 512)) ] &&
		[ "$(seen $x sum)" = "$(sum $x.before)" ]
	ok "e3_vd${x}_is_the_disk_given_in_that_place" [ $? = 0 ]
done
# What the guest wrote, done here to a copy.
write() {
	yes "vd$1" | dd of=$1.want bs=512 seek="$2" count="$3" iflag=fullblock \
		conv=notrunc status=none
}
for x in $disks; do
	cp --sparse=always $x.before $x.want
done
write a 0 100
write b 7 100
write c 0 8
write e 1001 2000
write f $(($(stat -c %s f.before) / 512 - 1)) 1
yes full | head -c $((16 * 1048575)) | dd of=g.want bs=64k conv=notrunc status=none
fallocate -p -o 2M -l 4M g.want
fallocate -p -o 8M -l 2M g.want
[ ! -e h.want ] || yes direct | dd of=h.want bs=512 seek=3 count=77 \
	iflag=fullblock conv=notrunc status=none
for x in $disks; do
	ok "e4_vd${x}_reads_what_was_written" [ "$(seen $x now)" = "$(sum $x.want)" ]
done
for x in a b d; do
	ok "g7_${x}_is_unchanged" cmp -s $x.img $x.before
done
for x in c e f g h; do
	[ ! -e $x.want ] ||
		ok "e4_${x}_holds_what_was_written" cmp -s $x.img $x.want
done
ok e4_an_odd_end_grew_to_a_sector [ "$(stat -c %s f.img)" = "$(stat -c %s f.want)" ]
ok e3_the_serial_number_is_the_given_one [ "$(seen c serial)" = twenty-characters-ok ]
ok e3_readonly_is_seen [ "$(seen d ro)$(seen c ro)" = 10 ]
ok e3_readonly_cannot_be_written has seen "guest: cannot write vdd"
ok e3_queues [ "$(seen c queues)$(seen e queues)" = 21 ] || # 3, but 2 CPUs
	echo "# $(seen c queues) and $(seen e queues)"
ok e3_there_is_a_write_cache [ "$(seen a cache)" = writeback ]
ok e3_discard_and_zeroes eval '! has seen "guest: no discard" && ! has seen "guest: no zeroes"'
used=$(($(stat -c %b g.img) * 512 >> 20))
echo "# of 24 MiB, 16 written and 6 given back, the image holds $used"
ok e4_the_image_stays_sparse [ $used -le 12 ]
ok a25_no_kernel_complaint eval '! has seen "guest: BAD"' || show seen
ok e4_overlays_are_gone [ -z "$(find . -name '*overlay*')" ]

# ---- locks (A33)
start first -k mini -m 16M -c 1 -a count -d a.img
guest 20 out --accel interp -k mini -m 16M -c 1 -a poweroff -d a.img
ok a33_two_may_read_one_image [ $code = 0 ]
guest 20 out --accel interp -k mini -m 16M -c 1 -a poweroff -d a.img --rw
ok a33_none_may_write_it_meanwhile eval \
	'[ $code = 125 ] && has out.err "in use" && has out.err "$vmm"' || show out.err
"$ringer" ctl first quit
ended 10 $vmm
start writer -k mini -m 16M -c 1 -a count -d a.img --rw
guest 20 out --accel interp -k mini -m 16M -c 1 -a poweroff -d a.img
ok a33_none_may_read_what_is_written eval '[ $code = 125 ] && has out.err "in use"'
kill -KILL $vmm
wait $vmm 2>/dev/null
guest 20 out --accel interp -k mini -m 16M -c 1 -a poweroff -d a.img --rw
ok a33_a_killed_machine_holds_no_lock [ $code = 0 ]
finish
