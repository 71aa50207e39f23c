/* Touches what nobody answers for, and says what came of it: for tests of the
 * unmapped policies. */
#include "lib/guest.h"

void guest_main(void)
{
	int vector = TRAP_OF("mov (%[p]), %%rax", [p] "r"(0xd0000000ULL));

	note("read: vector %d error %lu", vector,
	     vector < 0 ? 0 : last_trap.error);
	ok(vector == -1 || vector == 13, "b9_the_read_ended");
	vector = TRAP_OF("movl $1, (%[p])", [p] "r"(0xd0000000ULL));
	note("write: vector %d error %lu", vector,
	     vector < 0 ? 0 : last_trap.error);
	vector = TRAP_OF("movl $1, (%[p])", [p] "r"(0xe0000ULL));
	note("rom: vector %d", vector);
	vector = TRAP_OF("in $0xed, %%eax");
	note("port: vector %d", vector);
	vector = TRAP_OF("lock incl (%[p])", [p] "r"(0xd0000000ULL));
	note("locked: vector %d", vector);
}
