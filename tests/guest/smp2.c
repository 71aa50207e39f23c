/* Memory between two CPUs: locked instructions are exact, and no outcome is
 * seen that the x86 memory model forbids (A19). */
#include "lib/pc.h"

#define ROUNDS 4000
#define LITMUS 8000

static volatile unsigned ap_step, bsp_step;
static void (*volatile job)(unsigned me);

/* Each alone in its line, but for what is to share one. */
static struct {
	volatile uint64_t v __attribute__((aligned(128)));
} word[8];
static volatile uint8_t bytes[64] __attribute__((aligned(64)));
static volatile uint64_t wide[2] __attribute__((aligned(16)));
static uint8_t split_area[8192 + 64] __attribute__((aligned(4096)));

/* Both CPUs run (fn) at once; back when both have. */
static void ap_worker(void)
{
	for (;;) {
		unsigned step = ap_step + 1;

		while (bsp_step != step)
			__asm__ volatile("pause");
		job(1);
		ap_step = step;
	}
}

static void both(void (*fn)(unsigned me))
{
	job = fn;
	bsp_step++;
	fn(0);
	while (ap_step != bsp_step)
		__asm__ volatile("pause");
}

/* ---- locked instructions --------------------------------------------------------- */

static void do_inc(unsigned me)
{
	for (unsigned i = 0; i < ROUNDS; i++) {
		__asm__ volatile("lock incq %0" : "+m"(word[0].v)::"cc");
		__asm__ volatile("lock addl $3, %0" : "+m"(word[1].v)::"cc");
		__asm__ volatile("lock decw %0" : "+m"(word[2].v)::"cc");
		__asm__ volatile("lock incb %0" : "+m"(bytes[me])::"cc");
	}
}

static volatile uint64_t xadd_sum[2];

static void do_xadd(unsigned me)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < ROUNDS; i++) {
		uint64_t v = 1;

		__asm__ volatile("lock xaddq %0, %1"
				 : "+r"(v), "+m"(word[0].v)::"cc");
		sum += v;
	}
	xadd_sum[me] = sum;
}

static void do_cmpxchg(unsigned me)
{
	for (unsigned i = 0; i < ROUNDS; i++) {
		uint64_t old = word[0].v;
		bool good;

		do
			__asm__ volatile("lock cmpxchgq %3, %1; sete %2"
					 : "+a"(old), "+m"(word[0].v),
					   "=q"(good)
					 : "r"(old + 1)
					 : "cc");
		while (!good);
	}
}

static void do_cmpxchg16b(unsigned me)
{
	for (unsigned i = 0; i < ROUNDS; i++) {
		uint64_t lo = wide[0], hi = wide[1];
		bool good;

		do
			__asm__ volatile("lock cmpxchg16b %2; sete %3"
					 : "+a"(lo), "+d"(hi), "+m"(wide),
					   "=&q"(good)
					 : "b"(lo + 1), "c"(hi + 3)
					 : "cc");
		while (!good);
	}
}

static volatile uint32_t lock_word;

static void do_spinlock(unsigned me)
{
	for (unsigned i = 0; i < ROUNDS; i++) {
		uint32_t v = 1;

		for (;;) {
			__asm__ volatile("xchgl %0, %1"
					 : "+r"(v), "+m"(lock_word)::"memory");
			if (!v)
				break;
			__asm__ volatile("pause");
		}
		word[0].v++; /* plain, under the lock */
		word[1].v = word[0].v;
		lock_word = 0;
	}
}

static void do_bits(unsigned me)
{
	/* One CPU's bits are even, the other's odd; each flips 125 times. */
	for (unsigned i = 0; i < ROUNDS; i++)
		__asm__ volatile("lock btcq %1, %0"
				 : "+m"(word[0].v)
				 : "r"((uint64_t)(2 * (i % 32) + me))
				 : "cc");
}

static void do_split(unsigned me)
{
	volatile uint32_t *line = (void *)(split_area + 62);
	volatile uint64_t *page = (void *)(split_area + 4093);

	for (unsigned i = 0; i < 1000; i++) {
		__asm__ volatile("lock incl %0" : "+m"(*line)::"cc");
		__asm__ volatile("lock incq %0" : "+m"(*page)::"cc");
	}
}

/* Plain stores to neighbouring bytes never disturb each other. */
static void do_neighbours(unsigned me)
{
	for (unsigned i = 0; i < ROUNDS; i++) {
		bytes[8 + me] = (uint8_t)i;
		if (bytes[8 + me] != (uint8_t)i)
			word[3].v++;
	}
}

static void test_locked(void)
{
	both(do_inc);
	ok(word[0].v == 2 * ROUNDS, "a19_lock_inc_is_exact (%lu)", word[0].v);
	ok(word[1].v == 6 * ROUNDS, "a19_lock_add_is_exact");
	ok((uint16_t)(word[2].v + 2 * ROUNDS) == 0, "a19_lock_dec_is_exact");
	ok(bytes[0] == (uint8_t)ROUNDS && bytes[1] == (uint8_t)ROUNDS,
	   "a19_locked_neighbours_are_exact");
	word[0].v = 0;
	both(do_xadd);
	ok(xadd_sum[0] + xadd_sum[1] == (uint64_t)ROUNDS * (2 * ROUNDS - 1),
	   "a19_lock_xadd_gives_each_value_once");
	word[0].v = 0;
	both(do_cmpxchg);
	ok(word[0].v == 2 * ROUNDS, "a19_lock_cmpxchg_is_exact");
	both(do_cmpxchg16b);
	ok(wide[0] == 2 * ROUNDS && wide[1] == 6 * ROUNDS,
	   "a19_lock_cmpxchg16b_is_exact");
	word[0].v = 0;
	both(do_spinlock);
	ok(word[0].v == 2 * ROUNDS && word[1].v == 2 * ROUNDS,
	   "a19_xchg_makes_a_spinlock");
	word[0].v = 0;
	both(do_bits);
	ok(word[0].v == ~0ULL, "a19_lock_btc_is_exact");
	both(do_split);
	ok(*(uint32_t *)(void *)(split_area + 62) == 2000,
	   "a19_locked_across_lines_is_exact");
	ok(*(uint64_t *)(void *)(split_area + 4093) == 2000,
	   "a19_locked_across_pages_is_exact");
	both(do_neighbours);
	ok(word[3].v == 0, "a19_neighbouring_bytes_are_apart");
}

/* ---- litmus tests (SDM volume 3, 8.2.3) -------------------------------------------- */

static volatile unsigned at[2];
static volatile uint64_t result[4];

/* Meet the other CPU, as exactly as a shared counter can. */
static void meet(unsigned me, unsigned round)
{
	at[me] = round;
	__asm__ volatile("mfence" ::: "memory");
	while (at[!me] < round)
		;
}

static void do_message(unsigned me)
{
	for (unsigned i = 1; i <= LITMUS; i++) {
		if (!me) {
			word[0].v = i;
			word[1].v = i;
		} else {
			uint64_t flag = word[1].v, data = word[0].v;

			if (data < flag)
				result[0]++;
		}
		if (i % 64 == 0)
			meet(me, i);
	}
}

static void do_store_buffer(unsigned me)
{
	for (unsigned i = 1; i <= LITMUS / 8; i++) {
		meet(me, 3 * i);
		word[me].v = i;
		__asm__ volatile("mfence" ::: "memory");
		result[me] = word[!me].v;
		meet(me, 3 * i + 1);
		if (!me && result[0] != i && result[1] != i)
			result[2]++;
		meet(me, 3 * i + 2);
	}
}

static void do_store_buffer_xchg(unsigned me)
{
	for (unsigned i = 1; i <= LITMUS / 8; i++) {
		uint64_t v = i;

		meet(me, 3 * i);
		__asm__ volatile("xchgq %0, %1"
				 : "+r"(v), "+m"(word[me].v)::"memory");
		result[me] = word[!me].v;
		meet(me, 3 * i + 1);
		if (!me && result[0] != i && result[1] != i)
			result[2]++;
		meet(me, 3 * i + 2);
	}
}

static void do_load_buffer(unsigned me)
{
	for (unsigned i = 1; i <= LITMUS / 8; i++) {
		meet(me, 3 * i);
		result[me] = word[!me].v;
		word[me].v = i;
		meet(me, 3 * i + 1);
		if (!me && result[0] == i && result[1] == i)
			result[2]++;
		meet(me, 3 * i + 2);
	}
}

/* A 64-bit load sees a 64-bit store whole, wherever in a line. */
static void do_tear(unsigned me)
{
	volatile uint64_t *p = (void *)(split_area + 3);
	uint64_t v = 0;

	for (unsigned i = 0; i < LITMUS; i++) {
		if (!me) {
			*p = v;
			v = ~v;
		} else {
			uint64_t got = *p;

			if (got && ~got)
				result[0]++;
		}
	}
}

static void litmus(void (*fn)(unsigned me), unsigned which, const char *name)
{
	word[0].v = word[1].v = 0;
	at[0] = at[1] = 0;
	result[0] = result[1] = result[2] = 0;
	both(fn);
	ok(result[which] == 0, "a19_%s (%lu)", name, result[which]);
}

void guest_main(void)
{
	pic_init(0x20);
	apic_write(APIC_SVR, 0x1ff);
	if (!ok(cpu_start(1, ap_worker), "a19_a_second_cpu"))
		return;
	test_locked();
	litmus(do_message, 0, "stores_are_seen_in_order");
	litmus(do_store_buffer, 2, "mfence_orders_a_store_before_a_load");
	litmus(do_store_buffer_xchg, 2, "xchg_orders_a_store_before_a_load");
	litmus(do_load_buffer, 2, "loads_are_not_reordered_with_later_stores");
	memset(split_area, 0, 64);
	litmus(do_tear, 0, "eight_bytes_in_a_line_are_whole");
}
