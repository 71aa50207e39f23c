#include "chip_test.h"

#include <endian.h>

#include "base/endian.h"
#include "device/chip/fwcfg.h"

#define COMMAND 0x1000 /* where the guest puts its DMA commands */

static const struct board_range ranges[] = { { false, FWCFG_PORT, 12 }, { 0 } };

static const uint8_t table[] = { 10, 11, 12, 13, 14, 15, 16, 17, 18, 19 };

static struct device *make(struct board *b)
{
	struct device *dev;
	uint64_t zero = 0;

	assert_int_equal(fwcfg_create(&dev, &b->env, NULL), 0);
	assert_int_equal(fwcfg_add_file(dev, "etc/table", table, 10, false), 0);
	assert_int_equal(fwcfg_add_file(dev, "etc/addr", &zero, 8, true), 0);
	assert_int_equal(fwcfg_add_number(dev, FWCFG_NR_CPUS, 2, 4), 0);
	return dev;
}

static void select_item(struct board *b, uint16_t key)
{
	board_out(b, FWCFG_PORT, 2, key);
}

static uint8_t next(struct board *b)
{
	return (uint8_t)board_in(b, FWCFG_PORT + 1, 1);
}

static void read_item(struct board *b, void *buf, unsigned len)
{
	for (unsigned i = 0; i < len; i++)
		((uint8_t *)buf)[i] = next(b);
}

/* What the directory says of (name). */
static uint16_t file_key(struct board *b, const char *name, uint32_t *size)
{
	struct {
		uint32_t size;
		uint16_t key, reserved;
		char name[56];
	} entry;
	uint32_t count;

	select_item(b, 0x19);
	read_item(b, &count, 4);
	for (unsigned i = 0; i < be32toh(count); i++) {
		read_item(b, &entry, sizeof(entry));
		if (strcmp(entry.name, name))
			continue;
		*size = be32toh(entry.size);
		return be16toh(entry.key);
	}
	return 0;
}

/* Run a DMA command; returns its control word afterwards. */
static uint32_t dma(struct board *b, uint32_t control, uint32_t len,
		    uint64_t address)
{
	uint8_t cmd[16];

	store_le32(cmd, htobe32(control));
	store_le32(cmd + 4, htobe32(len));
	store_le64(cmd + 8, htobe64(address));
	dma_write(&b->dma, COMMAND, cmd, sizeof(cmd));
	board_out(b, FWCFG_PORT + 4, 4, 0);
	board_out(b, FWCFG_PORT + 8, 4, htobe32(COMMAND));
	dma_read(&b->dma, COMMAND, cmd, 4);
	return be32toh(load_le32(cmd));
}

static void f12_fwcfg_items(void **state)
{
	struct board b;
	struct device *dev;
	uint32_t size = 0;
	char text[5] = "";

	board_init(&b, 0);
	dev = make(&b);
	read_item(&b, text, 4); /* selected from the start */
	assert_string_equal(text, "QEMU");
	assert_int_equal(next(&b), 0);
	select_item(&b, 1);
	assert_int_equal(next(&b), 3);
	select_item(&b, FWCFG_NR_CPUS);
	assert_int_equal(next(&b), 4);
	assert_int_equal(next(&b), 0);
	assert_int_equal(file_key(&b, "etc/addr", &size), 0x21);
	assert_int_equal(file_key(&b, "etc/table", &size), 0x20);
	assert_int_equal(size, 10);
	select_item(&b, 0x20);
	for (unsigned i = 0; i < 10; i++)
		assert_int_equal(next(&b), table[i]);
	assert_int_equal(next(&b), 0);
	select_item(&b, 0x20);
	assert_int_equal(next(&b), 10);
	select_item(&b, 0x7777);
	assert_int_equal(next(&b), 0);
	/* Replacing a file keeps its key. */
	assert_int_equal(fwcfg_add_file(dev, "etc/table", "ab", 2, false), 0);
	assert_int_equal(file_key(&b, "etc/table", &size), 0x20);
	assert_int_equal(size, 2);
	assert_int_equal(fwcfg_add_file(dev, "", "ab", 2, false), -EINVAL);
	dev->cls->destroy(dev);
	board_finish(&b);
}

static void f12_fwcfg_directory_is_sorted_and_bounded(void **state)
{
	struct board b;
	struct device *dev;
	char name[64], last[56] = "", entry[64];
	uint32_t count;
	int r = 0;

	board_init(&b, 0);
	dev = make(&b);
	for (unsigned i = 0; !r && i < 200; i++) {
		snprintf(name, sizeof(name), "opt/%u", i * 7919 % 1000);
		r = fwcfg_add_file(dev, name, name, 4, false);
	}
	assert_int_equal(r, -ENOSPC);
	select_item(&b, 0x19);
	read_item(&b, &count, 4);
	assert_in_range(be32toh(count), 80, 96);
	for (unsigned i = 0; i < be32toh(count); i++) {
		read_item(&b, entry, sizeof(entry));
		assert_true(strcmp(last, entry + 8) < 0);
		memcpy(last, entry + 8, sizeof(last));
	}
	memset(name, 'x', 56);
	name[56] = 0;
	assert_int_equal(fwcfg_add_file(dev, name, name, 4, false), -EINVAL);
	dev->cls->destroy(dev);
	board_finish(&b);
}

static void f12_fwcfg_dma(void **state)
{
	struct board b;
	struct device *dev;
	uint8_t buf[16];
	const uint64_t *addr;
	uint32_t len = 0;

	board_init(&b, 0);
	dev = make(&b);
	assert_int_equal(board_in(&b, FWCFG_PORT + 4, 4), htobe32(0x51454d55));
	assert_int_equal(board_in(&b, FWCFG_PORT + 8, 4), htobe32(0x20434647));
	/* Select and read; skip; read past the end. */
	assert_int_equal(dma(&b, 0x20 << 16 | 0x0a, 4, 0x2000), 0);
	dma_read(&b.dma, 0x2000, buf, 4);
	assert_memory_equal(buf, table, 4);
	assert_int_equal(dma(&b, 0x04, 3, 0), 0);
	memset(buf, 0xff, sizeof(buf));
	dma_write(&b.dma, 0x2000, buf, sizeof(buf));
	assert_int_equal(dma(&b, 0x02, 10, 0x2000), 0);
	dma_read(&b.dma, 0x2000, buf, sizeof(buf));
	assert_memory_equal(buf, "\21\22\23\0\0\0\0\0\0\0\377", 11);
	/* Select only. */
	assert_int_equal(dma(&b, 0x20 << 16 | 0x08, 0, 0), 0);
	assert_int_equal(next(&b), 10);
	/* Write what may be written, and no more. */
	store_le64(buf, 0x123456789abcdef0);
	dma_write(&b.dma, 0x2000, buf, 8);
	assert_int_equal(dma(&b, 0x21 << 16 | 0x18, 8, 0x2000), 0);
	addr = fwcfg_file(dev, "etc/addr", &len);
	assert_non_null(addr);
	assert_int_equal(len, 8);
	assert_true(*addr == 0x123456789abcdef0);
	assert_int_equal(dma(&b, 0x21 << 16 | 0x18, 9, 0x2000), 1);
	assert_int_equal(dma(&b, 0x20 << 16 | 0x18, 4, 0x2000), 1);
	assert_null(fwcfg_file(dev, "etc/none", &len));
	dev->cls->destroy(dev);
	board_finish(&b);
}

static void fwcfg_hostile_dma(void **state)
{
	struct board b;
	struct device *dev;

	board_init(&b, 0);
	dev = make(&b);
	assert_int_equal(dma(&b, 0x20 << 16 | 0x0a, 10, BOARD_RAM_SIZE - 5), 1);
	assert_int_equal(dma(&b, 0x20 << 16 | 0x0a, 10, UINT64_MAX - 5), 1);
	assert_int_equal(dma(&b, 0x20 << 16 | 0x0a, UINT32_MAX, 0x2000), 1);
	assert_int_equal(dma(&b, 0x21 << 16 | 0x18, UINT32_MAX, 0x2000), 1);
	assert_int_equal(dma(&b, 0x20 << 16 | 0x0c, UINT32_MAX, 0), 0);
	assert_int_equal(next(&b), 0);
	assert_int_equal(dma(&b, 0x7777u << 16 | 0x0a, 4096, 0x2000), 0);
	/* A command nowhere. */
	board_out(&b, FWCFG_PORT + 4, 4, 0xffffffff);
	board_out(&b, FWCFG_PORT + 8, 4, 0xffffffff);
	/* A command that reads over itself. */
	assert_int_equal(dma(&b, 0x20 << 16 | 0x0a, 16, COMMAND), 0);
	for (uint32_t i = 0; i < 100000; i++)
		dma(&b, (i * 2654435761u & 0x31ffff) | i % 32, i * 40503,
		    (uint64_t)i * 7919 % (2 * BOARD_RAM_SIZE));
	dev->cls->destroy(dev);
	board_finish(&b);
}

static void fwcfg_moves_half_read(void **state)
{
	struct board a, b;
	struct device *from, *to, *other;
	const uint64_t *addr;
	uint64_t value = 77;
	uint32_t len;

	board_init(&a, 0);
	board_init(&b, 0);
	from = make(&a);
	to = make(&b);
	dma_write(&a.dma, 0x2000, &value, 8);
	assert_int_equal(dma(&a, 0x21 << 16 | 0x18, 8, 0x2000), 0);
	select_item(&a, 0x20);
	for (unsigned i = 0; i < 4; i++)
		next(&a);
	board_out(&a, FWCFG_PORT + 4, 4, 0);
	assert_int_equal(board_move(&a, from, &b, to), 0);
	for (unsigned i = 4; i < 10; i++)
		assert_int_equal(next(&b), table[i]);
	addr = fwcfg_file(to, "etc/addr", &len);
	assert_true(*addr == 77);
	to->cls->destroy(to);
	/* A machine with other files refuses it. */
	assert_int_equal(fwcfg_create(&other, &b.env, NULL), 0);
	assert_int_equal(board_move(&a, from, &b, other), -EINVAL);
	other->cls->destroy(other);
	from->cls->destroy(from);
	board_finish(&a);
	board_finish(&b);
}

static void fwcfg_survives(void **state)
{
	struct board b;
	struct device *dev;

	board_init(&b, 0);
	dev = make(&b);
	board_fuzz(&b, ranges, FUZZ_ACCESSES, 1);
	select_item(&b, 0x20);
	next(&b);
	board_corrupt(&b, dev, make, ranges);
	board_finish(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(f12_fwcfg_items),
		cmocka_unit_test(f12_fwcfg_directory_is_sorted_and_bounded),
		cmocka_unit_test(f12_fwcfg_dma),
		cmocka_unit_test(fwcfg_hostile_dma),
		cmocka_unit_test(fwcfg_moves_half_read),
		cmocka_unit_test(fwcfg_survives),
	};

	return cmocka_run_group_tests_name("fwcfg", tests, NULL, NULL);
}
