/*
 * Power management as ACPI sees it: the fixed registers, the timer, the power
 * button, soft-off and the reset register.
 */
#ifndef DEVICE_CHIP_PM_H
#define DEVICE_CHIP_PM_H

#include "device/device.h"

/* Where the registers are, and what ACPI tables say of them. */
#define PM_BASE         0x600
#define PM_EVENT        0x00 /* PM1a_EVT_BLK, 4 bytes */
#define PM_CONTROL      0x04 /* PM1a_CNT_BLK, 2 bytes */
#define PM_TIMER        0x08 /* PM_TMR_BLK, 4 bytes, 24 bits */
#define PM_GPE0         0x20 /* GPE0_BLK, 16 bytes */
#define PM_SIZE         0x80
#define PM_SMI_CMD      0xb2
#define PM_ACPI_ENABLE  0x02 /* written to PM_SMI_CMD */
#define PM_ACPI_DISABLE 0x03
#define PM_SLP_TYP_S5   0x00 /* _S5 */
#define PM_SCI_GSI      9
#define PM_RESET_PORT   0xcf9 /* RESET_REG... */
#define PM_RESET_VALUE  0x06  /* ...and RESET_VALUE */
#define PM_TIMER_HZ     3579545

/** How to make one. */
struct pm_opts {
	struct irq_line sci; /* level-triggered, active high */
};

extern const struct device_class pm_class;

/** Make one at PM_BASE, PM_SMI_CMD and the reset port: through (env->pci),
 * which lends it, where there is one. -errno with (err). */
int pm_create(struct device **dev, const struct device_env *env,
	      const struct pm_opts *opts, struct err *err);

/** Press the power button. Any thread. */
void pm_powerbutton(struct device *dev);

/** Raise general-purpose event (n), 0 to 63, for ACPI code. Any thread. */
void pm_raise_gpe(struct device *dev, unsigned n);

#endif
