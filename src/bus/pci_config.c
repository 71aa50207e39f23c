/* What a function's configuration space says, before anybody writes to it. */
#include "bus/pci_impl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/endian.h"
#include "base/err.h"
#include "bus/msix.h"

#define COMMAND_BITS                                                \
	(PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | \
	 PCI_COMMAND_PARITY | PCI_COMMAND_SERR | PCI_COMMAND_INTX_DISABLE)
#define STATUS_CLEAR_BITS 0xf900 /* errors, written 1 to clear */

#define EXP_CAP_LEN       0x3c /* version 2, all registers */

/* Header type 1, PCI-to-PCI Bridge Architecture 1.2 section 3.2: windows in
 * I/O space of 16 bits, in memory of 32 bits, prefetchable of 64 bits. */
static void bridge_header(struct pci_dev *dev)
{
	uint8_t *mask = dev->write_mask;

	dev->config[PCI_HEADER_TYPE] = PCI_HEADER_TYPE_BRIDGE;
	mask[PCI_PRIMARY_BUS] = 0xff;
	mask[PCI_SECONDARY_BUS] = 0xff;
	mask[PCI_SUBORDINATE_BUS] = 0xff;
	mask[PCI_IO_BASE] = 0xf0;
	mask[PCI_IO_LIMIT] = 0xf0;
	store_le16(&dev->clear_mask[PCI_SEC_STATUS], STATUS_CLEAR_BITS);
	store_le16(&mask[PCI_MEMORY_BASE], 0xfff0);
	store_le16(&mask[PCI_MEMORY_LIMIT], 0xfff0);
	store_le16(&mask[PCI_PREF_MEMORY_BASE], 0xfff0);
	store_le16(&mask[PCI_PREF_MEMORY_LIMIT], 0xfff0);
	dev->config[PCI_PREF_MEMORY_BASE] = PCI_PREF_RANGE_TYPE_64;
	dev->config[PCI_PREF_MEMORY_LIMIT] = PCI_PREF_RANGE_TYPE_64;
	store_le32(&mask[PCI_PREF_BASE_UPPER32], UINT32_MAX);
	store_le32(&mask[PCI_PREF_LIMIT_UPPER32], UINT32_MAX);
	mask[PCI_BRIDGE_CONTROL] = PCI_BRIDGE_CTL_PARITY | PCI_BRIDGE_CTL_SERR;
	pci_bridge_close(dev);
}

void pci_bridge_close(struct pci_dev *dev)
{
	dev->config[PCI_IO_BASE] = 0xf0;
	store_le16(&dev->config[PCI_MEMORY_BASE], 0xfff0);
	store_le16(&dev->config[PCI_PREF_MEMORY_BASE],
		   0xfff0 | PCI_PREF_RANGE_TYPE_64);
	dev->config[PCI_IO_LIMIT] = 0;
	store_le16(&dev->config[PCI_MEMORY_LIMIT], 0);
	store_le16(&dev->config[PCI_PREF_MEMORY_LIMIT], PCI_PREF_RANGE_TYPE_64);
	store_le32(&dev->config[PCI_PREF_BASE_UPPER32], 0);
	store_le32(&dev->config[PCI_PREF_LIMIT_UPPER32], 0);
}

/* PCI Express Base 4.0 section 7.5.3: a link of 2.5 GT/s and one lane that is
 * always up. The port type waits for pci_dev_add(). */
static void add_express(struct pci_dev *dev, bool is_bridge)
{
	int at = pci_cap_add(dev, PCI_CAP_ID_EXP, EXP_CAP_LEN);
	uint8_t *c, *mask;

	vm_assert(at > 0);
	dev->exp_cap = (uint8_t)at;
	c = &dev->config[at];
	mask = &dev->write_mask[at];
	store_le16(&c[PCI_EXP_FLAGS],
		   2 | (is_bridge ? PCI_EXP_TYPE_ROOT_PORT << 4 |
					    PCI_EXP_FLAGS_SLOT
				  : PCI_EXP_TYPE_ENDPOINT << 4));
	store_le32(&c[PCI_EXP_DEVCAP], PCI_EXP_DEVCAP_RBER);
	store_le16(&c[PCI_EXP_DEVCTL], PCI_EXP_DEVCTL_READRQ_512B);
	store_le16(&mask[PCI_EXP_DEVCTL],
		   PCI_EXP_DEVCTL_CERE | PCI_EXP_DEVCTL_NFERE |
			   PCI_EXP_DEVCTL_FERE | PCI_EXP_DEVCTL_URRE |
			   PCI_EXP_DEVCTL_RELAX_EN | PCI_EXP_DEVCTL_PAYLOAD |
			   PCI_EXP_DEVCTL_NOSNOOP_EN | PCI_EXP_DEVCTL_READRQ);
	dev->clear_mask[at + PCI_EXP_DEVSTA] = 0x0f;
	store_le32(&c[PCI_EXP_LNKCAP],
		   PCI_EXP_LNKCAP_SLS_2_5GB | 1 << 4 |
			   (is_bridge ? PCI_EXP_LNKCAP_DLLLARC : 0));
	store_le16(&mask[PCI_EXP_LNKCTL],
		   PCI_EXP_LNKCTL_ASPMC | PCI_EXP_LNKCTL_RCB |
			   PCI_EXP_LNKCTL_CCC | PCI_EXP_LNKCTL_ES);
	store_le16(&c[PCI_EXP_LNKSTA],
		   PCI_EXP_LNKSTA_CLS_2_5GB | PCI_EXP_LNKSTA_NLW_X1 |
			   (is_bridge ? PCI_EXP_LNKSTA_DLLLA : 0));
	store_le32(&c[PCI_EXP_LNKCAP2], PCI_EXP_LNKCAP2_SLS_2_5GB);
	store_le16(&c[PCI_EXP_LNKCTL2], PCI_EXP_LNKCTL2_TLS_2_5GT);
	if (is_bridge)
		store_le16(&c[PCI_EXP_SLTSTA], PCI_EXP_SLTSTA_PDS);
}

void pci_dev_init(struct pci_dev *dev, const struct pci_ident *ident,
		  const char *name, pthread_mutex_t *lock, void *owner)
{
	*dev = (struct pci_dev){ .lock = lock, .owner = owner };
	snprintf(dev->name, sizeof(dev->name), "%s", name);
	dev->next_cap = PCI_STD_HEADER_SIZEOF;
	dev->next_ext_cap = PCI_CFG_SPACE_SIZE;
	store_le16(&dev->config[PCI_VENDOR_ID], ident->vendor);
	store_le16(&dev->config[PCI_DEVICE_ID], ident->device);
	store_le32(&dev->config[PCI_CLASS_REVISION],
		   ident->class_code << 8 | ident->revision);
	store_le16(&dev->write_mask[PCI_COMMAND], COMMAND_BITS);
	store_le16(&dev->clear_mask[PCI_STATUS], STATUS_CLEAR_BITS);
	dev->write_mask[PCI_CACHE_LINE_SIZE] = 0xff;
	if (ident->is_bridge) {
		bridge_header(dev);
	} else {
		store_le16(&dev->config[PCI_SUBSYSTEM_VENDOR_ID],
			   ident->subsys_vendor);
		store_le16(&dev->config[PCI_SUBSYSTEM_ID], ident->subsys);
	}
	dev->write_mask[PCI_INTERRUPT_LINE] = 0xff;
	if (ident->has_intx)
		dev->config[PCI_INTERRUPT_PIN] = 1;
	if (ident->is_express)
		add_express(dev, ident->is_bridge);
}

int pci_bridge_init(struct pci_dev *bridge)
{
	bridge->secondary = calloc(1, sizeof(*bridge->secondary));
	if (!bridge->secondary)
		return -ENOMEM;
	bridge->secondary->bridge = bridge;
	return 0;
}

void pci_bridge_finish(struct pci_dev *bridge)
{
	free(bridge->secondary);
	bridge->secondary = NULL;
}

/* The bits of a BAR that say what it is. */
static uint8_t bar_type(const struct pci_bar *bar)
{
	if (bar->is_io)
		return PCI_BASE_ADDRESS_SPACE_IO;
	return (bar->is_64 ? PCI_BASE_ADDRESS_MEM_TYPE_64 : 0) |
	       (bar->is_prefetchable ? PCI_BASE_ADDRESS_MEM_PREFETCH : 0);
}

void pci_bar_init(struct pci_dev *dev, unsigned n, const struct pci_bar *bar)
{
	unsigned at = PCI_BASE_ADDRESS_0 + 4 * n;

	vm_assert(n + bar->is_64 < PCI_NR_BARS && IS_POW2(bar->size));
	vm_assert(bar->size >= (bar->is_io ? 4 : 16));
	dev->bar[n] = *bar;
	dev->bar[n].is_mapped = false;
	store_le32(&dev->config[at], bar_type(bar));
	store_le32(&dev->write_mask[at], (uint32_t) ~(bar->size - 1));
	if (bar->is_64)
		store_le32(&dev->write_mask[at + 4],
			   (uint32_t)(~(bar->size - 1) >> 32));
}

/* A BAR that was never assigned, or that is being sized, has no address. */
bool pci_bar_addr(const struct pci_dev *dev, unsigned n, uint64_t *addr)
{
	const struct pci_bar *bar = &dev->bar[n];
	unsigned at = PCI_BASE_ADDRESS_0 + 4 * n;
	uint64_t limit = bar->is_io ? UINT16_MAX : UINT32_MAX;

	*addr = load_le32(&dev->config[at]);
	if (bar->is_64) {
		*addr |= (uint64_t)load_le32(&dev->config[at + 4]) << 32;
		limit = UINT64_MAX;
	}
	*addr &= ~(bar->size - 1);
	return *addr && *addr < limit - (bar->size - 1);
}

int pci_cap_add(struct pci_dev *dev, uint8_t id, uint8_t len)
{
	unsigned at = dev->next_cap;
	unsigned end = at + ALIGN_UP((unsigned)len, 4);

	if (!at || end > PCI_CFG_SPACE_SIZE)
		return -ENOSPC;
	dev->config[at] = id;
	dev->config[at + 1] = dev->config[PCI_CAPABILITY_LIST];
	dev->config[PCI_CAPABILITY_LIST] = (uint8_t)at;
	dev->config[PCI_STATUS] |= PCI_STATUS_CAP_LIST;
	/* Zero once the space is full to its last byte. */
	dev->next_cap = (uint8_t)end;
	return (int)at;
}

int pci_ext_cap_add(struct pci_dev *dev, uint16_t id, uint8_t version,
		    uint16_t len)
{
	unsigned at = dev->next_ext_cap, last = PCI_CFG_SPACE_SIZE;
	unsigned end = at + ALIGN_UP((unsigned)len, 4);
	uint32_t header;

	if (end > PCI_CONFIG_SIZE)
		return -ENOSPC;
	store_le32(&dev->config[at], id | (uint32_t)version << 16);
	if (at != last) {
		while ((header = load_le32(&dev->config[last])) >> 20)
			last = header >> 20;
		store_le32(&dev->config[last], header | at << 20);
	}
	dev->next_ext_cap = (uint16_t)end;
	return (int)at;
}

bool pci_is_bus_master(const struct pci_dev *dev)
{
	return __atomic_load_n(&dev->config[PCI_COMMAND], __ATOMIC_RELAXED) &
	       PCI_COMMAND_MASTER;
}
