/*
 * QEMU, docs/specs/fw_cfg.rst: a selector, a data port that walks through the
 * selected item, and a DMA interface that reads, skips and writes in bulk.
 * Numbers of the interface itself are big-endian.
 *
 * Reading past an item's end gives zeros. By DMA that could be gigabytes for
 * one port write, so more than PAD_LIMIT of them is an error.
 */
#include "device/chip/fwcfg.h"

#include <endian.h>
#include <errno.h>

#include "base/bits.h"
#include "base/endian.h"
#include "base/log.h"
#include "base/overflow.h"
#include "state/stream.h"

#define RANGE_SIZE 12
#define NAME_SIZE  56
#define MAX_ITEMS  96
#define PAD_LIMIT  (64 * KiB)

enum reg { REG_SELECT = 0, REG_DATA = 1, REG_DMA_HIGH = 4, REG_DMA_LOW = 8 };

enum own_key {
	KEY_SIGNATURE = 0x00,
	KEY_ID = 0x01,
	KEY_DIRECTORY = 0x19,
	KEY_FIRST_FILE = 0x20,
};

#define ID_TRADITIONAL BIT(0)
#define ID_DMA         BIT(1)

#define DMA_SIGNATURE  0x51454d5520434647ULL /* "QEMU CFG" */

enum dma_control {
	DMA_ERROR = BIT(0),
	DMA_READ = BIT(1),
	DMA_SKIP = BIT(2),
	DMA_SELECT = BIT(3), /* the key is in bits 31:16 */
	DMA_WRITE = BIT(4),
};

struct dma_command {
	uint32_t control, length;
	uint64_t address;
} __attribute__((packed));

struct dir_entry {
	uint32_t size;
	uint16_t key, reserved;
	char name[NAME_SIZE];
} __attribute__((packed));

struct item {
	uint16_t key;
	bool is_writable;
	char name[NAME_SIZE]; /* empty for one that is no file */
	uint8_t *data;
	uint32_t len;
};

struct fwcfg {
	struct device dev;
	struct item item[MAX_ITEMS];
	unsigned nr_items;
	uint16_t next_file;
	uint16_t selected;
	uint32_t offset; /* of the next byte; at most the item's length */
	uint32_t dma_high;
	struct log_limit log;
};

static struct item *item_find(struct fwcfg *fw, uint16_t key)
{
	for (unsigned i = 0; i < fw->nr_items; i++) {
		if (fw->item[i].key == key)
			return &fw->item[i];
	}
	return NULL;
}

static void select_item(struct fwcfg *fw, uint16_t key)
{
	fw->selected = key;
	fw->offset = 0;
}

static uint8_t read_byte(struct fwcfg *fw)
{
	const struct item *item = item_find(fw, fw->selected);

	return item && fw->offset < item->len ? item->data[fw->offset++] : 0;
}

/* Copy (len) bytes from the item to the guest, with zeros behind its end. */
static int dma_to_guest(struct fwcfg *fw, const struct item *item,
			uint64_t address, uint32_t len)
{
	static const uint8_t zeros[256];
	uint32_t left = item ? item->len - fw->offset : 0, n = MIN(len, left);
	struct dma_space *dma = fw->dev.env->dma;
	int r = 0;

	if (len - n > PAD_LIMIT)
		return -EINVAL;
	if (n)
		r = dma_write(dma, address, item->data + fw->offset, n);
	for (uint32_t done = n; !r && done < len; done += n) {
		n = MIN(len - done, (uint32_t)sizeof(zeros));
		r = dma_write(dma, address + done, zeros, n);
	}
	return r;
}

static int dma_from_guest(struct fwcfg *fw, const struct item *item,
			  uint64_t address, uint32_t len)
{
	if (!item || !item->is_writable ||
	    !range_fits(fw->offset, len, item->len))
		return -EINVAL;
	return dma_read(fw->dev.env->dma, address, item->data + fw->offset,
			len);
}

static int dma_transfer(struct fwcfg *fw, uint32_t control, uint32_t len,
			uint64_t address)
{
	const struct item *item;
	uint64_t end;
	int r = 0;

	if (control & DMA_SELECT)
		select_item(fw, (uint16_t)(control >> 16));
	item = item_find(fw, fw->selected);
	if (add_overflow(address, (uint64_t)len, &end))
		return -EINVAL;
	if (control & DMA_READ)
		r = dma_to_guest(fw, item, address, len);
	else if (control & DMA_WRITE)
		r = dma_from_guest(fw, item, address, len);
	else if (!(control & DMA_SKIP))
		return 0;
	if (!r && item)
		fw->offset += MIN(len, item->len - fw->offset);
	return r;
}

static void run_dma(struct fwcfg *fw, uint64_t address)
{
	struct dma_space *dma = fw->dev.env->dma;
	struct dma_command cmd;
	uint32_t result = 0;

	if (dma_read(dma, address, &cmd, sizeof(cmd))) {
		log_guest(&fw->log, fw->dev.id, "a DMA command at 0x%llx",
			  (unsigned long long)address);
		return;
	}
	if (dma_transfer(fw, be32toh(cmd.control), be32toh(cmd.length),
			 be64toh(cmd.address))) {
		log_guest(&fw->log, fw->dev.id,
			  "DMA of item 0x%x failed: 0x%x bytes at 0x%llx",
			  fw->selected, be32toh(cmd.length),
			  (unsigned long long)be64toh(cmd.address));
		result = htobe32(DMA_ERROR);
	}
	/* The control word is the guest's sign that it is done. */
	dma_write(dma, address, &result, sizeof(result));
}

static uint64_t fwcfg_read(void *dev, unsigned cpu, uint64_t offset,
			   unsigned size)
{
	uint64_t signature = htobe64(DMA_SIGNATURE), value = 0;

	if (offset >= REG_DMA_HIGH) {
		memcpy(&value,
		       (const uint8_t *)&signature + (offset - REG_DMA_HIGH),
		       MIN(size, RANGE_SIZE - offset));
		return value;
	}
	if (offset == REG_DATA && size == 1)
		return read_byte(dev);
	return 0;
}

static void fwcfg_write(void *dev, unsigned cpu, uint64_t offset, unsigned size,
			uint64_t value)
{
	struct fwcfg *fw = dev;
	uint64_t address;

	if (offset == REG_SELECT) {
		select_item(fw, (uint16_t)value);
	} else if (offset == REG_DMA_HIGH && size == 4) {
		fw->dma_high = be32toh((uint32_t)value);
	} else if (offset == REG_DMA_LOW && size == 4) {
		address =
			(uint64_t)fw->dma_high << 32 | be32toh((uint32_t)value);
		fw->dma_high = 0;
		run_dma(fw, address);
	}
}

static const struct bus_ops fwcfg_ops = { .read = fwcfg_read,
					  .write = fwcfg_write,
					  .max_size = 4 };

/* The machine's side. */

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct dir_entry *)a)->name,
		      ((const struct dir_entry *)b)->name);
}

static int item_set(struct fwcfg *fw, uint16_t key, const void *data,
		    uint32_t len)
{
	struct item *item = item_find(fw, key);
	uint8_t *copy = malloc(len ? len : 1);

	if (!copy)
		return -ENOMEM;
	if (!item && fw->nr_items == MAX_ITEMS) {
		free(copy);
		return -ENOSPC;
	}
	if (!item) {
		item = &fw->item[fw->nr_items++];
		item->key = key;
	}
	if (len)
		memcpy(copy, data, len);
	free(item->data);
	item->data = copy;
	item->len = len;
	return 0;
}

/* Write the directory again, sorted as guests may expect it. */
static int update_directory(struct fwcfg *fw)
{
	struct {
		uint32_t count;
		struct dir_entry entry[MAX_ITEMS];
	} dir = { 0 };
	unsigned n = 0;

	for (unsigned i = 0; i < fw->nr_items; i++) {
		const struct item *item = &fw->item[i];

		if (!item->name[0])
			continue;
		dir.entry[n].size = htobe32(item->len);
		dir.entry[n].key = htobe16(item->key);
		memcpy(dir.entry[n].name, item->name, NAME_SIZE);
		n++;
	}
	qsort(dir.entry, n, sizeof(dir.entry[0]), by_name);
	dir.count = htobe32(n);
	return item_set(
		fw, KEY_DIRECTORY, &dir,
		(uint32_t)(sizeof(dir.count) + n * sizeof(dir.entry[0])));
}

static struct item *file_find(struct fwcfg *fw, const char *name)
{
	for (unsigned i = 0; i < fw->nr_items; i++) {
		if (!strcmp(fw->item[i].name, name))
			return &fw->item[i];
	}
	return NULL;
}

int fwcfg_add(struct device *dev, uint16_t key, const void *data, uint32_t len)
{
	return item_set(container_of(dev, struct fwcfg, dev), key, data, len);
}

int fwcfg_add_number(struct device *dev, uint16_t key, unsigned size,
		     uint64_t value)
{
	uint8_t bytes[8];

	store_le64(bytes, value);
	return fwcfg_add(dev, key, bytes, MIN(size, sizeof(bytes)));
}

int fwcfg_add_file(struct device *dev, const char *name, const void *data,
		   uint32_t len, bool is_writable)
{
	struct fwcfg *fw = container_of(dev, struct fwcfg, dev);
	struct item *item = file_find(fw, name);
	uint16_t key = item ? item->key : fw->next_file;
	int r;

	if (!name[0] || strlen(name) >= NAME_SIZE)
		return -EINVAL;
	r = item_set(fw, key, data, len);
	if (r)
		return r;
	if (!item) {
		item = item_find(fw, key);
		snprintf(item->name, sizeof(item->name), "%s", name);
		fw->next_file++;
	}
	item->is_writable = is_writable;
	return update_directory(fw);
}

const void *fwcfg_file(struct device *dev, const char *name, uint32_t *len)
{
	const struct item *item =
		file_find(container_of(dev, struct fwcfg, dev), name);

	if (!item || !name[0])
		return NULL;
	*len = item->len;
	return item->data;
}

/* Items are made again by the machine; what the guest may have changed, and
 * where it was reading, travels. */
static void fwcfg_state(struct device *dev, struct stream *s)
{
	struct fwcfg *fw = container_of(dev, struct fwcfg, dev);
	const struct item *item;

	stream_begin(s, STREAM_TAG('F', 'W', 'C', 'F'), 1);
	stream_u16(s, &fw->selected);
	stream_u32(s, &fw->offset);
	stream_u32(s, &fw->dma_high);
	item = item_find(fw, fw->selected);
	stream_check(s, fw->offset <= (item ? item->len : 0));
	for (unsigned i = 0; i < fw->nr_items; i++) {
		uint32_t len = fw->item[i].len;

		if (!fw->item[i].is_writable)
			continue;
		stream_u32(s, &len);
		stream_check(s, len == fw->item[i].len);
		stream_bytes(s, fw->item[i].data, fw->item[i].len);
	}
	stream_end(s);
	if (stream_error(s))
		fw->offset = 0;
}

static void fwcfg_reset(struct device *dev)
{
	struct fwcfg *fw = container_of(dev, struct fwcfg, dev);

	pthread_mutex_lock(&dev->lock);
	select_item(fw, KEY_SIGNATURE);
	fw->dma_high = 0;
	pthread_mutex_unlock(&dev->lock);
}

static void fwcfg_destroy(struct device *dev)
{
	struct fwcfg *fw = container_of(dev, struct fwcfg, dev);

	device_finish(dev);
	for (unsigned i = 0; i < fw->nr_items; i++)
		free(fw->item[i].data);
	free(fw);
}

const struct device_class fwcfg_class = {
	.name = "fw-cfg",
	.help = "firmware configuration",
	.destroy = fwcfg_destroy,
	.reset = fwcfg_reset,
	.state = fwcfg_state,
};

int fwcfg_create(struct device **dev, const struct device_env *env,
		 struct err *err)
{
	struct fwcfg *fw = calloc(1, sizeof(*fw));
	int r;

	if (!fw)
		return err_set(err, ENOMEM, NULL, "cannot make fw_cfg:");
	device_init(&fw->dev, &fwcfg_class, env);
	fw->next_file = KEY_FIRST_FILE;
	r = item_set(fw, KEY_SIGNATURE, "QEMU", 4);
	if (!r)
		r = fwcfg_add_number(&fw->dev, KEY_ID, 4,
				     ID_TRADITIONAL | ID_DMA);
	if (!r)
		r = update_directory(fw);
	if (r)
		err_set(err, -r, NULL, "cannot make fw_cfg:");
	else
		r = device_map(&fw->dev, env->pio, FWCFG_PORT, RANGE_SIZE,
			       &fwcfg_ops, err);
	if (r) {
		fwcfg_destroy(&fw->dev);
		return r;
	}
	*dev = &fw->dev;
	return 0;
}
