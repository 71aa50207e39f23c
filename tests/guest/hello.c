/* The smallest guest: it runs, prints, traps, reaches user mode and ends. */
#include "lib/guest.h"

static int64_t in_user(void)
{
	return 42;
}

static int64_t privileged(void)
{
	__asm__ volatile("cli");
	return 0;
}

void guest_main(void)
{
	ok(true, "a12_runs");
	ok(TRAP_OF("ud2") == 6, "invalid opcode is #UD");
	ok(TRAP_IN("div %%ecx", 1, 0, 0, 0) == 0, "division by zero is #DE");
	ok(user(in_user) == 42, "a3_user_mode_and_back");
	ok(user(privileged) == -1000 - 13, "a1_cli_at_cpl_3_is_gp");
}
