#include "vcpu/interp/block.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

/* Memory for blocks, touched as it is used, for all CPUs of a machine, of which
 * each has some. When it is full, all blocks go: choosing victims costs more
 * than making the useful ones again. */
#define ARENAS_SIZE   (256 * MiB)
#define ARENA_MIN     (8 * MiB)
#define ARENA_MAX     (48 * MiB)
#define BUCKET_BITS   16
#define MAX_INSNS     48
#define MAX_LEN       240 /* bytes of code in a block */
#define MAX_SLOW_SIZE (MAX_INSNS * sizeof(struct slow_insn))
#define MAX_BLOCK_SIZE                                                     \
	(sizeof(struct block) + MAX_INSNS * sizeof(struct uop) + MAX_LEN + \
	 MAX_SLOW_SIZE + 64)

struct block_cache {
	uint8_t *arena;
	size_t size, used;
	struct block *buckets[1 << BUCKET_BITS];
};

/** A block under construction. */
struct build {
	struct cpu *cpu;
	uint64_t rip, linear;
	const uint8_t *hva;
	enum insn_mode mode;
	uint8_t bytes[MAX_LEN + 16];
	unsigned nr_bytes; /* valid in (bytes) */
	unsigned len;      /* of the instructions so far */
	bool is_straddling;
	unsigned nr_uops;
	struct uop uops[MAX_INSNS];
};

int block_cache_create(struct cpu *cpu)
{
	struct block_cache *c = calloc(1, sizeof(*c));

	if (!c)
		return -ENOMEM;
	c->size = MAX(ARENAS_SIZE / MAX(cpu->vcpu->set->nr, 1U), ARENA_MIN);
	c->size = ALIGN_DOWN(MIN(c->size, ARENA_MAX), PAGE_SIZE);
	c->arena = mmap(NULL, c->size, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (c->arena == MAP_FAILED) {
		free(c);
		return -ENOMEM;
	}
	cpu->guesses = calloc(1 << BLOCK_GUESS_BITS, sizeof(*cpu->guesses));
	if (!cpu->guesses) {
		munmap(c->arena, c->size);
		free(c);
		return -ENOMEM;
	}
	cpu->blocks = c;
	return 0;
}

void block_cache_destroy(struct cpu *cpu)
{
	if (!cpu->blocks)
		return;
	munmap(cpu->blocks->arena, cpu->blocks->size);
	free(cpu->guesses);
	free(cpu->blocks);
	cpu->blocks = NULL;
}

static void *arena_alloc(struct block_cache *c, size_t size)
{
	void *p = c->arena + c->used;

	c->used += ALIGN_UP(size, 64);
	vm_assert(c->used <= c->size);
	return p;
}

static void arena_make_room(struct cpu *cpu)
{
	struct block_cache *c = cpu->blocks;

	if (c->used + MAX_BLOCK_SIZE * 2 <= c->size)
		return;
	c->used = 0;
	zero_bytes(c->buckets, sizeof(c->buckets));
	zero_bytes(cpu->guesses, (1 << BLOCK_GUESS_BITS) * sizeof(void *));
	cpu->block_resets++;
}

static struct block **bucket_of(struct block_cache *c, uint64_t rip,
				const uint8_t *hva)
{
	uint64_t key = rip + ((uint64_t)hva & PAGE_MASK);

	return &c->buckets[key * 0x9e3779b97f4a7c15ULL >> (64 - BUCKET_BITS)];
}

/* ---- Lowering --------------------------------------------------------------------- */

static void uop_raise(struct cpu *cpu, const struct uop *u)
{
	cpu_raise(cpu, u->rm, 0);
}

static void uop_slow(struct cpu *cpu, const struct uop *u)
{
	u->slow->fn(cpu, &u->slow->insn);
}

static void uop_slow_priv(struct cpu *cpu, const struct uop *u)
{
	if (cpu->cpl)
		cpu_raise(cpu, EXC_GP, 0);
	u->slow->fn(cpu, &u->slow->insn);
}

bool uop_is_slow(const struct uop *u)
{
	return u->fn == uop_slow || u->fn == uop_slow_priv ||
	       u->fn == native_uop;
}

uint64_t uop_ea_slow(struct cpu *cpu, const struct uop *u, uint64_t ea,
		     unsigned size, bool is_write)
{
	if (u->ea == EA_ADDR32)
		return (uint32_t)ea + UOP_FIELD(cpu, uint64_t, u->seg_base);
	ea &= u->ea == EA_SEG16 ? 0xffff : 0xffffffff;
	return mem_linear(cpu, u->seg, ea, size, is_write);
}

/* The operand fields of (u). False: an address that does not fit. */
static bool lower_operands(struct uop *u, const struct insn *insn)
{
	const uint16_t zero = offsetof(struct cpu, zero);
	bool is_64 = insn->mode == MODE_64;

	u->base = u->index = u->seg_base = zero;
	u->scale = 1;
	u->reg = gpr_offset(insn->reg, insn->high8 & 1);
	u->rm = gpr_offset(insn->rm, insn->high8 & 2);
	u->cond = insn->cond;
	u->imm = (int32_t)insn->imm;
	if (!(insn->flags & INSN_MEM))
		return true;
	if (insn->disp != (int32_t)insn->disp)
		return false;
	u->disp = (int32_t)insn->disp;
	if (insn->base != INSN_NONE)
		u->base = (uint16_t)(insn->base * 8);
	else if (insn->flags & INSN_RIPREL)
		u->base = offsetof(struct cpu, next_rip);
	if (insn->index != INSN_NONE) {
		u->index = (uint16_t)(insn->index * 8);
		u->scale = (uint8_t)(1 << insn->scale_log2);
	}
	u->seg = insn->seg;
	u->is_ss = insn->seg == SEG_SS;
	if (is_64 && insn->seg >= SEG_FS)
		u->seg_base = (uint16_t)(offsetof(struct cpu, s.seg) +
					 insn->seg * sizeof(struct x86_seg));
	if (is_64)
		u->ea = insn->addrsize == 8 ? EA_FLAT : EA_ADDR32;
	else
		u->ea = insn->addrsize == 4 ? EA_SEG32 : EA_SEG16;
	return true;
}

bool cpu_has_insn(const struct cpu *cpu, const struct insn *insn)
{
	const struct insn_features *f = &cpu->features;

	if (!insn_has_feature(f, insn->feature))
		return false;
	if (!(insn->flags & INSN_VECTOR))
		return true;
	if ((insn->flags & INSN_VEX) && !insn_has_feature(f, FEAT_AVX))
		return false;
	return !(insn->flags & INSN_EVEX) || insn_has_feature(f, FEAT_AVX512F);
}

void uop_make_raise(struct uop *u, uint8_t vector)
{
	u->fn = uop_raise;
	u->rm = vector;
}

static void lower_slow(struct uop *u, const struct insn *insn,
		       struct slow_insn *slow)
{
	insn_fn fn = interp_handler(insn);

	if (!fn && insn->op != OP_NATIVE) {
		uop_make_raise(u, EXC_UD);
		return;
	}
	slow->fn = fn;
	slow->stub = NULL;
	slow->insn = *insn;
	u->slow = slow;
	if (!fn)
		u->fn = native_uop;
	else
		u->fn = insn->flags & INSN_PRIV ? uop_slow_priv : uop_slow;
}

void uop_make(struct cpu *cpu, struct uop *u, const struct insn *insn,
	      struct slow_insn *slow, const uint64_t *next_rip)
{
	*u = (struct uop){ .len = insn->len };
	if (!cpu_has_insn(cpu, insn)) {
		uop_make_raise(u, EXC_UD);
		return;
	}
	if (lower_operands(u, insn) && !(insn->flags & INSN_PRIV) &&
	    (alu_lower(insn, u) || move_lower(insn, u) ||
	     shift_lower(insn, u) ||
	     (next_rip && flow_lower(insn, u, *next_rip))))
		return;
	lower_slow(u, insn, slow);
}

static void lower(struct build *b, const struct insn *insn)
{
	struct block_cache *c = b->cpu->blocks;
	struct slow_insn *slow = (void *)(c->arena + c->used);
	struct uop *u = &b->uops[b->nr_uops++];
	uint64_t next_rip = b->rip + b->len + insn->len;

	uop_make(b->cpu, u, insn, slow, &next_rip);
	if (uop_is_slow(u))
		arena_alloc(c, sizeof(*slow));
}

/* ---- Building ---------------------------------------------------------------------- */

/* How many bytes from RIP on may be fetched, by the code segment's limit. */
static unsigned limit_room(const struct build *b, unsigned want)
{
	uint64_t limit = b->cpu->s.seg[SEG_CS].limit, room;

	if (b->mode == MODE_64)
		return want;
	room = b->rip > limit ? 0 : limit - b->rip + 1;
	return room < want ? (unsigned)room : want;
}

/* Add the beginning of the next page, for the first instruction. */
static void fetch_next_page(struct build *b)
{
	uint64_t next = (b->linear & PAGE_MASK) + PAGE_SIZE;
	unsigned here = b->nr_bytes, want = limit_room(b, INSN_MAX_LEN);
	const uint8_t *page;

	if (b->mode != MODE_64)
		next = (uint32_t)next;
	if (want <= here)
		cpu_raise(b->cpu, EXC_GP, 0);
	page = mem_code_fast(b->cpu, next);
	copy_bytes(b->bytes + here, page, want - here);
	b->nr_bytes = want;
	b->is_straddling = true;
}

/* Decode the next instruction. False: the block ends before it. */
static bool build_insn(struct build *b)
{
	struct insn insn;
	int error = insn_decode(&insn, b->bytes + b->len, b->nr_bytes - b->len,
				b->mode);
	bool is_first = !b->len;

	if (error == INSN_TRUNCATED && is_first && b->nr_bytes < INSN_MAX_LEN) {
		fetch_next_page(b);
		error = insn_decode(&insn, b->bytes, b->nr_bytes, b->mode);
		if (error == INSN_TRUNCATED) /* the segment ends there */
			cpu_raise(b->cpu, EXC_GP, 0);
	}
	if (error == INSN_OK) {
		lower(b, &insn);
		b->len += insn.len;
		return !(insn.flags & INSN_BRANCH) && !b->is_straddling &&
		       b->nr_uops < MAX_INSNS && b->len < b->nr_bytes;
	}
	if (is_first) {
		/* What says that it is none is in as many bytes. */
		struct uop *u = &b->uops[b->nr_uops++];

		*u = (struct uop){ .len = 1 };
		uop_make_raise(u, error == INSN_INVALID ? EXC_UD : EXC_GP);
		b->len = MIN(b->nr_bytes, (unsigned)INSN_MAX_LEN);
	}
	return false;
}

/* Note the bytes that (block) was made from, to compare with. */
static void build_bytes(const struct build *b, struct block *block)
{
	unsigned off = b->linear & (PAGE_SIZE - 1), n;

	copy_bytes(&block->first, b->bytes, 8);
	block->first_mask = size_mask(b->len);
	if (b->is_straddling) {
		copy_bytes(block->word, b->bytes, INSN_MAX_LEN);
	} else if (b->len > 8) {
		n = (b->len - 9) / 8;
		copy_bytes(&block->last, b->bytes + b->len - 8, 8);
		copy_bytes(block->word, b->bytes + 8,
			   8 * MIN(n, (unsigned)BLOCK_WORDS));
		if (n > BLOCK_WORDS)
			copy_bytes(block_words(block),
				   b->bytes + 8 + 8 * BLOCK_WORDS,
				   8 * (n - BLOCK_WORDS));
	} else if (off > PAGE_SIZE - 8) {
		/* Eight bytes from here leave the page: those that end it. */
		unsigned back = off - (PAGE_SIZE - 8);

		block->first_off = (int8_t)-back;
		block->first <<= 8 * back;
		block->first_mask <<= 8 * back;
	}
}

static struct block *build_finish(struct build *b)
{
	struct block_cache *c = b->cpu->blocks;
	size_t size = sizeof(struct block) + b->nr_uops * sizeof(struct uop);
	struct block *block = arena_alloc(c, size + b->len);

	*block = (struct block){
		.rip = b->rip,
		.hva = b->hva,
		.len = (uint16_t)b->len,
		.nr_uops = (uint8_t)b->nr_uops,
		.mode = (uint8_t)b->mode,
		.is_straddling = b->is_straddling,
	};
	copy_bytes(block->uops, b->uops, b->nr_uops * sizeof(struct uop));
	build_bytes(b, block);
	return block;
}

static struct block *block_build(struct cpu *cpu, uint64_t linear,
				 const uint8_t *hva)
{
	struct build b;
	unsigned room = PAGE_SIZE - (linear & (PAGE_SIZE - 1));

	/* The decoder is free to use libc. */
	cpu_fpu_save(cpu);
	arena_make_room(cpu);
	b.cpu = cpu;
	b.rip = cpu->s.rip;
	b.linear = linear;
	b.hva = hva;
	b.mode = cpu->mode;
	b.len = b.nr_uops = 0;
	b.is_straddling = false;
	b.nr_bytes = limit_room(&b, MIN(room, (unsigned)MAX_LEN));
	if (!b.nr_bytes)
		cpu_raise(cpu, EXC_GP, 0);
	copy_bytes(b.bytes, hva, b.nr_bytes);
	while (build_insn(&b))
		;
	cpu->nr_blocks++;
	return build_finish(&b);
}

/* An instruction over two pages, both of which may have changed. The second is
 * only looked at, which may fault, if the first still leads there. */
static bool straddling_is_current(struct cpu *cpu, const struct block *b,
				  uint64_t linear)
{
	const uint8_t *old = (const uint8_t *)b->word, *page;
	unsigned here = PAGE_SIZE - (linear & (PAGE_SIZE - 1));
	uint64_t next = (linear & PAGE_MASK) + PAGE_SIZE;

	for (unsigned i = 0; i < here && i < b->len; i++)
		if (old[i] != b->hva[i])
			return false;
	page = mem_code_fast(cpu, cpu->mode == MODE_64 ? next : (uint32_t)next);
	for (unsigned i = here; i < b->len; i++)
		if (old[i] != page[i - here])
			return false;
	return true;
}

struct block *block_get(struct cpu *cpu, uint64_t linear, const uint8_t *hva)
{
	struct block **head = bucket_of(cpu->blocks, cpu->s.rip, hva), **at;
	struct block *b;
	bool is_current;

	for (at = head; (b = *at); at = &b->chain) {
		if (b->rip != cpu->s.rip || b->hva != hva ||
		    b->mode != cpu->mode)
			continue;
		is_current = b->is_straddling
				     ? straddling_is_current(cpu, b, linear)
				     : block_is_current(b);
		if (is_current &&
		    (b->mode == MODE_64 ||
		     b->rip + b->len - 1 <= cpu->s.seg[SEG_CS].limit))
			return b;
		*at = b->chain;
		break;
	}
	b = block_build(cpu, linear, hva);
	b->chain = *head;
	*head = b;
	return b;
}
