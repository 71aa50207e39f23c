/*
 * Blocks written down for people: the guest's instructions and what each one
 * became, side by side.
 *
 * The disassembler is Zydis where the build had it; otherwise instructions are
 * shown as their bytes.
 */
#include <errno.h>
#include <string.h>

#ifdef HAVE_ZYDIS
#include <Zydis/Zydis.h>
#endif

#include "vcpu/bt/bt.h"

#define LEFT_WIDTH 46

int trace_create(struct bt *bt, const char *path, struct err *err)
{
	char name[4096];
	unsigned index = bt->cpu.vcpu->index;
	int n;

	if (!path[0]) {
		bt->trace = stderr;
		return 0;
	}
	if (index)
		n = snprintf(name, sizeof(name), "%s.%u", path, index);
	else
		n = snprintf(name, sizeof(name), "%s", path);
	if (n >= (int)sizeof(name))
		return err_set(err, ENAMETOOLONG, NULL, "--trace:");
	bt->trace = fopen(name, "we");
	if (!bt->trace)
		return err_set(err, errno, NULL,
			       "--trace: cannot write %s:", name);
	return 0;
}

void trace_destroy(struct bt *bt)
{
	if (bt->trace && bt->trace != stderr)
		fclose(bt->trace);
	bt->trace = NULL;
}

unsigned trace_insn(char *text, size_t size, const uint8_t *bytes, unsigned len,
		    uint64_t at)
{
	struct insn insn;
	size_t used = 0;
#ifdef HAVE_ZYDIS
	ZydisDisassembledInstruction z;

	if (ZYAN_SUCCESS(ZydisDisassembleIntel(ZYDIS_MACHINE_MODE_LONG_64, at,
					       bytes, len, &z))) {
		snprintf(text, size, "%s", z.text);
		return z.info.length;
	}
#endif
	if (insn_decode(&insn, bytes, len, MODE_64) == INSN_OK)
		len = insn.len;
	else
		len = MIN(len, 1U);
	text[0] = 0;
	for (unsigned i = 0; i < len && used + 3 < size; i++)
		used += (size_t)snprintf(text + used, size - used, "%02x ",
					 bytes[i]);
	return len;
}

static void print_key(FILE *f, unsigned key)
{
	fprintf(f, "%s%s%s%s%s", key & KEY_USER ? "user" : "supervisor",
		key & KEY_X87 ? " x87" : "", key & KEY_SSE ? " sse" : "",
		key & KEY_AVX ? " avx" : "", key & KEY_AVX512 ? " avx512" : "");
}

/* What a CALL at (p), which runs at (at), leads to, if that is a gate: its name.
 * (data) bytes behind it are no code. */
static const char *gate_name(const struct bt *bt, const uint8_t *p, uint32_t at,
			     unsigned *data)
{
	static const struct {
		const char *name;
		uint8_t data;
	} gates[NR_GATES] = {
		[GATE_MISS_READ] = { "miss_read", 2 },
		[GATE_MISS_WRITE] = { "miss_write", 2 },
		[GATE_CALLOUT] = { "callout", 4 },
		[GATE_JUMP] = { "jump", 0 },
		[GATE_LINK] = { "link", 4 },
		[GATE_STRADDLE] = { "straddle", 0 },
		[GATE_STEP] = { "step", 2 },
	};
	uint32_t target;

	if (p[0] != 0xe8)
		return NULL;
	memcpy(&target, p + 1, sizeof(target));
	target += at + 5;
	for (unsigned i = 0; i < NR_GATES; i++)
		if (gates[i].name && target == bt->gate[i]) {
			*data = gates[i].data;
			return gates[i].name;
		}
	return NULL;
}

/* The host code from (from) to (to), one instruction a line, beside (guest). */
static void print_host(struct bt *bt, FILE *f, const char *guest, uint32_t from,
		       uint32_t to)
{
	const uint8_t *code = bt->code.rx - (uint32_t)(uint64_t)bt->code.rx;
	char text[160];

	if (from >= to)
		fprintf(f, "%-*s |\n", LEFT_WIDTH, guest);
	for (uint32_t at = from; at < to; guest = "") {
		unsigned data = 0;
		const char *gate = gate_name(bt, code + at, at, &data);
		uint32_t value = 0;

		fprintf(f, "%-*s | %08x  ", LEFT_WIDTH, guest, at);
		if (gate) {
			memcpy(&value, code + at + 5, data);
			fprintf(f, "call gate %s", gate);
			if (data)
				fprintf(f, " %u", value);
			fputc('\n', f);
			at += 5 + data;
		} else {
			at += trace_insn(text, sizeof(text), code + at, to - at,
					 at);
			fprintf(f, "%s\n", text);
		}
	}
}

void trace_block(struct bt *bt, FILE *f, const struct tblock *b)
{
	const struct code_page *p = &bt->code.pages[b->page];
	const struct side *side = &bt->code.sides[b->insns];

	cpu_fpu_save(&bt->cpu);
	fprintf(f,
		"block gpa %#llx, %u instructions in %u bytes, host %#x, "
		"%u bytes, ",
		(unsigned long long)p->gpa + b->off, b->nr_insns, b->len,
		b->host, b->host_end - b->host);
	print_key(f, p->key);
	fputc('\n', f);
	print_host(bt, f, "", b->host, b->host + b->entry_len);
	for (unsigned n = 0; n < b->nr_insns; n++) {
		bool is_last = n + 1U == b->nr_insns;
		unsigned off = side[n].off, here = (unsigned)PAGE_SIZE - off;
		uint8_t bytes[INSN_MAX_LEN] = { 0 };
		char text[160], line[200];

		here = MIN(here, (unsigned)INSN_MAX_LEN);
		memcpy(bytes, p->hva + off, here);
		if (b->page2)
			memcpy(bytes + here, bt->code.pages[b->page2 - 1].hva,
			       INSN_MAX_LEN - here);
		trace_insn(text, sizeof(text), bytes, sizeof(bytes),
			   p->gpa + off);
		snprintf(line, sizeof(line), "%03x  %s", off, text);
		print_host(bt, f, line, b->host + side[n].start,
			   is_last ? b->host_end : b->host + side[n + 1].start);
	}
	fputc('\n', f);
	fflush(f);
}
