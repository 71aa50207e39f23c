/*
 * Code pages and blocks: finding, making, linking and forgetting them.
 *
 * A code page is a page of guest memory that code was translated from. It has
 * an array with a host address for each of its bytes; where no block starts
 * there is the gate that makes one. An exec entry of the flat tables leads to
 * the array, so an indirect jump is two loads and no comparison:
 *
 *     exec entry = array - 4 * gva of the page      (table.c)
 *     host       = ((uint32_t *)entry)[target]      = array[target - page]
 *
 * Branches within a page are links: they lead to a stub that comes here, and
 * to the block itself from then on. Branches to other pages look the target up
 * each time, because what is mapped there may change.
 *
 * A page with translated code has GMEM_PAGE_CODE set and no writable entry, so
 * a store to it comes to C, and then to code_written(): blocks with the bytes
 * go, and all of the page's when it is written often without being run.
 *
 * All is one CPU's own; what it has to do with the others is in peers.c. When
 * anything is full, everything starts over.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vcpu/bt/bt.h"
#include "vcpu/interp/mmu.h"

#define MAX_PAGES    8192
#define MAX_BLOCKS   (1U << 19)
#define MAX_SIDES    (1U << 22)
#define MAX_LINKS    (1U << 20)
#define MAX_CALLOUTS (1U << 17)
#define CODE_SIZE    (128 * MiB)
/* of all CPUs: Linux has one GiB for MAP_32BIT */
#define CODE_SIZE_ALL (896 * MiB)
#define ROOM          (1U << 16) /* for one block */
#define MAX_WRITES    16

#define BUCKETS       ARRAY_SIZE(((struct code *)NULL)->buckets)

/* ---- Memory ----------------------------------------------------------------------- */

static void *reserve(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static int code_map(struct code *c)
{
	int fd = memfd_create("ringer-code", MFD_CLOEXEC);
	int r = 0;

	if (fd < 0)
		return -errno;
	if (ftruncate(fd, c->size) < 0)
		r = -errno;
	if (!r) {
		c->rw = mmap(NULL, c->size, PROT_READ | PROT_WRITE, MAP_SHARED,
			     fd, 0);
		c->rx = mmap(NULL, c->size, PROT_READ | PROT_EXEC,
			     MAP_SHARED | MAP_32BIT, fd, 0);
		if (c->rw == MAP_FAILED || c->rx == MAP_FAILED)
			r = -errno;
	}
	close(fd);
	return r;
}

int code_create(struct bt *bt, struct err *err)
{
	struct code *c = &bt->code;
	int r;

	c->size = (uint32_t)MIN(CODE_SIZE,
				CODE_SIZE_ALL / MAX(bt->cpu.vcpu->set->nr, 1U));
	c->size = (uint32_t)ALIGN_DOWN(c->size, PAGE_SIZE);
	r = code_map(c);
	if (r)
		return err_set(err, -r,
			       "executable shared memory must be allowed "
			       "(vm.memfd_noexec, security modules)",
			       "cannot map memory for translated code:");
	c->entries = reserve((size_t)MAX_PAGES * CODE_ENTRIES * 4);
	c->pages = reserve(MAX_PAGES * sizeof(*c->pages));
	c->blocks = reserve(MAX_BLOCKS * sizeof(*c->blocks));
	c->sides = reserve(MAX_SIDES * sizeof(*c->sides));
	c->links = reserve(MAX_LINKS * sizeof(*c->links));
	c->callouts = reserve(MAX_CALLOUTS * sizeof(*c->callouts));
	if (!c->entries || !c->pages || !c->blocks || !c->sides || !c->links ||
	    !c->callouts)
		return err_set(err, ENOMEM, NULL,
			       "cannot reserve memory for translated code:");
	return 0;
}

static void release(void *p, size_t size)
{
	if (p && p != MAP_FAILED)
		munmap(p, size);
}

void code_destroy(struct bt *bt)
{
	struct code *c = &bt->code;

	for (unsigned i = 0; i < c->nr_pages; i++)
		page_release(bt, c->pages[i].gpa);
	release(c->rw, c->size);
	release(c->rx, c->size);
	release(c->entries, (size_t)MAX_PAGES * CODE_ENTRIES * 4);
	release(c->pages, MAX_PAGES * sizeof(*c->pages));
	release(c->blocks, MAX_BLOCKS * sizeof(*c->blocks));
	release(c->sides, MAX_SIDES * sizeof(*c->sides));
	release(c->links, MAX_LINKS * sizeof(*c->links));
	release(c->callouts, MAX_CALLOUTS * sizeof(*c->callouts));
}

static bool is_full(const struct code *c)
{
	return c->used + ROOM > c->size || c->nr_blocks + 1 >= MAX_BLOCKS ||
	       c->nr_sides + 256 >= MAX_SIDES ||
	       c->nr_links + 256 >= MAX_LINKS ||
	       c->nr_callouts + 256 >= MAX_CALLOUTS ||
	       c->nr_pages + 1 >= MAX_PAGES;
}

/* ---- Pages ------------------------------------------------------------------------- */

static uint64_t gpa_of(struct bt *bt, const uint8_t *hva)
{
	struct gmem *mem = bt->cpu.vcpu->set->mem;

	for (unsigned i = 0; i < mem->nr_regions; i++) {
		struct gmem_region *r = &mem->region[i];

		if ((uint64_t)(hva - r->hva) < r->size)
			return r->gpa + (uint64_t)(hva - r->hva);
	}
	return ~0ULL;
}

static uint32_t *bucket_of(struct code *c, uint64_t gpa)
{
	return &c->buckets[(gpa >> PAGE_SHIFT) * 0x9e3779b97f4a7c15ULL >> 50];
}

static void entries_fill(struct bt *bt, struct code_page *p)
{
	for (unsigned i = 0; i < CODE_ENTRIES; i++)
		p->entry[i] = bt->gate_find;
}

/* From now on stores to the page come to code_written(). */
void code_page_protect(struct bt *bt, struct code_page *page)
{
	bt->code.is_busy = true;
	page_hold(bt, page->gpa);
	bt->code.is_busy = false;
}

/* The code page at (hva), made if it is new. */
/* Pages of the kernel, in the last 2 GiB, where an address is a 32-bit immediate,
 * run at one gva, which their code then knows. */
static uint64_t fixed_gva(const struct bt *bt, uint64_t gva)
{
	gva &= PAGE_MASK;
	return bt->cpu.cpl < 3 && gva >= -(2 * GiB) ? gva : 0;
}

struct code_page *code_page_get(struct bt *bt, const uint8_t *hva, uint64_t gva)
{
	struct code *c = &bt->code;
	uint64_t gpa = gpa_of(bt, hva);
	uint32_t *bucket = bucket_of(c, gpa);
	struct code_page *p;

	gva = fixed_gva(bt, gva);
	for (uint32_t n = *bucket; n; n = p->next) {
		p = &c->pages[n - 1];
		if (p->hva == hva && p->key == bt->code_key && p->gva == gva)
			return p;
	}
	p = &c->pages[c->nr_pages];
	*p = (struct code_page){
		.hva = hva,
		.gpa = gpa,
		.gva = gva,
		.key = (uint8_t)bt->code_key,
		.entry = c->entries + (size_t)c->nr_pages * CODE_ENTRIES,
		.next = *bucket,
	};
	entries_fill(bt, p);
	*bucket = ++c->nr_pages;
	return p;
}

/* ---- Blocks ------------------------------------------------------------------------- */

static void patch(struct code *c, uint32_t site, uint32_t to)
{
	uint8_t *p = c->rw + (site - (uint32_t)(uint64_t)c->rx);

	__atomic_store_n((uint32_t *)(void *)p, to - (site + 4),
			 __ATOMIC_RELAXED);
}

/* By IRET, which is not intercepted as CPUID is. */
void code_serialize(void)
{
	uint64_t tmp;

	__asm__ volatile("mov %%rsp, %0\n\t"
			 "push %%rax\n\t" /* SS: read below */
			 "mov %%ss, (%%rsp)\n\t"
			 "push %0\n\t"
			 "pushfq\n\t"
			 "push %%rax\n\t"
			 "mov %%cs, (%%rsp)\n\t"
			 "lea 1f(%%rip), %0\n\t"
			 "push %0\n\t"
			 "iretq\n"
			 "1:"
			 : "=&r"(tmp)
			 : "a"(0)
			 : "memory", "cc");
}

static uint32_t body_of(const struct tblock *b)
{
	return b->host + b->entry_len;
}

/* Nothing leads to (b) any more, and it is left soon if it runs. */
static void block_kill(struct bt *bt, struct tblock *b)
{
	struct code *c = &bt->code;
	struct code_page *p = &c->pages[b->page];
	struct link *l;

	if (b->is_dead)
		return;
	b->is_dead = true;
	if (p->entry[b->off] == b->host)
		p->entry[b->off] = bt->gate_find;
	for (uint32_t n = b->links; n; n = l->next) {
		l = &c->links[n - 1];
		patch(c, l->site, l->stub);
		l->is_closed = false;
	}
	b->links = 0;
	bt->stats.invalidated++;
	bt->cpu.exit_block = true;
}

void code_drop(struct bt *bt, struct tblock *b)
{
	block_kill(bt, b);
}

static void page_kill(struct bt *bt, struct code_page *p)
{
	struct code *c = &bt->code;
	struct tblock *b;

	for (uint32_t n = p->blocks; n; n = b->next) {
		b = &c->blocks[n - 1];
		block_kill(bt, b);
	}
	for (uint32_t n = p->straddlers; n; n = b->next2) {
		b = &c->blocks[n - 1];
		block_kill(bt, b);
	}
	p->blocks = p->straddlers = 0;
	p->nr_writes = 0;
	bt->stats.page_drops++;
}

static struct tblock *block_at(struct bt *bt, struct code_page *p, uint16_t off)
{
	struct code *c = &bt->code;
	uint32_t host = p->entry[off];
	struct code_page *p2;
	struct tblock *b;

	if (host != bt->gate_find)
		return code_find(bt, host, NULL);
	code_page_protect(bt, p);
	b = translate_block(bt, (uint32_t)(p - c->pages), off);
	if (!b)
		return NULL;
	if (b->page2) {
		p2 = &c->pages[b->page2 - 1];
		b->next2 = p2->straddlers;
		p2->straddlers = (uint32_t)(b - c->blocks) + 1;
	}
	b->next = p->blocks;
	p->blocks = (uint32_t)(b - c->blocks) + 1;
	p->entry[off] = b->host;
	p->nr_writes = 0;
	code_serialize();
	if (unlikely(bt->trace))
		trace_block(bt, bt->trace, b);
	return b;
}

uint32_t code_lookup(struct bt *bt)
{
	struct cpu *cpu = &bt->cpu;
	uint64_t rip = cpu->s.rip;
	const uint8_t *hva;
	struct code_page *p;
	struct tblock *b;

	bt->stats.lookups++;
	/* Where a jump finds it, if (cached) */
	hva = mem_code_fast(cpu, rip);
	if (gpa_of(bt, hva) >> PAGE_SHIFT >= bt->vm->nr_pages)
		return 0;
	if (is_full(&bt->code))
		code_reset(bt);
	p = code_page_get(bt, hva, rip);
	b = block_at(bt, p, rip & (PAGE_SIZE - 1));
	tables_enter_exec(bt, rip & PAGE_MASK,
			  (uint64_t)p->entry - 4 * (rip & PAGE_MASK));
	if (!b)
		return 0;
	bt->page = rip & PAGE_MASK;
	return body_of(b);
}

static bool is_in_page(const struct link *l)
{
	return l->target >= 0 && l->target < (int32_t)PAGE_SIZE;
}

void code_recheck(struct bt *bt)
{
	struct code *c = &bt->code;

	bt->recheck = false;
	for (unsigned n = 0; n < c->nr_pages; n++) {
		const struct code_page *p = &c->pages[n];

		if (p->gva && p->blocks &&
		    mem_code_peek(&bt->cpu, p->gva) != p->hva) {
			code_reset(bt);
			return;
		}
	}
}

uint32_t code_follow(struct bt *bt, uint32_t link)
{
	struct code *c = &bt->code;
	unsigned generation = c->generation;
	uint32_t host = code_lookup(bt);
	struct link *l = &c->links[link];
	struct tblock *from, *to;

	if (!host || generation != c->generation)
		return host;
	from = &c->blocks[l->block];
	to = code_find(bt, host, NULL);
	/* The page may have been mapped anew since (from) was entered. */
	if (l->is_closed || from->is_dead ||
	    (is_in_page(l) && from->page != to->page))
		return host;
	l->is_closed = true;
	l->next = to->links;
	to->links = link + 1;
	/* To another page: by the entry, which sets bt->page. */
	patch(c, l->site, is_in_page(l) ? host : host - to->entry_len);
	bt->stats.links++;
	return host;
}

struct tblock *code_find(struct bt *bt, uint32_t pc, unsigned *insn)
{
	struct code *c = &bt->code;
	unsigned low = 0, high = c->nr_blocks, n;
	struct tblock *b;

	while (low < high) {
		unsigned mid = (low + high) / 2;

		if (c->blocks[mid].host <= pc)
			low = mid + 1;
		else
			high = mid;
	}
	if (!low)
		return NULL;
	b = &c->blocks[low - 1];
	if (pc >= b->host_end)
		return NULL;
	for (n = 0; insn && n < b->nr_insns; n++)
		if (c->sides[b->insns + n].start > pc - b->host)
			break;
	if (insn)
		*insn = n ? n - 1 : 0;
	return b;
}

unsigned code_bytes(struct bt *bt, const struct tblock *b, unsigned n,
		    uint8_t bytes[INSN_MAX_LEN])
{
	const struct code_page *pages = bt->code.pages;
	unsigned off = bt->code.sides[b->insns + n].off;
	unsigned len = MIN((unsigned)PAGE_SIZE - off, (unsigned)INSN_MAX_LEN);

	copy_bytes(bytes, pages[b->page].hva + off, len);
	if (b->page2) {
		copy_bytes(bytes + len, pages[b->page2 - 1].hva,
			   INSN_MAX_LEN - len);
		len = INSN_MAX_LEN;
	}
	return len;
}

/* ---- Changes -------------------------------------------------------------------------- */

/* Does anything of (gpa)'s page remain? If not, it may be written freely. */
static void settle_flag(struct bt *bt, uint64_t gpa)
{
	struct code *c = &bt->code;
	struct code_page *p;

	if (c->is_busy)
		return;
	for (uint32_t n = *bucket_of(c, gpa); n; n = p->next) {
		p = &c->pages[n - 1];
		if (p->gpa == gpa && (p->blocks || p->straddlers))
			return;
	}
	page_release(bt, gpa);
}

static void page_written(struct bt *bt, struct code_page *p, unsigned off,
			 unsigned len)
{
	struct code *c = &bt->code;
	struct tblock *b;
	uint32_t *link;

	if (++p->nr_writes > MAX_WRITES) {
		page_kill(bt, p);
		return;
	}
	for (link = &p->blocks; *link;) {
		b = &c->blocks[*link - 1];
		if (b->off < off + len && off < b->off + b->len)
			block_kill(bt, b);
		if (b->is_dead)
			*link = b->next;
		else
			link = &b->next;
	}
	if (off >= INSN_MAX_LEN)
		return;
	for (uint32_t n = p->straddlers; n; n = b->next2) {
		b = &c->blocks[n - 1];
		block_kill(bt, b);
	}
	p->straddlers = 0;
}

void code_written(struct bt *bt, uint64_t gpa, uint64_t len)
{
	struct code *c = &bt->code;

	while (len) {
		uint64_t page = gpa & PAGE_MASK;
		uint64_t n = MIN(len, page + PAGE_SIZE - gpa);
		struct code_page *p;

		for (uint32_t i = *bucket_of(c, page); i; i = p->next) {
			p = &c->pages[i - 1];
			if (p->gpa == page)
				page_written(bt, p, (unsigned)(gpa - page),
					     (unsigned)n);
		}
		settle_flag(bt, page);
		gpa += n;
		len -= n;
	}
}

void code_misaligned(struct bt *bt, struct code_page *page, uint16_t off)
{
	struct code *c = &bt->code;
	struct tblock *b;

	page->misaligned[off / 64] |= BIT(off % 64);
	bt->stats.misaligned++;
	for (uint32_t n = page->blocks; n; n = b->next) {
		b = &c->blocks[n - 1];
		if (b->off <= off && off < b->off + b->len)
			block_kill(bt, b);
	}
}

void code_reset(struct bt *bt)
{
	struct code *c = &bt->code;

	for (unsigned i = 0; i < c->nr_pages; i++)
		page_release(bt, c->pages[i].gpa);
	tables_flush_exec(bt);
	zero_bytes(c->buckets, sizeof(c->buckets));
	c->nr_pages = c->nr_blocks = c->nr_sides = c->nr_links = 0;
	c->nr_callouts = 0;
	c->used = c->first;
	c->generation++;
	bt->stats.resets++;
	bt->cpu.exit_block = true;
}

void code_update_key(struct bt *bt)
{
	const struct x86_state *s = &bt->cpu.s;
	uint32_t key = bt->cpu.cpl == 3 ? KEY_USER : 0;

	if (!(s->cr0 & (CR0_EM | CR0_TS))) {
		key |= KEY_X87;
		if (s->cr4 & CR4_OSFXSR) {
			key |= KEY_SSE;
			if ((s->cr4 & CR4_OSXSAVE) && (s->xcr0 & XCR0_AVX))
				key |= KEY_AVX;
			if ((key & KEY_AVX) &&
			    (s->xcr0 & XCR0_AVX512) == XCR0_AVX512)
				key |= KEY_AVX512;
		}
	}
	if (!(s->cr4 & CR4_TSD))
		key |= KEY_TSC;
	if (s->cr4 & CR4_SMAP)
		key |= KEY_SMAP;
	if (s->cr4 & CR4_FSGSBASE)
		key |= KEY_FSGS;
	if ((key ^ bt->code_key) & ~(uint32_t)KEY_USER)
		tables_flush_exec(bt);
	bt->code_key = key;
}
