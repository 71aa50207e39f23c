/*
 * Options given as "key=value,key=value", described by tables. The same
 * tables print the help, so an option cannot exist without its words.
 */
#ifndef BASE_OPT_H
#define BASE_OPT_H

#include "base/base.h"
#include "base/err.h"

/** How a value is read. */
enum opt_type {
	OPT_STR,    /* char * member, allocated; freed by opt_free() */
	OPT_BOOL,   /* bool: on/off, true/false, yes/no; bare key is on */
	OPT_UINT,   /* unsigned, within [min, max] */
	OPT_SIZE,   /* uint64_t bytes, suffix K M G T (binary); bare number is
		       * multiplied by (unit), within [min, max] */
	OPT_CHOICE, /* int: index into (choices) */
};

/** One key of an option, and where its value goes. */
struct opt_desc {
	const char *name;
	enum opt_type type;
	size_t offset;
	const char *help;
	const char *def;   /* default, in the syntax of a value; NULL: zero */
	uint64_t min, max; /* both 0: any */
	uint64_t unit;     /* OPT_SIZE: of a bare number; 0 means bytes */
	const char *const *choices; /* ends with NULL */
};

#define OPT_END              \
	{                    \
		.name = NULL \
	}

/** Fill (out) with the defaults of (descs). Returns 0 or -errno with (err). */
int opt_defaults(const struct opt_desc *descs, void *out, struct err *err);

/**
 * Read (text), "key=value,..." (",," is a literal comma in a value), into
 * (out). (what) names the option in messages ("--device virtio-blk"). An
 * unknown key, a value out of range or a key given twice is -EINVAL with a
 * message that names the nearest known key. (text) may be NULL or empty.
 */
int opt_parse(const struct opt_desc *descs, const char *what, const char *text,
	      void *out, struct err *err);

/** Read one value of (desc) into (out). Errors as opt_parse(). */
int opt_set(const struct opt_desc *desc, const char *what, const char *value,
	    void *out, struct err *err);

/** Free what OPT_STR members of (out) hold. */
void opt_free(const struct opt_desc *descs, void *out);

/** Read a size, "512M" or a bare number times (unit). 0 or -EINVAL. */
int opt_size(const char *text, uint64_t unit, uint64_t *out);

/** The entry of (names), which ends with NULL, nearest to (word) in spelling,
 * or NULL when none is near. */
const char *opt_nearest(const char *const *names, const char *word);

#endif
