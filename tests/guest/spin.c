/* A guest that counts at 0x2000 for ever, for tests of what is around it. */
#include "lib/guest.h"

void guest_main(void)
{
	volatile uint64_t *count = (uint64_t *)0x2000;

	for (;;)
		++*count;
}
