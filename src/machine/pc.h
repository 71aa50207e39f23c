/*
 * The ports and interrupts of the PC that pc.c builds and acpi.c describes.
 */
#ifndef MACHINE_PC_H
#define MACHINE_PC_H

#include "base/base.h"
#include "base/err.h"

struct device;
struct device_env;
struct vm;
struct vm_config;

/* clang-format off */

/* ISA interrupts, which are GSIs too; the timer's pin is GSI 2. */
#define PC_IRQ_PIT      0
#define PC_IRQ_KEYBOARD 1
#define PC_IRQ_RTC      8
#define PC_IRQ_MOUSE    12
#define PC_GSI_PIT      2
/* INTA to INTD of slot 0 of bus 0; others by the usual rotation. */
#define PC_GSI_INTX 16
/* What HPET timers may be routed to besides. */
#define PC_HPET_GSIS     0x00f00000

#define PC_PORT_PIT      0x40
#define PC_PORT_I8042    0x60
#define PC_PORT_RTC      0x70
#define PC_PORT_DEBUGCON 0xe9
#define PC_PORT_FWCFG    0x510
#define PC_PORT_PVPANIC  0x505

/* Ports and interrupts of COM1 to COM4. */
#define PC_COM_PORTS                       \
	{                                  \
		0x3f8, 0x2f8, 0x3e8, 0x2e8 \
	}
#define PC_COM_IRQS        \
	{                  \
		4, 3, 4, 3 \
	}
#define PC_NR_COMS 4

/* Where PCI devices' port BARs go. */
#define PC_PCI_PIO      0x2000
#define PC_PCI_PIO_SIZE 0xe000

#define PC_IOAPIC_ID    0
/* clang-format on */

/** Build the PC's devices on (vm)'s buses, and open the files behind them. The
 * CPUs exist and have not run. -errno with (err); in both cases undone by
 * pc_destroy(). */
int pc_create(struct vm *vm, const struct vm_config *config, struct err *err);
/** Free devices and buses of PCI; CPUs are parked. */
void pc_destroy(struct vm *vm);

/** What is there after power-on: CPUs' state, ROM, addresses of PCI devices, as
 * firmware leaves them, and the kernel. Devices were reset, CPUs are parked.
 * -errno with (err). */
int pc_power_on(struct vm *vm, struct err *err);

/** Press the power button. */
void pc_press_power_button(struct vm *vm);

/** The functions that belong to every PC (pc_pci.c): host bridge, ISA bridge
 * and root port number (n). */
int pc_host_bridge_create(struct device **dev, const struct device_env *env,
			  struct err *err);
int pc_isa_bridge_create(struct device **dev, const struct device_env *env,
			 struct err *err);
int pc_root_port_create(struct device **dev, const struct device_env *env,
			unsigned n, struct err *err);

#endif
