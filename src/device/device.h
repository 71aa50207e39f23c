/*
 * What every device is to the machine: a const class, and a state that begins
 * with struct device. One table (registry.c) names all classes; options, help
 * and the control commands come from the class.
 */
#ifndef DEVICE_DEVICE_H
#define DEVICE_DEVICE_H

#include <pthread.h>

#include "base/err.h"
#include "base/list.h"
#include "base/opt.h"
#include "base/stats.h"
#include "bus/bus.h"
#include "bus/dma.h"
#include "bus/irq.h"
#include "bus/vclock.h"

struct blk;
struct chr;
struct loop;
struct pci_bus;
struct device;
struct stream;

/** What a device, or a CPU, asks of the machine it is in. */
enum machine_event {
	MACHINE_POWEROFF, /* ACPI soft-off, or its like */
	MACHINE_RESET,    /* port 0xCF9, the keyboard controller, ACPI */
	MACHINE_EXIT,     /* end with (value) as the exit code: debug exit */
	MACHINE_PANICKED, /* the guest's kernel crashed: for good if (value & 1),
			   * else another one takes over */
	MACHINE_SHUTDOWN, /* triple fault */
};

/** What a machine gives its devices; borrowed, outlives them. */
struct device_env {
	struct bus *pio, *mmio;
	struct vclock *clock;
	struct irqchip *irqchip;
	struct dma_space *dma;
	struct pci_bus *pci;
	struct loop *loop; /* the main one */
	struct stats *stats;
	unsigned nr_cpus; /* for defaults; 0 is unknown */
	/* What a device asks of the machine: power-off, reset... Any thread. */
	void (*event)(void *opaque, enum machine_event event, int value);
	void *event_opaque;
};

/** A kind of device. */
struct device_class {
	const char *name;            /* as in --device NAME */
	const char *help;            /* one line */
	const struct opt_desc *opts; /* may be NULL */
	size_t opts_size;
	/* Make one with (opts) read into a struct of the class's own. */
	int (*create)(struct device **dev, const struct device_env *env,
		      const void *opts, struct err *err);
	/* No call into the device is running or will come. */
	void (*destroy)(struct device *dev);
	/* Power-on state. CPUs are parked, or it is the guest's own reset. */
	void (*reset)(struct device *dev);
	/* CPUs are parked: finish what is in flight, so that state is still. */
	void (*quiesce)(struct device *dev); /* may be NULL */
	/* CPUs are about to run after a quiesce or a load. May be NULL. */
	void (*resume)(struct device *dev);
	/* Write the state, or read it into a fresh device made with the same
	 * options and continue. CPUs are parked, the device is quiet, and the
	 * clock was loaded before. A loaded device drives its wires again;
	 * what they end at knows their levels, so nothing happens twice. */
	void (*state)(struct device *dev, struct stream *s);
	/* For the control command "rings": live queues as text. May be NULL. */
	void (*describe)(struct device *dev, char *buf, size_t len);
};

#define DEVICE_MAX_RANGES 6

/** The common part of a device. (lock) is taken by bus dispatch and timers;
 * see docs/threads.md for what may be held before it. */
struct device {
	const struct device_class *cls;
	const struct device_env *env;
	char id[24]; /* unique in its machine */
	pthread_mutex_t lock;
	struct list link; /* the machine's list, in creation order */
	struct stats_group stats_group;
	struct {
		struct bus *bus;
		uint64_t base;
	} ranges[DEVICE_MAX_RANGES]; /* see device_map() */
	unsigned nr_ranges;
};

/** Start (dev) as one of (cls): lock, class, and the class's name as id, which
 * the machine makes unique. */
void device_init(struct device *dev, const struct device_class *cls,
		 const struct device_env *env);
/** Undo device_init() and device_map(). */
void device_finish(struct device *dev);

/** Map registers of (dev) on (bus) under its lock until device_finish().
 * -errno with (err), as bus_map(); -ENOSPC beyond DEVICE_MAX_RANGES. */
int device_map(struct device *dev, struct bus *bus, uint64_t base, uint64_t len,
	       const struct bus_ops *ops, struct err *err);

/** Tell the machine of (event). Any thread. */
void device_event(struct device *dev, enum machine_event event, int value);
/** End the machine with exit code 0: what a terminal's quit key does, with
 * (dev) its struct device. Any thread. */
void device_quit(void *dev);

/** The class called (name), or NULL. */
const struct device_class *device_find(const char *name);
/** All classes that --device takes, ending with NULL. */
extern const struct device_class *const device_classes[];

#endif
