/* Virtio over PCI (virtio 1.2, section 4.1): makes a device class out of a
 * virtio class. */
#ifndef DEVICE_VIRTIO_PCI_TRANSPORT_H
#define DEVICE_VIRTIO_PCI_TRANSPORT_H

#include "device/virtio/virtio.h"

/** Make a device of (cls) as a PCI function in the first free slot of
 * env->pci; it is (dcls) to the machine. */
int virtio_pci_create(struct device **dev, const struct device_class *dcls,
		      const struct virtio_class *cls,
		      const struct device_env *env, const void *opts,
		      struct err *err);

/** The function of (dev), which virtio_pci_create() made. */
struct pci_dev *virtio_pci_function(struct device *dev);

/** The other hooks of struct device_class. */
void virtio_pci_destroy(struct device *dev);
void virtio_pci_reset(struct device *dev);
void virtio_pci_quiesce(struct device *dev);
void virtio_pci_resume(struct device *dev);
void virtio_pci_state(struct device *dev, struct stream *s);
void virtio_pci_describe(struct device *dev, char *buf, size_t len);

/* Define (prefix)_device, the device class of the virtio class (prefix)_class.
 * (opts_) is its table of options, read into (size) bytes. */
#define VIRTIO_PCI_DEVICE(prefix, name_, help_, opts_, size)               \
	static int prefix##_create_pci(struct device **dev,                \
				       const struct device_env *env,       \
				       const void *opts, struct err *err)  \
	{                                                                  \
		return virtio_pci_create(dev, &prefix##_device,            \
					 &prefix##_class, env, opts, err); \
	}                                                                  \
	const struct device_class prefix##_device = {                      \
		.name = name_,                                             \
		.help = help_,                                             \
		.opts = opts_,                                             \
		.opts_size = size,                                         \
		.create = prefix##_create_pci,                             \
		.destroy = virtio_pci_destroy,                             \
		.reset = virtio_pci_reset,                                 \
		.quiesce = virtio_pci_quiesce,                             \
		.resume = virtio_pci_resume,                               \
		.state = virtio_pci_state,                                 \
		.describe = virtio_pci_describe,                           \
	}

#endif
