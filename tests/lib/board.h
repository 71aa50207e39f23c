/*
 * A board to put one chip on: buses, memory, wires that only remember, and a
 * clock that the test moves. Everything runs on the test's thread.
 */
#ifndef TESTS_LIB_BOARD_H
#define TESTS_LIB_BOARD_H

#include "device/device.h"
#include "state/stream.h"

#define BOARD_RAM_SIZE (1 * MiB)
#define BOARD_TSC_KHZ  2000000
#define BOARD_NR_GSIS  64

/** The board. */
struct board {
	int64_t host_ns, armed_ns;
	struct gmem mem;
	struct dma_space dma;
	struct bus *pio, *mmio;
	struct irqchip irqchip;
	struct device_env env;
	bool level[BOARD_NR_GSIS];
	unsigned rises[BOARD_NR_GSIS];
	unsigned nr_msi;
	struct msi_msg msi; /* the last one */
	unsigned nr_events;
	enum machine_event event; /* the last one */
	int event_value;
};

/** Make one whose clock runs; host time starts at (host_ns). */
void board_init(struct board *b, int64_t host_ns);
void board_finish(struct board *b);

/** A wire that shows in (level) and (rises). */
struct irq_line board_line(struct board *b, unsigned n);

/** Let (ns) pass, with all timers on their way. */
void board_run(struct board *b, int64_t ns);

/** Port access of CPU 0. */
uint64_t board_in(struct board *b, uint16_t port, unsigned size);
void board_out(struct board *b, uint16_t port, unsigned size, uint64_t value);

/** Stop the clock of (from), move it and the device to (to_dev), which is fresh
 * and on the board (to), and let that run. 0, or why it would not load. */
int board_move(struct board *from, struct device *from_dev, struct board *to,
	       struct device *to_dev);

/** A range of registers, for the two below. */
struct board_range {
	bool is_mmio;
	uint64_t base, len;
};

/** (nr) random accesses of all sizes to (ranges), which end with one of length
 * zero, by CPUs 0 to 3, with time passing in between. */
void board_fuzz(struct board *b, const struct board_range *ranges, unsigned nr,
		unsigned seed);

/**
 * Save (dev), then load the image with every byte changed in turn, in several
 * ways, into fresh devices from (make), on the same board after (dev) was
 * destroyed: each is refused, or the device survives 1,000 random accesses.
 */
void board_corrupt(struct board *b, struct device *dev,
		   struct device *(*make)(struct board *b),
		   const struct board_range *ranges);

#endif
