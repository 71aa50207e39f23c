/* What the tests of chips include, in the order that cmocka wants. */
#ifndef TESTS_UNIT_CHIP_CHIP_TEST_H
#define TESTS_UNIT_CHIP_CHIP_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>

#include "base/bits.h"
#include "board.h"

#define FUZZ_ACCESSES 200000

#endif
