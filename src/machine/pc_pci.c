/*
 * The PCI functions that every PC has and that do nothing by themselves: host
 * bridge, ISA bridge, root ports. Guests look for them to tell what chipset
 * they are on.
 */
#include <errno.h>

#include "base/bits.h"
#include "base/endian.h"
#include "bus/pci.h"
#include "device/chip/pm.h"
#include "device/device.h"
#include "machine/pc.h"
#include "state/stream.h"

/* clang-format off */
#define VENDOR_INTEL     0x8086
#define DEVICE_Q35_MCH   0x29c0
#define DEVICE_ICH9_LPC  0x2918
#define DEVICE_ICH9_PORT 0x2940 /* and the following, one a port */

#define ISA_BRIDGE_SLOT  31
#define ROOT_PORT_SLOT   28 /* and the following functions */

/* ICH9 LPC (Intel document 316972, 13.1): the power management block. */
#define LPC_PMBASE      0x40
#define LPC_PMBASE_IO   BIT(0)
#define LPC_ACPI_CNTL   0x44
#define LPC_ACPI_ENABLE BIT(7)
/* clang-format on */

struct function {
	struct device dev;
	struct pci_dev pci;
};

static struct function *to_function(struct device *dev)
{
	return container_of(dev, struct function, dev);
}

static void function_destroy(struct device *dev)
{
	struct function *f = to_function(dev);

	pci_dev_remove(&f->pci);
	if (f->pci.secondary)
		pci_bridge_finish(&f->pci);
	device_finish(dev);
	free(f);
}

static void function_reset(struct device *dev)
{
	pci_dev_reset(&to_function(dev)->pci);
}

static void function_state(struct device *dev, struct stream *s)
{
	pci_dev_state(&to_function(dev)->pci, s);
}

#define FUNCTION_CLASS(name_, help_)                                           \
	{                                                                      \
		.name = (name_), .help = (help_), .destroy = function_destroy, \
		.reset = function_reset, .state = function_state               \
	}

static const struct device_class host_bridge_class =
	FUNCTION_CLASS("host-bridge", "PCI Express root complex");
static const struct device_class isa_bridge_class =
	FUNCTION_CLASS("isa-bridge", "where the PC's old devices are");
static const struct device_class root_port_class =
	FUNCTION_CLASS("root-port", "PCI Express root port");

/* Make a function that is not on its bus yet. */
static struct function *function_create(const struct device_class *cls,
					const struct device_env *env,
					const struct pci_ident *ident,
					struct err *err)
{
	struct function *f = calloc(1, sizeof(*f));

	if (!f) {
		err_set(err, ENOMEM, NULL, "cannot make the %s:", cls->name);
		return NULL;
	}
	device_init(&f->dev, cls, env);
	pci_dev_init(&f->pci, ident, cls->name, &f->dev.lock, f);
	return f;
}

static int function_add(struct function *f, struct device **dev, int slot,
			int fn, struct err *err)
{
	int r = pci_dev_add(&f->pci, f->dev.env->pci, slot, fn);

	if (r) {
		err_set(err, -r, NULL,
			"cannot place the %s in slot %d:", f->dev.cls->name,
			slot);
		if (f->pci.secondary)
			pci_bridge_finish(&f->pci);
		device_finish(&f->dev);
		free(f);
		return r;
	}
	*dev = &f->dev;
	return 0;
}

int pc_host_bridge_create(struct device **dev, const struct device_env *env,
			  struct err *err)
{
	const struct pci_ident ident = {
		.vendor = VENDOR_INTEL,
		.device = DEVICE_Q35_MCH,
		.class_code = 0x060000,
	};
	struct function *f =
		function_create(&host_bridge_class, env, &ident, err);

	return f ? function_add(f, dev, 0, 0, err) : -ENOMEM;
}

int pc_isa_bridge_create(struct device **dev, const struct device_env *env,
			 struct err *err)
{
	const struct pci_ident ident = {
		.vendor = VENDOR_INTEL,
		.device = DEVICE_ICH9_LPC,
		.class_code = 0x060100,
		.revision = 2,
	};
	struct function *f =
		function_create(&isa_bridge_class, env, &ident, err);

	if (!f)
		return -ENOMEM;
	store_le32(&f->pci.config[LPC_PMBASE], PM_BASE | LPC_PMBASE_IO);
	f->pci.config[LPC_ACPI_CNTL] = LPC_ACPI_ENABLE;
	f->pci.config[PCI_HEADER_TYPE] |= 0x80; /* SATA and SMBus may follow */
	return function_add(f, dev, ISA_BRIDGE_SLOT, 0, err);
}

int pc_root_port_create(struct device **dev, const struct device_env *env,
			unsigned n, struct err *err)
{
	const struct pci_ident ident = {
		.vendor = VENDOR_INTEL,
		.device = (uint16_t)(DEVICE_ICH9_PORT + 2 * n),
		.class_code = 0x060400,
		.revision = 2,
		.is_bridge = true,
		.is_express = true,
	};
	struct function *f =
		function_create(&root_port_class, env, &ident, err);
	int r;

	if (!f)
		return -ENOMEM;
	if (!n)
		f->pci.config[PCI_HEADER_TYPE] |= 0x80; /* the slot has more */
	r = pci_bridge_init(&f->pci);
	if (r) {
		device_finish(&f->dev);
		free(f);
		return err_set(err, -r, NULL, "cannot make root port %u:", n);
	}
	return function_add(f, dev, ROOT_PORT_SLOT, (int)n, err);
}
