/*
 * A character stream that a test holds both ends of. It stands in for all of
 * chr/chr.h: a program that compiles fake_chr.c in does not link the real one.
 */
#ifndef TESTS_LIB_FAKE_CHR_H
#define TESTS_LIB_FAKE_CHR_H

#include "chr/chr.h"

struct chr {
	struct chr_user user;
	bool has_user;
	uint8_t out[4096]; /* what was written; the last bytes are kept */
	size_t out_len;
	unsigned nr_resumes;
	unsigned columns, rows;
	char spec[64];
};

/** Give the user as much of (len) bytes as it takes; returns how much. */
size_t fake_chr_feed(struct chr *chr, const void *buf, size_t len);

#endif
