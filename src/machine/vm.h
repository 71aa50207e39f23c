/*
 * A virtual machine: what it is made of, and its life. (The states are drawn
 * in vm.c.) The command line and the control server build on this header; the
 * parts of a PC are put together in pc.c.
 *
 * A machine belongs to the thread that calls vm_run(), which is its main loop.
 * Functions marked "any thread" go through that loop and wait for it; before
 * its status is running or paused, they are for one thread at a time.
 */
#ifndef MACHINE_VM_H
#define MACHINE_VM_H

#include "arch/cpuid.h"
#include "base/err.h"
#include "base/list.h"
#include "base/stats.h"
#include "block/blk.h"
#include "bus/bus.h"
#include "bus/dma.h"
#include "bus/irq.h"
#include "bus/pci.h"
#include "bus/vclock.h"
#include "device/device.h"
#include "host/loop.h"
#include "machine/memmap.h"
#include "mem/gmem.h"
#include "vcpu/vcpu.h"

struct boot;
struct chr;
struct pc;

/** A file given to a multiboot kernel, with its own command line (or NULL). */
struct vm_module {
	const char *path, *cmdline;
};

/** What a machine is to be. Everything is borrowed until vm_create() returns;
 * zero is a usable value of every field but (mem_size). */
struct vm_config {
	const char *name;         /* NULL: "vm" */
	uint64_t mem_size;        /* bytes, a multiple of 4 KiB */
	struct cpu_topology cpus; /* zero counts are one */
	const char *accel;        /* "auto" (or NULL), "kvm", "bt", "interp" */
	struct accel_options accel_options;
	bool no_pv; /* hide KVM's paravirtual interface */
	enum unmapped_policy unmapped;
	bool end_on_reset; /* a guest's reset ends the machine */
	bool catch_up;     /* guest time jumps over a pause */

	const char *kernel, *initrd, *append;
	const struct vm_module *modules;
	unsigned nr_modules;

	const struct blk_options *disks; /* virtio-blk, in this order */
	unsigned nr_disks;
	const char *const *serials; /* chr specs of COM1.. */
	unsigned nr_serials;
	const char *const *devices; /* "NAME,key=value" */
	unsigned nr_devices;
	const char *debugcon; /* chr spec behind port 0xE9, or NULL */

	/* Use this accelerator, whatever (accel) says: for tests. */
	const struct accel_ops *accel_ops;
};

/** Where a machine is in its life. */
enum vm_status {
	VM_CREATED, /* built, nothing has run */
	VM_RUNNING,
	VM_PAUSED,
	VM_ENDED, /* there is an outcome; CPUs are parked for good */
};

/** Why a machine ended. */
enum vm_end {
	VM_END_NONE,
	VM_END_POWEROFF,
	VM_END_QUIT,  /* vm_quit() */
	VM_END_EXIT,  /* the guest chose an exit code */
	VM_END_PANIC, /* the guest's kernel said that it crashed */
	VM_END_TRIPLE_FAULT,
	VM_END_RESET, /* with (end_on_reset) */
	VM_END_ERROR, /* the host or the accelerator failed */
};

/** The end of a machine, and the exit code that stands for it. */
struct vm_outcome {
	enum vm_end end;
	int code;
	char text[200]; /* for people; empty when there is nothing to say */
};

#define VM_MAX_SERIALS 4

/** A machine. Others read it on the main loop; only vm.c and pc.c write. */
struct vm {
	char name[32];
	bool end_on_reset, catch_up;
	enum vm_status status;
	struct vm_outcome outcome;
	uint64_t nr_resets;

	struct loop *loop; /* the main one */
	struct stats stats;
	struct memmap map;
	struct gmem mem;
	struct dma_space dma;
	struct bus *pio, *mmio;
	struct pci_bus *pci;
	struct vclock *clock;
	struct irqchip irqchip;
	struct vcpus cpus;
	struct device_env env;
	struct list devices; /* of struct device, in creation order */
	struct chr *serial[VM_MAX_SERIALS];
	struct boot *boot;
	struct pc *pc; /* the recipe's own */

	/* Events that devices and CPUs raised, until the main loop looks. */
	pthread_mutex_t event_lock; /* nothing is taken in it */
	uint32_t events;            /* one bit for each enum machine_event */
	int exit_value;
	char event_text[160];
	struct loop_work event_work;
};

/**
 * Build the machine (config): memory, buses, CPUs, devices, boot image in
 * place. It has the status VM_CREATED. On failure nothing is left behind, and
 * (err) says what to do. Undone by vm_destroy().
 */
int vm_create(struct vm **out, const struct vm_config *config, struct err *err);
/** End what still runs and free everything; not from within vm_run(). NULL is
 * fine. */
void vm_destroy(struct vm *vm);

/**
 * Run the main loop on this thread until the machine ends. It starts to run
 * if its status is VM_CREATED, unless (start_paused).
 */
struct vm_outcome vm_run(struct vm *vm, bool start_paused);

/** Let CPUs and guest time run, or stop them; when vm_pause() returns, no CPU
 * runs and disks are quiet. 0 (also when it is so already), or -EINVAL for an
 * ended machine. Any thread but a CPU's. */
int vm_resume(struct vm *vm);
int vm_pause(struct vm *vm);

/** Power-on state for all devices and CPUs, and the boot image loaded anew;
 * runs on if it ran. -EINVAL for an ended machine, or -errno with (err) if
 * the image could not be read again: the machine ended. Any thread but a
 * CPU's. */
int vm_reset(struct vm *vm, struct err *err);

/** Press the power button: the guest is asked to shut down. -EINVAL unless it
 * runs. Any thread but a CPU's. */
int vm_powerbutton(struct vm *vm);

/** End the machine now, with exit code (code). Any thread; does not wait. */
void vm_quit(struct vm *vm, int code);

/** The status now. Any thread. */
enum vm_status vm_status(struct vm *vm);

/** "created", "running", "paused" or "ended". */
const char *vm_status_name(enum vm_status status);

/** The device called (id), or NULL. On the main loop. */
struct device *vm_find_device(struct vm *vm, const char *id);

/**
 * The accelerator called (name) out of (all), which ends with NULL: "auto"
 * measures those that work, takes the fastest, and writes which and why into
 * (reason), one line. -errno with (err) when it cannot be.
 */
int accel_choose(const struct accel_ops **ops, const char *name,
		 const struct accel_ops *const *all, char *reason,
		 size_t reason_size, struct err *err);

#endif
