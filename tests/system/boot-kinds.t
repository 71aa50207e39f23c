#!/bin/bash
# What can be booted, and what it is given: ELF with a PVH note, Linux's own
# vmlinux, multiboot as ELF and as a plain file, with modules. (bzImage: boot.t)
# shellcheck source=tests/system/lib.sh
. "$(dirname "$0")/lib.sh"
mini -DPLAIN
objcopy -O binary "$dir/mini" "$dir/plain" || skip_all "no objcopy"
mini
cd "$dir" || exit 1

# ---- multiboot
head -c 5000 /dev/urandom >module1
: >module2
sum=$(od -An -v -tu1 module1 |
	awk '{ for (i = 1; i <= NF; i++) s += $i } END { printf "%x", s }')
for kind in mini plain; do
	name=g2_multiboot_elf
	[ $kind = mini ] || name=g2_multiboot_plain
	guest 20 out --accel interp -k $kind -m 64M -c 1 -a "info poweroff" \
		--module "module1 --with its  own words" --module module2
	ok ${name}_boots [ $code = 0 ] || show out.err
	ok ${name}_magic_and_flags has out "magic 0x2badb002 flags 0x24d"
	ok ${name}_memory_sizes has out "lower 0x27f upper 0xfc00"
	ok ${name}_command_line has out "command line: $kind info poweroff"
	ok ${name}_loader has out "loader: ringer"
	ok ${name}_module has out \
		"module: module1 --with its  own words: bytes 0x1388 sum 0x$sum aligned" ||
		show out
	ok ${name}_empty_module has out "module: module2: bytes 0x0 sum 0x0 aligned"
done
guest 20 out --accel interp -k mini -m 64M -c 1 -i module1 -a "info poweroff"
ok g2_multiboot_initrd_is_a_module has out "module: module1: bytes 0x1388"

# B2: memory from 0, split round the hole below 4 GiB, all of it there.
for mem in 2M 64M 3G 6G; do
	guest 20 out --accel interp -k mini -m $mem -c 1 -a "info poweroff"
	total=$(tr -d '\r' <out | sed -n 's/^memory: \(.*\) 0x1$/\1/p' |
		perl -ne '($b, $l) = split; $t += hex $l; END { print $t }')
	# Less the hole from 640 KiB to 1 MiB, and the EBDA's KiB below it.
	ok "b2_memory_map_of_$mem" [ \
		"$total" = $(($(numfmt --from=iec $mem) - 384 * 1024 - 1024)) ] ||
		show out
	ok "b2_memory_of_${mem}_begins_at_0" has out "memory: 0x0 0x9fc00 0x1"
done
ok b2_memory_above_4_gib has out "memory: 0x100000000 0x"

cp mini strange
perl -e 'open F, "+<", "strange"; local $/; $_ = <F>;
	/\x02\xb0\xad\x1b/ or die; seek F, $-[0] + 4, 0;
	print F pack("VV", 0x8, -(0x1badb002 + 0x8) & 0xffffffff)'
guest 20 out --accel interp -k strange -m 64M -c 1
ok g2_multiboot_unknown_requirement_is_named eval \
	'[ $code = 125 ] && has out.err "requires multiboot features 0x8"' ||
	show out.err

# ---- ELF with a PVH note
hello=${BUILD:-$here/../../build}/tests/guest/hello.elf
if [ -e "$hello" ]; then
	guest 20 out --accel interp -k "$hello" -m 64M -c 1 --serial none \
		--debugcon stdio --device isa-debug-exit
	ok g2_pvh_elf_boots eval '[ $code = 1 ] && has out "1.."'
fi

# ---- Linux's ELF file, taken out of the bzImage
if kernel=$("$tools/guest-kernel" cloud 2>/dev/null) &&
	command -v bsdcat >/dev/null; then
	perl -e 'open F, "<", shift; binmode F; read F, $_, 0x260;
		my ($sectors) = unpack "x497C";
		my ($offset, $size) = unpack "x584VV";
		seek F, $offset + ($sectors + 1) * 512, 0;
		read F, $_, $size; print' "$kernel/vmlinuz" |
		bsdcat >vmlinux 2>/dev/null
	linux initrd <<'GUEST'
echo "guest: $(uname -sr)"
echo "guest: line $(cat /proc/cmdline)"
echo "guest: memory $(awk '/MemTotal/ { print $2 }' /proc/meminfo)"
GUEST
	guest 120 out --accel interp -k vmlinux -i initrd -m 300M -c 1 \
		-a "console=ttyS0 quiet word=\"two parts\""
	ok g2_vmlinux_boots_to_user_space eval \
		'[ $code = 0 ] && has out "guest: Linux $(cat "$kernel/release")"' || {
		show out
		show out.err
	}
	ok g2_vmlinux_command_line has out \
		'guest: line console=ttyS0 quiet word="two parts"'
	memory=$(sed -n 's/.*guest: memory \([0-9]*\).*/\1/p' out)
	ok g2_vmlinux_has_its_memory [ $((${memory:-0} > 200 * 1024)) = 1 ]
fi
finish
