/*
 * The binary translator's own state and the contracts between its files; how
 * it works is told in docs/translator.md.
 *
 *   bt.c         accel_ops, the run loop
 *   translate.c  guest code to blocks of host code, instruction by instruction
 *   copy.c       instructions that stay, with other operands
 *   flow.c       branches, the stack, ways out of a block
 *   system.c     privileged and special instructions
 *   run.c        instructions that share a lookup
 *   operand.c    where registers and memory are
 *   emit.c       host instructions as bytes
 *   block.c      code pages, blocks, links between them, invalidation
 *   peers.c      what the CPUs of a machine do to each other
 *   table.c      the flat tables that stand for the guest's page tables
 *   gate.c       ways between translated code and C
 *   fault.c      signals that hit translated code
 *   check.c      lockstep with interp, to find wrong translations
 *   trace.c      blocks written down for people
 *   sample.c     where time goes
 *
 * Registers in translated code. A guest register lives in the host's of the
 * same name, but for these:
 *
 *     host  holds                     guest      lives in
 *     rsp   struct bt; C's stack      rsp        r10
 *           is below it               rcx        r9
 *                                     r8 to r11  memory: cpu->s.gpr[]
 *     rcx   scratch, for JRCXZ        flags      status flags in the host's,
 *     r8    scratch: addresses                   the others in cpu->s.rflags
 *     r11   base of the table of the current privilege and address space
 *
 * So between two guest instructions all state is where struct cpu says, or in
 * the register that stands for it: there is nothing to unwind.
 */
#ifndef VCPU_BT_BT_H
#define VCPU_BT_BT_H

#include <stdio.h>
#include <time.h>
#include <ucontext.h>

#include "vcpu/interp/cpu.h"
#include "vcpu/interp/uop.h"

#define BT_MAX_SPACES TLB_SPACES

/* ---- table.c --------------------------------------------------------------- */

/** What an entry is for; tables of the three kinds are KIND_SIZE apart. */
enum table_kind { KIND_READ, KIND_WRITE, KIND_EXEC, NR_KINDS };

#define KIND_SIZE  (1ULL << 39)
#define HALF_SIZE  (1ULL << 38)
#define TABLE_SIZE (6 * KIND_SIZE) /* four of them for execution */

/** Each needs two tables at least, of an address space of 128 TiB. */
#define BT_MAX_CPUS 20

/** Pages of entries in use, by a key of kind and number; see table.c. */
#define TOUCHED_BITS 12
struct touched {
	unsigned nr;
	unsigned nr_ever; /* pages that may hold memory */
	uint32_t keys[1 << TOUCHED_BITS];
};

/** The flat tables of one CPU. */
struct tables {
	uint8_t *base; /* of all: one for each space, then the system's */
	unsigned nr_spaces, space; /* current */
	int high_fd;
	uint8_t *high;           /* the upper half, as memory of its own */
	struct touched *touched; /* of spaces, the system's, the upper half */
	/* For each page of memory, where it is entered as writable, once at
	 * most: its gva, and in the low bits which table + 1. Others read it.
	 */
	uint64_t *writer;
	uint64_t nr_fills, nr_flushes;
};

/* ---- block.c --------------------------------------------------------------- */

/** What translated code depends on beside its bytes. */
enum code_key {
	KEY_USER = 1 << 0, /* CPL 3 */
	KEY_X87 = 1 << 1,  /* CR0.EM and TS clear */
	KEY_SSE = 1 << 2,  /* ... and CR4.OSFXSR set */
	KEY_AVX = 1 << 3,  /* ... and XCR0 allows it */
	KEY_AVX512 = 1 << 4,
	KEY_TSC = 1 << 5,  /* RDTSC is allowed */
	KEY_SMAP = 1 << 6, /* CR4.SMAP */
	KEY_FSGS = 1 << 7, /* CR4.FSGSBASE */
};

#define CODE_ENTRIES PAGE_SIZE

/** A page of guest memory that code was translated from, for one key. */
struct code_page {
	const uint8_t *hva;
	uint64_t gpa;
	uint64_t gva;    /* the only one it runs at, of a kernel's; or 0 */
	uint32_t *entry; /* host address for each byte, or the gate that finds
			  * one */
	uint32_t next;   /* in the same bucket; numbers + 1 */
	uint32_t blocks; /* its blocks, number + 1 */
	uint32_t straddlers; /* those whose instruction ends in it */
	uint8_t key;
	unsigned nr_writes; /* to it since the last block was made */
	uint64_t misaligned[PAGE_SIZE / 64]; /* instructions seen to be */
};

/** A piece of translated code. */
struct tblock {
	uint32_t host, host_end;
	uint32_t page;  /* code page */
	uint32_t insns; /* first of (nr_insns) struct side */
	uint32_t next;  /* of the page, number + 1 */
	uint32_t page2; /* of its end, if it straddles, number + 1 */
	uint32_t next2; /* of (page2)'s straddlers, number + 1 */
	uint32_t links; /* that lead here, number + 1 */
	uint16_t off;   /* in the page */
	uint16_t len;   /* of the guest's bytes */
	uint16_t nr_insns;
	uint16_t entry_len; /* of the part for indirect entry */
	bool is_dead;
	/* For check.c: one instruction, which is not compared; there are some
	 * with FPU state. */
	bool is_alone, has_fpu;
};

/** One guest instruction in a block: from (start) to (commit), host offsets,
 * nothing that the guest could see has changed. */
struct side {
	uint16_t start, commit;
	uint16_t off : 12;    /* in the page */
	uint16_t no_kick : 1; /* no interrupt before it */
	uint16_t mid_run : 1; /* r8 has something for it: see run.c */
};

/** A branch to a known place, in the same page, or from one kernel page to
 * another. */
struct link {
	uint32_t site;  /* host address of its rel32 */
	uint32_t stub;  /* where that leads while it is open */
	uint32_t block; /* it is in */
	uint32_t next;  /* that leads to the same block, number + 1 */
	int32_t target; /* offset from the start of the page */
	bool is_closed;
};

/** An instruction that runs by interp's handler. */
struct callout {
	struct uop uop;
	struct slow_insn slow;
	uint16_t off;
	uint16_t op;
	uint8_t len;
	bool is_branch;
};

/** All translated code of one CPU. When anything is full all goes. */
struct code {
	uint8_t *rw, *rx;           /* the same memory; rx is below 4 GiB */
	uint32_t size, used, first; /* (first): behind the gates */
	uint32_t *entries;
	struct code_page *pages;
	struct tblock *blocks;
	struct side *sides;
	struct link *links;
	struct callout *callouts;
	unsigned nr_pages, nr_blocks, nr_sides, nr_links, nr_callouts;
	uint32_t buckets[1 << 14];
	unsigned generation; /* grows when code goes away */
	bool is_busy;        /* it must not go away now, nor any hold */
};

/* ---- peers.c -------------------------------------------------------------- */

#define MAX_MAILS 1024

/** To a CPU: (len) bytes at (gpa) changed; or with 0, its page must not be
 * written any more without telling. */
struct mail {
	uint64_t gpa, len;
};

/** A CPU as the others see it. */
struct peer {
	pthread_mutex_t lock;
	struct bt *bt; /* NULL: not there */
	pthread_t thread;
	bool is_running; /* in run(): reads its mails by itself */
	bool is_full;    /* some were lost: everything may have changed */
	unsigned nr;
	struct mail mails[MAX_MAILS];
	uint64_t nr_posted, nr_handled;
	uint64_t *writer; /* as in struct tables */
};

/** What the CPUs of a machine share: (gmem->code_opaque). */
struct bt_vm {
	struct vcpus *vs;
	uint64_t nr_pages;    /* code beyond them is not translated */
	uint64_t *holders;    /* for each page, which CPUs have code of it */
	pthread_mutex_t lock; /* (holders) and GMEM_PAGE_CODE, which agree */
	struct peer peers[MAX_VCPUS];
};

/* ---- All ---------------------------------------------------------------------- */

/** Ways out of translated code; see gate.c. */
enum gate {
	GATE_MISS_READ,
	GATE_MISS_WRITE,
	GATE_CALLOUT,
	GATE_JUMP,
	GATE_LINK,
	GATE_FAULT,
	GATE_KICK,
	GATE_STRADDLE,
	GATE_STEP,
	NR_GATES
};

/** Counters, in the statistics as they are called here. */
struct bt_stats {
	uint64_t blocks, insns, bytes, resets, lookups, misses, links;
	uint64_t callouts, faults, kicks, invalidated, page_drops, steps;
	uint64_t misaligned, mails, mails_lost, waits;
	uint64_t fault_targets, page_ends, steps_raised;
	uint64_t checked, unchecked, check_retries;
	/* Where time goes, by samples; see sample.c. */
	uint64_t samples_user, samples_kernel, samples_vmm;
};

/** A timer of the CPU's thread; see sample.c. */
struct sampler {
	timer_t timer;
	int tid; /* it is for; 0: none */
};

/** A CPU that translates: (vcpu->accel). RSP points to it while translated
 * code runs. */
struct bt {
	/* What translated code reads most, in reach of a short displacement */
	uint64_t table;          /* for r11 */
	uint64_t exec_table;     /* where KIND_EXEC starts */
	uint64_t page;           /* gva of the page that runs */
	uint64_t page_masks[2];  /* PEXT: the page's number; user, supervisor */
	uint64_t exec_masks[2];  /* ... and bits 62, 63 in front of it */
	uint64_t align_masks[4]; /* PDEP: by log2 of the size, to bits 60... */
	uint64_t tmp;
	uint64_t offset_mask, three_bits; /* 0xfff, 7 */
	struct cpu cpu;

	/* The rest of that, and what it leaves for a gate */
	uint64_t rcx, r8;
	uint64_t flags;  /* AH and AL as LAHF and SETO leave them */
	uint64_t resume; /* host address to go on at */
	uint64_t host_rsp;
	uint64_t near_masks[PAGE_SHIFT]; /* bits 11 to n: see tr_run_start() */
	uint64_t bit_masks[2];           /* of bit numbers: 31, 63 */
	uint64_t status_flags, other_flags; /* as PUSHF shows them */
	uint64_t no_if, no_ac;              /* all flags but one */
	uint64_t table_ac[2];   /* (table) for supervisor code, by RFLAGS.AC */
	bool recheck;           /* kernel code may be mapped differently now */
	bool access_ac;         /* what AC was when cpu_update_access() ran */
	volatile uint32_t kick; /* a signal asked for a way out */
	bool is_stepping;       /* by the host's TF, on the way out */

	struct bt_vm *vm;
	struct tables tables;
	struct code code;
	uint32_t gate[NR_GATES]; /* host addresses */
	uint32_t gates_restore, gates_restore_end, gate_enter, gate_leave;
	uint32_t gate_find; /* for bytes where no block starts */
	uint32_t code_key;
	struct bt_stats stats;
	uint64_t callout_counts[NR_OPS];
	struct sampler sampler;
	struct check *check; /* check.c; NULL: off */
	FILE *trace;         /* trace.c; NULL: off */
	uint8_t *stack;      /* that ends at this structure */
};

#define BT_OFF(field) ((int)offsetof(struct bt, field))

static inline struct bt *bt_of(struct cpu *cpu)
{
	return (struct bt *)((uintptr_t)cpu - offsetof(struct bt, cpu));
}

/** Reserve the tables. 0 or -errno. */
int tables_create(struct bt *bt, struct err *err);
/** The same for one that tables_create() did not complete. */
void tables_destroy(struct bt *bt);
extern const struct tlb_mirror tables_mirror;
/** The exec entry that a jump to (gva), which is canonical and not beyond this
 * privilege, looks at. */
const uint64_t *tables_exec_entry(struct bt *bt, uint64_t gva);
/** Let jumps to the page of (gva) find (entries), an exec entry. */
void tables_enter_exec(struct bt *bt, uint64_t gva, uint64_t entry);
/** Forget all exec entries; or those that lead to (entries). */
void tables_flush_exec(struct bt *bt);
/** No entry lets (gpa)'s page be written any more. */
void tables_revoke(struct bt *bt, uint64_t gpa);

/** Reserve memory for translated code and what is known of it. 0 or -errno. */
int code_create(struct bt *bt, struct err *err);
/** Give it back, also what code_create() did not complete. */
void code_destroy(struct bt *bt);
/** The host address for RIP, cpu->s.rip: made if need be; bt->page is set. 0:
 * this instruction cannot be translated. Raises what fetching does. */
uint32_t code_lookup(struct bt *bt);
/** Close the link number (link), having come from there. As code_lookup(). */
uint32_t code_follow(struct bt *bt, uint32_t link);
/** Where is the host address (pc)? NULL: not in a block. (insn), if given, is
 * the number of the instruction; the last one's for what is behind them. */
struct tblock *code_find(struct bt *bt, uint32_t pc, unsigned *insn);
/** Translate (b) anew when it is next reached. */
void code_drop(struct bt *bt, struct tblock *b);
/** Bytes of guest memory changed. */
void code_written(struct bt *bt, uint64_t gpa, uint64_t len);
/** Are kernel pages that have code still where they were? If not, forget all.
 * To be called when (recheck) is set, before guest code runs. */
void code_recheck(struct bt *bt);
/** Forget all translations. */
void code_reset(struct bt *bt);
/** The instruction at (off) of (page) is not aligned as was assumed: translate
 * it differently from now on. */
void code_misaligned(struct bt *bt, struct code_page *page, uint16_t off);
/** Recompute (code_key) from the state. */
void code_update_key(struct bt *bt);

/** The code page at (hva), made if it is new; and as far as blocks of it are
 * concerned, protected from unnoticed stores. */
struct code_page *code_page_get(struct bt *bt, const uint8_t *hva,
				uint64_t gva);
void code_page_protect(struct bt *bt, struct code_page *page);
/** The bytes of instruction (n) of (b); returns how many there are. */
unsigned code_bytes(struct bt *bt, const struct tblock *b, unsigned n,
		    uint8_t bytes[INSN_MAX_LEN]);

/** Translate what is at (off) of code page (page), RIP. NULL: impossible.
 * Raises what fetching does. */
struct tblock *translate_block(struct bt *bt, uint32_t page, uint16_t off);

/** Write the gates to the start of the code memory. */
void gates_create(struct bt *bt);
/** Run translated code from (host) until something is to be done in C. */
void gate_enter(struct bt *bt, uint32_t host);

/** New code was written through another address than it runs from, or by
 * another thread (SDM volume 3, 8.1.3). */
void code_serialize(void);

/** Make and free what the CPUs share. */
int peers_create(struct vcpus *vs, struct err *err);
void peers_destroy(struct vcpus *vs);
/** Make what others see of (bt); it is freed with the machine. From open to
 * close they may use (bt). */
int peer_create(struct bt *bt, struct err *err);
void peer_open(struct bt *bt);
void peer_close(struct bt *bt);
/** At the start and the end of run(). */
void peer_enter(struct bt *bt);
void peer_leave(struct bt *bt);
/** Keep others away from (bt), which is not in run(). */
void peer_lock(struct bt *bt);
void peer_unlock(struct bt *bt);
/** accel_ops.kick */
void peer_kick(struct vcpu *vcpu);
/** Between two instructions: do what others ask for. */
void peer_read_mail(struct bt *bt);
/** This CPU has code of (gpa)'s page from now on: no store to it is unseen.
 * Reads mails while it waits for others. page_release() ends it. */
void page_hold(struct bt *bt, uint64_t gpa);
void page_release(struct bt *bt, uint64_t gpa);

/** Look at a signal. True: it was translated code's, (context) is changed. */
bool fault_signal(void *opaque, void *context);
/** Handle the signals of kicks, from the first CPU of the process to the last.
 * 0 or -errno. */
int fault_install(struct err *err);
void fault_remove(void);
/** Let this thread have them, and translated code its GS. 0 or -errno. */
int fault_thread(void);
/** This thread runs (bt), or with NULL, nothing. */
void fault_enter(struct bt *bt);

/* ---- sample.c ---------------------------------------------------------------- */

/** Count from time to time what this thread does, which runs (bt) from now
 * on. */
void sample_enter(struct bt *bt);
/** Count no longer. */
void sample_leave(void);
/** Stop the timer of (bt). */
void sample_destroy(struct bt *bt);

/** Is the host address (pc) in a block? */
static inline bool bt_is_block(const struct bt *bt, uint64_t pc)
{
	return pc - (uint64_t)bt->code.rx - bt->code.first <
	       bt->code.used - bt->code.first;
}

/* ---- check.c, trace.c -------------------------------------------------------- */

/** Compare every block with interp from now on. 0 or -errno. */
int check_create(struct bt *bt, struct err *err);
/** Stop it. */
void check_destroy(struct bt *bt);
/** Run the block at host address (host) twice, by interp and translated, and
 * end the machine if the states that they leave are not the same. */
void check_run_block(struct bt *bt, uint32_t host);

/** Write each block down: see struct accel_options. 0 or -errno. */
int trace_create(struct bt *bt, const char *path, struct err *err);
/** Close the file. */
void trace_destroy(struct bt *bt);
/** Write (b) down, with what it became. */
void trace_block(struct bt *bt, FILE *f, const struct tblock *b);
/** Put (len) bytes of code that runs at (at) into words, one instruction.
 * Returns its length. */
unsigned trace_insn(char *text, size_t size, const uint8_t *bytes, unsigned len,
		    uint64_t at);

/** RF, which IRET to an instruction that faulted sets, does nothing where there
 * is no breakpoint on code: the next instruction clears it, or faults. */
static inline void bt_clear_rf(struct cpu *cpu)
{
	if (!cpu->single_step)
		cpu->s.rflags &= ~FLAG_RF;
}

/** Are the conditions for running translated code met? */
static inline bool bt_can_run(const struct cpu *cpu)
{
	return cpu->mode == MODE_64 && !(cpu->s.gpr[RSP] & 7) &&
	       !cpu->align_check && !cpu->single_step &&
	       (cpu->cpl == 0 || cpu->cpl == 3);
}

#endif
