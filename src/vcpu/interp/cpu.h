/*
 * The reference processor's own state and the contracts between its files.
 *
 *   interp.c   accel_ops, the run loop, blocks of decoded instructions
 *   mmu.c      software TLB, loads and stores of guest-virtual memory
 *   alu.c      integer instructions          string.c  REP and friends
 *   flow.c     near branches, stack
 *   event.c    exceptions, interrupts, gates, IRET
 *   task.c     task switches
 *   seg.c      segment loads, descriptor instructions    far.c  far transfers
 *   sys.c      control and debug registers, CPUID, SYSCALL...    msr.c  MSRs
 *   io.c       IN, OUT, INS, OUTS, permission bitmap
 *   fpu.c      guest FPU state in host registers, XSAVE family, OP_NATIVE
 *   vector.c   gathers, scatters, masked moves: memory element by element
 *   ../pv.c    KVM's paravirtual interface
 *
 * Precision. A handler makes all accesses that can fault before it changes any
 * register; then a fault may leave it at any point by cpu_raise(), which does
 * not return (longjmp to the run loop), and RIP is still the instruction's.
 *
 * Registers. These files are built with -mgeneral-regs-only: the guest's FPU
 * state may be live in the host's registers. Before calling anything outside
 * interp/, insn/, paging_walk() and base/ inline functions (libc's memcpy() is
 * outside), go through cpu_fpu_save(). The mem_ functions below do it by
 * themselves where they reach a device.
 *
 * What the run loop does so that handlers need not: INSN_PRIV, hidden CPUID
 * features, the interrupt shadows (a handler sets s.shadow_sti or shadow_ss
 * and exit_block; the loop clears them behind the next instruction), RF, TF
 * and DR7 breakpoints, counting. HLT sets s.activity and exit_block. Whatever
 * may unmask or bring about an interrupt (IF set, CR8, APIC registers, IN and
 * OUT) sets exit_block: then the loop calls event_check().
 */
#ifndef VCPU_INTERP_CPU_H
#define VCPU_INTERP_CPU_H

#include <setjmp.h>

#include "arch/paging.h"
#include "arch/regs.h"
#include "vcpu/insn/decode.h"
#include "vcpu/insn/native.h"
#include "vcpu/vcpu.h"

struct cpu;
struct block;
struct block_cache;

/** Executes one instruction. On entry s.rip is its address and next_rip the
 * one behind it; a branch stores its target in next_rip. The loop commits
 * next_rip to s.rip on return. A branch ends its block (INSN_BRANCH) or sets
 * exit_block. */
typedef void (*insn_fn)(struct cpu *cpu, const struct insn *insn);

/** Sizes of the software TLB; see mmu.c. */
#define TLB_BITS 12
#define TLB_SIZE (1 << TLB_BITS)

/** A translation of one 4 KiB page: tags are gva | context, or TLB_INVALID;
 * hva = gva + addend. */
struct tlb_entry {
	uint64_t read, write, exec;
	uint64_t addend;
};

/** The contexts of one address space's lower half: for supervisor accesses
 * with AC clear and all user accesses, and for those with AC set. */
struct tlb_space {
	uint16_t pcid;
	uint16_t context, context_ac; /* 0: none */
};

#define TLB_SPACES 16

/** Which half of the address space, under whose rights. */
enum mirror_part {
	MIRROR_SPACE, /* lower half of the current space, with user rights */
	MIRROR_SYS,   /* lower half, supervisor's alone */
	MIRROR_HIGH,  /* upper half, supervisor's */
	MIRROR_NONE,  /* none of these: the TLB alone has it */
};

/** One who keeps translations too, and is told about the TLB's life. */
struct tlb_mirror {
	/* The page (gva), (gpa) may be read, or written too, at (hva). */
	void (*enter)(struct cpu *cpu, enum mirror_part part, uint64_t gva,
		      uint64_t gpa, uint8_t *hva, bool is_writable);
	/* Forget the lower half of a space (its number), the upper half, the
	 * (size) bytes with (gva) in all spaces. */
	void (*flush_space)(struct cpu *cpu, unsigned space);
	void (*flush_high)(struct cpu *cpu);
	void (*flush_range)(struct cpu *cpu, uint64_t gva, uint64_t size);
	/* The current space or privilege may be another one. */
	void (*select)(struct cpu *cpu, unsigned space);
};

/** A processor: what it is to the guest (s), what follows from that, and its
 * caches. Its own thread's while it runs. */
struct cpu {
	struct x86_state s; /* first: native stubs address it */
	uint64_t next_rip;
	struct vcpu *vcpu;

	/* Derived from s by cpu_update_mode(). */
	enum insn_mode mode; /* of CS */
	uint8_t cpl;
	bool is_long; /* EFER.LMA */
	bool stack64, stack32;
	bool single_step; /* TF or an enabled DR7 code breakpoint */
	bool code_break;  /* one of those */
	bool watch;       /* a data breakpoint is enabled in DR7 */
	bool align_check; /* CPL 3, CR0.AM, AC */
	uint64_t ip_mask; /* all ones, 32 or 16 bits */

	struct insn_features features;
	bool fpu_live;     /* guest FPU state is in the host's registers */
	uint64_t fpu_mask; /* components in s.xsave, as in XCR0 */
	uint32_t fpu_offset[8], fpu_size[8]; /* of each */
	uint64_t fpu_align_mask; /* aligned to 64 in compacted format */
	uint8_t *bounce;         /* stands in for operands, see fpu.h */
	bool exit_block;     /* leave the block behind this instruction: code
			       * was written, the mode or an event changed */
	uint32_t debug_trap; /* DR6 bits of a #DB to take behind this insn.;
			       * delivered by the loop, not event_check() */
	struct exit *exit;   /* where to say why run() returns */
	bool has_exit;       /* (exit) is filled: return from run() */
	uint8_t nesting; /* an event is being delivered: for double faults */

	sigjmp_buf *unwind; /* where cpu_raise() goes */
	struct x86_event raised;

	struct native *native;
	struct block_cache *blocks;
	struct block **guesses;    /* see block.h */
	const struct block *block; /* that runs, or NULL */
	bool holds_lock;           /* struct interp's, see uop.h */
	uint64_t watched[5];       /* DR0 to DR3 and DR7 that the TLB knows */
	uint64_t code_page; /* hva of the page that the current block is from,
			       * or 1: a store there sets exit_block */
	uint32_t nr_pauses; /* by PAUSE, see alu_move.c */
	uint64_t zero;      /* stands for an absent base, index or segment */

	/* The software TLB, private to mmu.c and mem.h. */
	struct tlb_entry *tlb; /* the array of the current privilege */
	uint64_t context[2];   /* of data in the lower, upper half */
	uint64_t code_context[2];
	struct tlb_entry tlbs[2][TLB_SIZE]; /* supervisor, user */
	struct tlb_state *tlb_state;
	const struct tlb_mirror *mirror; /* or NULL */
	unsigned nr_spaces;              /* to be used, up to TLB_SPACES */
	/* Called before stores of instructions to memory, or NULL. All come to
	 * mmu.c where it is set: no page is entered as writable. */
	void (*before_store)(struct cpu *cpu, uint8_t *hva, unsigned len);

	/* The interrupt controller may have something to deliver: it was
	 * accessed, or asked for attention, since it said that it has not. */
	bool irq_check;
	bool pv_kicked; /* by KVM's KICK_CPU: the next HLT does not wait */
	uint64_t trap_counts[NR_OPS]; /* sensitive instructions emulated */

	uint64_t tlb_fills, tlb_flushes, nr_blocks, block_resets;
	uint64_t insns; /* instructions completed */
};

/** The interp part of (vcpu). */
static inline struct cpu *cpu_of(struct vcpu *vcpu)
{
	return vcpu->accel;
}

/* ---- interp.c ------------------------------------------------------------ */

/** Recompute what is derived from s: after any change of CR0, CR4, EFER, CS,
 * SS, RFLAGS.TF/AC/VM or debug registers. Sets exit_block. */
void cpu_update_mode(struct cpu *cpu);

/** The part of it for RFLAGS.AC alone (STAC, CLAC): does not end the block. */
void cpu_update_access(struct cpu *cpu);

/** Leave the running REP instruction for now: the registers say how far it
 * came, and it starts again when the loop has looked for events. */
static inline void cpu_repeat(struct cpu *cpu)
{
	cpu->next_rip = cpu->s.rip;
	cpu->exit_block = true;
}

/** Has another thread asked for this one's attention? */
static inline bool cpu_has_request(const struct cpu *cpu)
{
	return atomic_load_explicit(&cpu->vcpu->requests,
				    memory_order_relaxed) != 0;
}

/** Raise exception (vector); (error) is used by those that have a code. Does
 * not return; s.rip stays at the instruction. */
void cpu_raise(struct cpu *cpu, uint8_t vector, uint32_t error)
	__attribute__((noreturn));
void cpu_raise_pf(struct cpu *cpu, uint64_t gva, uint32_t error)
	__attribute__((noreturn));

/** Return from run() behind this instruction with (reason). */
void cpu_exit(struct cpu *cpu, enum exit_reason reason);
/** Return from run() now, before this instruction, with what (cpu->exit)
 * says: for accesses that the machine's policy ends it for. */
void cpu_abort(struct cpu *cpu, enum exit_reason reason)
	__attribute__((noreturn));

/** The handler of (insn): NULL for what is #UD in this build. */
insn_fn interp_handler(const struct insn *insn);

/** Make and undo all of (cpu) but its memory, which the caller has zeroed and
 * given (mirror) and (nr_spaces). 0 or -errno. */
int cpu_create(struct cpu *cpu, struct vcpu *vcpu, struct err *err);
void cpu_destroy(struct cpu *cpu);

/** The parts of a run loop, for another one than interp's. Between two
 * instructions, when exit_block is set or there are requests: do what they ask
 * for. False: return from run(). */
bool cpu_boundary(struct cpu *cpu);
/** Must the next instruction be taken alone, by cpu_run_single()? */
static inline bool cpu_needs_single(const struct cpu *cpu)
{
	return cpu->single_step || cpu->s.shadow_sti || cpu->s.shadow_ss ||
	       (cpu->s.rflags & FLAG_RF);
}
void cpu_run_single(struct cpu *cpu);
/** Run one block of instructions. */
void cpu_run_block(struct cpu *cpu);
/** Run (max) instructions at most, of one block. Returns how many. */
unsigned cpu_run_some(struct cpu *cpu, unsigned max);
/** After cpu_raise() came back to (unwind). */
void cpu_unwound(struct cpu *cpu);

/* Tables of handlers by op, one for each file; entries of others are NULL. */
extern const insn_fn alu_handlers[NR_OPS], bits_handlers[NR_OPS],
	string_handlers[NR_OPS], flow_handlers[NR_OPS], event_handlers[NR_OPS],
	seg_handlers[NR_OPS], sys_handlers[NR_OPS], io_handlers[NR_OPS],
	fpu_handlers[NR_OPS], vector_handlers[NR_OPS];

/* ---- mmu.c --------------------------------------------------------------- */

/** Linear-address accesses of 1 to 8 bytes with the current privilege; they
 * raise #PF, #AC, reach MMIO, and may straddle pages (exactly: both pages are
 * checked before anything is stored). */
uint64_t mem_load(struct cpu *cpu, uint64_t gva, unsigned size);
void mem_store(struct cpu *cpu, uint64_t gva, unsigned size, uint64_t value);
/** The same with supervisor privilege, for descriptor tables, TSS, and stacks
 * of inner levels. */
uint64_t mem_load_sys(struct cpu *cpu, uint64_t gva, unsigned size);
void mem_store_sys(struct cpu *cpu, uint64_t gva, unsigned size,
		   uint64_t value);
/** Any length, for state images and bounce buffers; all of a store's pages are
 * checked first. */
void mem_load_bytes(struct cpu *cpu, uint64_t gva, void *buf, unsigned len);
void mem_store_bytes(struct cpu *cpu, uint64_t gva, const void *buf,
		     unsigned len);
/** Check that [gva, gva + len) may be written (or read) now; raises if not. */
void mem_probe(struct cpu *cpu, uint64_t gva, unsigned len, bool is_write);

/**
 * The host address of [gva, gva + len) when it lies in one page of RAM that
 * may be read (and, with (is_write), written): for locked operations and
 * native emulation. NULL for MMIO, ROM writes, or when it straddles; raises
 * #PF as an access would. With (is_write) it accounts for the write.
 */
void *mem_host(struct cpu *cpu, uint64_t gva, unsigned len, bool is_write);

/** Fetch: the host address of the page with (gva), for the decoder. Raises. */
const uint8_t *mem_code(struct cpu *cpu, uint64_t gva);

/** The linear address of (insn)'s memory operand of (len) bytes; checks
 * canonicality or the segment's limit and rights: #GP(0), #SS(0). */
uint64_t mem_operand(struct cpu *cpu, const struct insn *insn, unsigned len,
		     bool is_write);
/** The effective address alone (LEA), truncated to the address size. */
uint64_t mem_effective(struct cpu *cpu, const struct insn *insn);
/** Linear address of (offset) in segment (seg), checked likewise. */
uint64_t mem_linear(struct cpu *cpu, unsigned seg, uint64_t offset,
		    unsigned len, bool is_write);

/** Forget translations: all of them (CR0.PG, CR0.WP, CR4 paging bits, EFER.NX,
 * INVPCID 2 and 3). */
void tlb_flush(struct cpu *cpu);
/** Those of (gva)'s page, in any PCID (INVLPG, INVPCID 0). */
void tlb_flush_page(struct cpu *cpu, uint64_t gva);
/** (gva)'s page must not be written through the TLB. */
void tlb_drop_writable(struct cpu *cpu, uint64_t gva);
/** Those of (pcid) that are not global (INVPCID 1). */
void tlb_flush_pcid(struct cpu *cpu, uint16_t pcid);
/** s.cr3 was loaded: use its address space from now on. With (keep), what is
 * cached for its PCID stays (bit 63 of MOV to CR3). */
void tlb_load_cr3(struct cpu *cpu, bool keep);
/** Register operand access by number and size (high8 handled by callers that
 * have byte operands: reg_read8(), reg_write8()). A 4-byte write clears the
 * upper half, shorter ones keep it. */
static inline uint64_t reg_read(const struct cpu *cpu, unsigned reg,
				unsigned size)
{
	return cpu->s.gpr[reg] & size_mask(size);
}

static inline void reg_write(struct cpu *cpu, unsigned reg, unsigned size,
			     uint64_t value)
{
	if (size == 8)
		cpu->s.gpr[reg] = value;
	else if (size == 4)
		cpu->s.gpr[reg] = (uint32_t)value;
	else if (size == 2)
		*(uint16_t *)(void *)&cpu->s.gpr[reg] = (uint16_t)value;
	else
		*(uint8_t *)(void *)&cpu->s.gpr[reg] = (uint8_t)value;
}

/* ---- flow.c -------------------------------------------------------------- */

/** Push or pop (size) bytes on the current stack, SS-checked; RSP changes only
 * if the access did not fault. */
void stack_push(struct cpu *cpu, unsigned size, uint64_t value);
uint64_t stack_pop(struct cpu *cpu, unsigned size);

/* ---- event.c ------------------------------------------------------------- */

/** Deliver (ev) through the IDT (or IVT): stack switch, gate checks, error
 * code. Faults inside become double and triple faults. The return address is
 * next_rip for a soft event, otherwise s.rip; sets s.rip and next_rip to the
 * handler. Called by the loop and, for INT n and the like, by handlers. */
void event_deliver(struct cpu *cpu, const struct x86_event *ev);

/** Between instructions, outside the interrupt shadows: take what is pending by
 * priority (SDM table 6-2): s.event, NMI, external interrupts. s.rip and
 * next_rip are equal. True if something was delivered; then the loop ends
 * HLT. (The #DB traps in debug_trap are delivered by the loop before it.) */
bool event_check(struct cpu *cpu);

/** Do the EOI that the guest left in its paravirtual word, if it did, and take
 * the offer back. */
void event_settle_eoi(struct cpu *cpu);

/* ---- task.c -------------------------------------------------------------- */

/** Switch to the task with TSS selector (sel), whose
 * descriptor the caller has checked; the old task continues at next_rip. */
enum task_source { TASK_JUMP, TASK_CALL, TASK_IRET, TASK_GATE };
void task_switch(struct cpu *cpu, uint16_t sel, enum task_source source,
		 bool has_error, uint32_t error);

/* ---- seg.c --------------------------------------------------------------- */

/** Load a data, stack segment register as MOV or POP does; raises. */
void seg_load(struct cpu *cpu, enum seg seg, uint16_t sel);
/** Set (seg) as in real and virtual-8086 mode. */
void seg_load_real(struct cpu *cpu, enum seg seg, uint16_t sel);

/** A descriptor's eight (or with (is_wide) sixteen) bytes. */
struct descriptor {
	uint64_t raw, high;
	uint64_t gva;
};
/** Read the descriptor of (sel). False if it is beyond its table's limit. */
bool desc_read(struct cpu *cpu, uint16_t sel, struct descriptor *d);
/** Unpack a segment descriptor; gate fields are read by their users. */
void desc_to_seg(const struct descriptor *d, uint16_t sel, struct x86_seg *seg);
/** Set the accessed bit of (d) in memory and in it. */
void desc_set_accessed(struct cpu *cpu, struct descriptor *d);

static inline uint16_t desc_attr(const struct descriptor *d)
{
	return (uint16_t)((d->raw >> 40 & 0xff) | (d->raw >> 52 & 0xf) << 12);
}

/* ---- sys.c --------------------------------------------------------------- */

/** Register writes with all their checks and effects, also for set_state and
 * task switches; (raises) #GP. */
void cr0_write(struct cpu *cpu, uint64_t value);
void cr3_write(struct cpu *cpu, uint64_t value);
void cr4_write(struct cpu *cpu, uint64_t value);
/** Read or write an MSR; 0, or -1 for #GP. */
int msr_read(struct cpu *cpu, uint32_t msr, uint64_t *value)
	__attribute__((nonnull));
int msr_write(struct cpu *cpu, uint32_t msr, uint64_t value)
	__attribute__((nonnull));

/** The instruction set that (p) shows to the guest. */
void cpuid_features(const struct cpuid_policy *p, struct insn_features *f);

/** At the start of run(): bring guest time and the paravirtual pages up to
 * date, and flush the TLB if another CPU left word to do so. */
void sys_enter(struct cpu *cpu);
/** At the end of run(): take back what the guest's paravirtual EOI word says,
 * so that s is complete. */
void sys_leave(struct cpu *cpu);

/* ---- fpu.c --------------------------------------------------------------- */

/** Bring the guest's FPU state into the host's registers; save it back to
 * s.xsave before code that may use those registers. Cheap when done. */
void cpu_fpu_load(struct cpu *cpu);
void cpu_fpu_save(struct cpu *cpu);
/** Make s.xsave, that came from elsewhere, fit for loading. */
void cpu_fpu_sanitize(struct cpu *cpu);
/** Raise #NM or #UD if (insn) may not use the FPU now (CR0.TS/EM, CR4, XCR0,
 * hidden feature). */
void cpu_fpu_check(struct cpu *cpu, const struct insn *insn);

#endif
