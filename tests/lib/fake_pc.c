#include "fake_pc.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "host/loop.h"

static void set_gsi(void *chip, unsigned gsi, bool level)
{
	struct fake_pc *pc = chip;

	vm_assert(gsi < ARRAY_SIZE(pc->gsi));
	__atomic_store_n(&pc->gsi[gsi], level, __ATOMIC_SEQ_CST);
}

static void send_msi(void *chip, const struct msi_msg *msg)
{
	struct fake_pc *pc = chip;

	if (msg->data >= FAKE_PC_NR_VECTORS)
		return;
	__atomic_fetch_add(&pc->nr_msi[msg->data], 1, __ATOMIC_SEQ_CST);
	sem_post(&pc->msi[msg->data]);
}

static int route_msi(void *chip, int fd, const struct msi_msg *msg)
{
	struct fake_pc *pc = chip;

	if (!pc->can_route)
		return -ENOTSUP;
	for (unsigned i = 0; i < FAKE_PC_NR_VECTORS; i++) {
		int old = fd;

		__atomic_compare_exchange_n(&pc->routed_fd[i], &old, -1, false,
					    __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
	}
	if (msg && msg->data < FAKE_PC_NR_VECTORS)
		__atomic_store_n(&pc->routed_fd[msg->data], fd,
				 __ATOMIC_SEQ_CST);
	return 0;
}

static const struct irqchip_ops chip_ops = {
	.set_gsi = set_gsi,
	.send_msi = send_msi,
	.route_msi = route_msi,
};

static int64_t no_time(void *opaque)
{
	return 0;
}

static void no_arm(void *opaque, int64_t host_ns)
{
}

static uint64_t no_tsc(void *opaque)
{
	return 0;
}

void fake_pc_init(struct fake_pc *pc)
{
	static const struct vclock_host host = { .now = no_time,
						 .arm = no_arm,
						 .tsc = no_tsc };
	struct pci_host bridge;
	int ret;

	*pc = (struct fake_pc){ 0 };
	for (unsigned i = 0; i < FAKE_PC_NR_VECTORS; i++) {
		sem_init(&pc->msi[i], 0, 0);
		pc->routed_fd[i] = -1;
	}
	gmem_init(&pc->mem);
	ret = gmem_add(&pc->mem, "ram", 0, FAKE_PC_RAM_SIZE, 0, NULL);
	vm_assert(!ret);
	/* A region of its own right behind: buffers can cross. */
	ret = gmem_add(&pc->mem, "ram2", FAKE_PC_RAM_SIZE, 1 * MiB, 0, NULL);
	vm_assert(!ret);
	ret = gmem_add(&pc->mem, "rom", FAKE_PC_ROM, 64 * KiB, GMEM_RO, NULL);
	vm_assert(!ret);
	ret = gmem_add(&pc->mem, "high", FAKE_PC_HIGH_RAM, FAKE_PC_HIGH_SIZE, 0,
		       NULL);
	vm_assert(!ret);
	pc->dma.mem = &pc->mem;
	pc->pio = bus_create("pio", true);
	pc->mmio = bus_create("mmio", false);
	vm_assert(pc->pio && pc->mmio);
	pc->irqchip = (struct irqchip){ .ops = &chip_ops, .chip = pc };
	bridge = (struct pci_host){
		.pio = pc->pio,
		.mmio = pc->mmio,
		.dma = &pc->dma,
		.irqchip = &pc->irqchip,
		.ecam_base = FAKE_PC_ECAM,
		.nr_buses = 16,
		.intx_gsi = { 16, 17, 18, 19 },
	};
	ret = pci_host_create(&pc->pci, &bridge, NULL);
	vm_assert(!ret);
	ret = loop_thread_create(&pc->loop, "main", NULL);
	vm_assert(!ret);
	stats_init(&pc->stats);
	pc->env = (struct device_env){
		.pio = pc->pio,
		.mmio = pc->mmio,
		.clock = vclock_create(&host, 1000000),
		.irqchip = &pc->irqchip,
		.dma = &pc->dma,
		.pci = pc->pci,
		.loop = pc->loop,
		.stats = &pc->stats,
		.nr_cpus = 2,
	};
	vm_assert(pc->env.clock);
}

void fake_pc_finish(struct fake_pc *pc)
{
	loop_thread_destroy(pc->loop);
	pci_host_destroy(pc->pci);
	bus_destroy(pc->pio);
	bus_destroy(pc->mmio);
	vclock_destroy(pc->env.clock);
	gmem_finish(&pc->mem);
	for (unsigned i = 0; i < FAKE_PC_NR_VECTORS; i++)
		sem_destroy(&pc->msi[i]);
}

struct device *fake_pc_add(struct fake_pc *pc, const struct device_class *cls,
			   const char *options)
{
	void *opts = calloc(1, cls->opts_size + 1);
	struct err err = { 0 };
	struct device *dev;
	int ret = 0;

	vm_assert(opts);
	if (cls->opts)
		ret = opt_defaults(cls->opts, opts, &err);
	if (!ret && cls->opts)
		ret = opt_parse(cls->opts, cls->name, options, opts, &err);
	if (!ret)
		ret = cls->create(&dev, &pc->env, opts, &err);
	if (ret)
		err_print(&err);
	vm_assert(!ret);
	if (cls->opts)
		opt_free(cls->opts, opts);
	free(opts);
	return dev;
}

void fake_pc_assign(struct fake_pc *pc)
{
	const struct pci_windows windows = {
		.mmio32 = FAKE_PC_WINDOW,
		.mmio32_size = 256 * MiB,
		.mmio64 = FAKE_PC_WINDOW64,
		.mmio64_size = 4 * GiB,
		.pio = 0xc000,
		.pio_size = 0x1000,
	};
	int ret = pci_assign(pc->pci, &windows, NULL);

	vm_assert(!ret);
}

uint64_t fake_pc_msi_count(struct fake_pc *pc, unsigned data)
{
	return __atomic_load_n(&pc->nr_msi[data], __ATOMIC_SEQ_CST);
}

bool fake_pc_msi_wait(struct fake_pc *pc, unsigned data, unsigned ms)
{
	struct timespec end;
	int ret;

	clock_gettime(CLOCK_REALTIME, &end);
	end.tv_nsec += (long)(ms % 1000) * 1000000;
	end.tv_sec += ms / 1000 + end.tv_nsec / 1000000000;
	end.tv_nsec %= 1000000000;
	do
		ret = sem_timedwait(&pc->msi[data], &end);
	while (ret && errno == EINTR);
	return !ret;
}
