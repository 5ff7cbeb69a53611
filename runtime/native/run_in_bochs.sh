#!/usr/bin/env bash
# Run the native step of x86 families that this machine lacks, in the emulator Bochs, and compare the checksums.
# Usage: bash run_in_bochs.sh BOCHS KERNEL [PROCESSOR...]
#
#   BOCHS      folder in which Bochs 3.0 was built from its source after
#              patch -p1 < tests/support/native/bochs-3.0.patch (of this repository)
#              ./configure --enable-x86-64 --enable-avx --enable-evex --enable-amx --enable-cpu-level=6 --with-nogui && make
#              (the patch corrects the signs of AMX products and the tiles that a task switch saves, and reports the feature
#              XFD, which Linux requires for AMX)
#   KERNEL     Linux 5.19 or later for x86-64, such as /boot/vmlinuz-6.1.0-50-cloud-amd64 (6.1.0-57 ends in a panic with
#              sapphire_rapids)
#   PROCESSOR  a processor model of Bochs (default: sapphire_rapids, which has AMX, AVX-512 VNNI and AVX-VNNI)
#
# Needs g++, cpio, and Debian's packages busybox-static, isolinux, syslinux-common, vgabios and xorriso. A run takes a few
# minutes. The exit status is 1 if a call fails, a checksum is wrong, or the code for sapphire_rapids (amx), arrow_lake
# (avx_vnni) or corei7_icelake_u (avx512_vnni) does not run.
set -euo pipefail
case ${1:-} in -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}"; exit ;; esac
[ $# -ge 2 ] || { echo "error: give the folder of Bochs and a Linux kernel; see --help" >&2; exit 1; }
bochs=$(cd "$1" && pwd) kernel=$(realpath "$2")
shift 2
[ $# -gt 0 ] || set -- sapphire_rapids
for file in "$bochs/bochs" "$bochs/bios/bios.bin-1.13.0" "$kernel" /bin/busybox /usr/share/vgabios/vgabios.bin \
  /usr/lib/ISOLINUX/isolinux.bin /usr/lib/syslinux/modules/bios/ldlinux.c32; do
  [ -f "$file" ] || { echo "error: $file: no such file; see --help" >&2; exit 1; }
done
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
folder=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$folder"' EXIT

mkdir -p "$folder"/root/{bin,dev,proc} "$folder"/iso/isolinux
PYTHONPATH=tests:. python -m support.native.write_calls "$folder/calls" >"$folder/expected"
cp -r "$folder/calls" "$folder/root/calls"
flags=$(python -c "import sys; sys.path.insert(0, 'tests')
from support.native.native_library import compiler_flags; print(*compiler_flags())")
# shellcheck disable=SC2086
g++ $flags -static tests/support/native/replay.cpp runtime/native/src/*.cpp -o "$folder/root/replay"
cp /bin/busybox "$folder/root/bin/busybox"
ln -s busybox "$folder/root/bin/sh"
cat >"$folder/root/init" <<'END'
#!/bin/sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
exec >/dev/ttyS0 2>&1
# Another process makes Linux save and restore the registers of the calls often.
/bin/busybox yes >/dev/null &
for call in /calls/*; do echo "call ${call##*/}" $(/replay $call || echo failed -); done
/bin/busybox sleep 1
/bin/busybox poweroff -f
END
chmod +x "$folder/root/init"
(cd "$folder/root" && find . | cpio --quiet -o -H newc | gzip) >"$folder/iso/initrd.gz"
cp "$kernel" "$folder/iso/vmlinuz"
cp /usr/lib/ISOLINUX/isolinux.bin /usr/lib/syslinux/modules/bios/ldlinux.c32 "$folder/iso/isolinux"
# Without these features the kernel's entry code does not run in Bochs 3.0; the step uses none of them.
without=smap,smep,umip,pku,serialize,fsgsbase,invpcid,pcid,fsrm,erms
cat >"$folder/iso/isolinux/isolinux.cfg" <<END
default linux
label linux
  kernel /vmlinuz
  append initrd=/initrd.gz console=ttyS0 rdinit=/init nokaslr mitigations=off acpi=off noapic apparmor=0 selinux=0 clearcpuid=$without
END
xorriso -as mkisofs -quiet -o "$folder/boot.iso" -b isolinux/isolinux.bin -c isolinux/boot.cat -no-emul-boot \
  -boot-load-size 4 -boot-info-table "$folder/iso"

status=0
for processor in "$@"; do
  cat >"$folder/bochsrc" <<END
display_library: nogui
megs: 512
romimage: file=$bochs/bios/bios.bin-1.13.0
vgaromimage: file=/usr/share/vgabios/vgabios.bin
cpu: model=$processor, ips=100000000, reset_on_triple_fault=0
ata0-master: type=cdrom, path=$folder/boot.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=$folder/serial
log: $folder/log
panic: action=fatal
error: action=ignore
info: action=ignore
END
  : >"$folder/serial"
  (cd "$folder" && exec "$bochs/bochs" -q -unlock -f bochsrc >/dev/null 2>&1) &
  deadline=$((SECONDS + 1800))
  until grep -aqE 'System halted|Power down|Kernel panic' "$folder/serial" || [ $SECONDS -gt $deadline ]; do
    kill -0 $! 2>/dev/null || break
    sleep 2
  done
  kill $! 2>/dev/null || true
  wait
  tr -d '\r' <"$folder/serial" | python -c "
import sys
expected = dict(line.split() for line in open('$folder/expected'))
calls = [line.split()[1:] for line in sys.stdin if line.startswith('call ')]
found = {seed: dict(zip(families[::2], families[1::2])) for seed, *families in calls}
wrong = [
    (seed, each)
    for seed in expected
    for each, number in (found.get(seed) or {'nothing': ''}).items()
    if number != expected[seed]
]
needed = {'sapphire_rapids': 'amx', 'arrow_lake': 'avx_vnni', 'corei7_icelake_u': 'avx512_vnni'}.get('$processor')
wrong += [(seed, needed, 'missing') for seed in expected if needed and needed not in found.get(seed, {})]
families = ', '.join(dict.fromkeys(each for one in found.values() for each in one)) or 'nothing'
print(f'$processor: {families}: {len(found)} of {len(expected)} calls ran, {len(wrong)} wrong', *wrong)
sys.exit(bool(wrong))
" || status=1
done
exit $status
