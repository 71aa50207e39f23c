/*
 * The interrupt controllers with a thread for each CPU, which sleeps until it
 * is woken as a halted CPU does. A lost wake-up or interrupt stops everything.
 */
#include "chip_test.h"

#include <pthread.h>
#include <semaphore.h>
#include <time.h>

#include "device/chip/ioapic.h"
#include "device/chip/irqchip.h"

#define NR_CPUS 4
#define ROUNDS  20000

#define TOKEN   0x40 /* an IPI that goes around */
#define LEVEL   0x50 /* a level-triggered pin of CPU 0 */
#define EDGE    0x60 /* messages to CPU 1 */
#define STOP    0xf0

struct cpu {
	struct machine *m;
	unsigned index;
	struct intc intc;
	sem_t wake;
	pthread_t thread;
	unsigned nr_tokens;
	bool is_lost;
};

struct machine {
	struct board b;
	struct device *dev;
	struct irqchip irqchip;
	struct cpu cpu[NR_CPUS];
	sem_t level_served, edge_served;
};

static void cpu_signal(void *opaque, enum cpu_signal s, uint8_t vector)
{
	struct cpu *cpu = opaque;

	if (s == CPU_WAKE)
		sem_post(&cpu->wake);
}

static bool wait_for(sem_t *sem)
{
	struct timespec end;

	clock_gettime(CLOCK_REALTIME, &end);
	end.tv_sec += 20;
	return sem_timedwait(sem, &end) == 0;
}

static void serve(struct cpu *cpu, int vector)
{
	struct machine *m = cpu->m;

	if (vector == TOKEN &&
	    __atomic_add_fetch(&cpu->nr_tokens, 1, __ATOMIC_RELAXED) < ROUNDS)
		cpu->intc.ops->send_ipi(cpu->intc.dev,
					(cpu->index + 1) % NR_CPUS, TOKEN);
	if (vector == LEVEL)
		m->irqchip.ops->set_gsi(m->irqchip.chip, 16, false);
	cpu->intc.ops->eoi(cpu->intc.dev);
	if (vector == LEVEL)
		sem_post(&m->level_served);
	if (vector == EDGE)
		sem_post(&m->edge_served);
}

static void *cpu_main(void *opaque)
{
	struct cpu *cpu = opaque;
	int vector = 0;

	while (vector != STOP) {
		while (cpu->intc.ops->pending(cpu->intc.dev) < 0) {
			if (!wait_for(&cpu->wake)) {
				__atomic_store_n(&cpu->is_lost, true,
						 __ATOMIC_RELAXED);
				return NULL;
			}
		}
		vector = cpu->intc.ops->acknowledge(cpu->intc.dev);
		if (vector >= 0)
			serve(cpu, vector);
	}
	return NULL;
}

static void send_msi(struct machine *m, unsigned cpu, uint32_t data)
{
	const struct msi_msg msg = { .addr = 0xfee00000 | cpu << 12,
				     .data = data };

	m->irqchip.ops->send_msi(m->irqchip.chip, &msg);
}

static void *edge_main(void *opaque)
{
	struct machine *m = opaque;

	for (unsigned i = 0; i < ROUNDS; i++) {
		send_msi(m, 1, EDGE);
		if (!wait_for(&m->edge_served))
			return m;
	}
	return NULL;
}

static void *level_main(void *opaque)
{
	struct machine *m = opaque;

	for (unsigned i = 0; i < ROUNDS; i++) {
		m->irqchip.ops->set_gsi(m->irqchip.chip, 16, true);
		if (!wait_for(&m->level_served))
			return m;
	}
	return NULL;
}

static void machine_init(struct machine *m)
{
	static const uint32_t ids[NR_CPUS] = { 0, 1, 2, 3 };
	const struct irqchip_opts opts = { .nr_cpus = NR_CPUS,
					   .apic_ids = ids };

	*m = (struct machine){ .dev = NULL };
	board_init(&m->b, 0);
	assert_int_equal(irqchip_create(&m->dev, &m->b.env, &opts, NULL), 0);
	m->irqchip = irqchip_get(m->dev);
	sem_init(&m->level_served, 0, 0);
	sem_init(&m->edge_served, 0, 0);
	for (unsigned i = 0; i < NR_CPUS; i++) {
		struct cpu *cpu = &m->cpu[i];

		cpu->m = m;
		cpu->index = i;
		sem_init(&cpu->wake, 0, 0);
		cpu->intc = irqchip_connect(
			m->dev, i,
			(struct cpu_port){ .signal = cpu_signal, .cpu = cpu });
		bus_write(m->b.mmio, i, 0xfee000f0, 4, 0x1ff);
	}
	bus_write(m->b.mmio, 0, IOAPIC_BASE, 4, 0x10 + 2 * 16);
	bus_write(m->b.mmio, 0, IOAPIC_BASE + 0x10, 4, 0x8000 | LEVEL);
}

static void c14_no_interrupt_is_lost(void **state)
{
	struct machine m;
	pthread_t level, edge;
	void *level_lost, *edge_lost;

	machine_init(&m);
	for (unsigned i = 0; i < NR_CPUS; i++)
		pthread_create(&m.cpu[i].thread, NULL, cpu_main, &m.cpu[i]);
	pthread_create(&level, NULL, level_main, &m);
	pthread_create(&edge, NULL, edge_main, &m);
	send_msi(&m, 0, TOKEN);
	pthread_join(level, &level_lost);
	pthread_join(edge, &edge_lost);
	assert_null(level_lost);
	assert_null(edge_lost);
	for (;;) {
		/* The token stops at the first CPU that has seen them all. */
		unsigned nr =
			__atomic_load_n(&m.cpu[0].nr_tokens, __ATOMIC_RELAXED);
		bool is_lost = false;

		for (unsigned i = 0; i < NR_CPUS; i++)
			is_lost |= __atomic_load_n(&m.cpu[i].is_lost,
						   __ATOMIC_RELAXED);
		if (nr == ROUNDS || is_lost)
			break;
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
	}
	send_msi(&m, 0xff, STOP);
	for (unsigned i = 0; i < NR_CPUS; i++) {
		pthread_join(m.cpu[i].thread, NULL);
		assert_false(m.cpu[i].is_lost);
		assert_in_range(m.cpu[i].nr_tokens, ROUNDS - 1, ROUNDS);
	}
	m.dev->cls->destroy(m.dev);
	board_finish(&m.b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(c14_no_interrupt_is_lost),
	};

	return cmocka_run_group_tests_name("irqchip_smp", tests, NULL, NULL);
}
