/*
 * The firmware configuration device: named files and numbered items that
 * firmware and kernels read. QEMU's specification, docs/specs/fw_cfg.
 */
#ifndef DEVICE_CHIP_FWCFG_H
#define DEVICE_CHIP_FWCFG_H

#include "device/device.h"

#define FWCFG_PORT 0x510

/** Numbered items (besides those of the device itself). */
enum fwcfg_key {
	FWCFG_UUID = 0x02,
	FWCFG_RAM_SIZE = 0x03,
	FWCFG_NR_CPUS = 0x05,
	FWCFG_KERNEL_ADDR = 0x07,
	FWCFG_KERNEL_SIZE = 0x08,
	FWCFG_INITRD_ADDR = 0x0a,
	FWCFG_INITRD_SIZE = 0x0b,
	FWCFG_BOOT_DEVICE = 0x0c,
	FWCFG_BOOT_MENU = 0x0e,
	FWCFG_MAX_CPUS = 0x0f,
	FWCFG_KERNEL_ENTRY = 0x10,
	FWCFG_KERNEL_DATA = 0x11,
	FWCFG_INITRD_DATA = 0x12,
	FWCFG_CMDLINE_ADDR = 0x13,
	FWCFG_CMDLINE_SIZE = 0x14,
	FWCFG_CMDLINE_DATA = 0x15,
	FWCFG_SETUP_ADDR = 0x16,
	FWCFG_SETUP_SIZE = 0x17,
	FWCFG_SETUP_DATA = 0x18,
};

extern const struct device_class fwcfg_class;

/** Make one with an empty directory. -errno with (err). */
int fwcfg_create(struct device **dev, const struct device_env *env,
		 struct err *err);

/** Add or replace item (key) with a copy of (len) bytes. -ENOMEM, -ENOSPC.
 * Before CPUs run, as all of these. */
int fwcfg_add(struct device *dev, uint16_t key, const void *data, uint32_t len);
/** Add or replace a number, little-endian in (size) bytes. */
int fwcfg_add_number(struct device *dev, uint16_t key, unsigned size,
		     uint64_t value);
/** Add or replace the file (name), at most 55 characters ("etc/e820"). The
 * guest may write it, within its size, when (is_writable). */
int fwcfg_add_file(struct device *dev, const char *name, const void *data,
		   uint32_t len, bool is_writable);
/** What file (name) holds, with its length in (*len), or NULL. Valid until the
 * next call that adds; the guest may be writing it. */
const void *fwcfg_file(struct device *dev, const char *name, uint32_t *len);

#endif
