#include "base/opt.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/overflow.h"

#define MAX_KEYS 64
#define MAX_WORD 40

/* A number, decimal or 0x..., with (*end) behind it. strtoull() also takes
 * blanks and signs, which here are mistakes. */
static int read_number(const char *text, uint64_t *out, const char **end)
{
	bool is_hex = text[0] == '0' && (text[1] == 'x' || text[1] == 'X');
	char *stop;

	if (!isdigit((unsigned char)text[0]))
		return -EINVAL;
	errno = 0;
	*out = strtoull(text, &stop, is_hex ? 16 : 10);
	*end = stop;
	return errno ? -EINVAL : 0;
}

int opt_size(const char *text, uint64_t unit, uint64_t *out)
{
	static const char suffixes[] = "KMGT";
	const char *end, *at;
	uint64_t n;

	if (read_number(text, &n, &end))
		return -EINVAL;
	if (*end) {
		at = strchr(suffixes, toupper((unsigned char)*end));
		if (!at || end[1])
			return -EINVAL;
		unit = 1ULL << (10 * (at - suffixes + 1));
	} else if (!unit) {
		unit = 1;
	}
	return mul_overflow(n, unit, out) ? -EINVAL : 0;
}

/* Levenshtein's distance; words are short. */
static unsigned edit_distance(const char *a, const char *b)
{
	unsigned row[MAX_WORD + 1];
	unsigned len = (unsigned)strnlen(b, MAX_WORD);

	for (unsigned j = 0; j <= len; j++)
		row[j] = j;
	for (unsigned i = 0; a[i]; i++) {
		unsigned diagonal = row[0];

		row[0] = i + 1;
		for (unsigned j = 0; j < len; j++) {
			unsigned swap = diagonal + (a[i] != b[j]);

			diagonal = row[j + 1];
			row[j + 1] = MIN(swap, MIN(row[j], row[j + 1]) + 1);
		}
	}
	return row[len];
}

const char *opt_nearest(const char *const *names, const char *word)
{
	/* A third of the letters wrong is a slip; more is another word. */
	unsigned best = (unsigned)(strlen(word) + 2) / 3 + 1;
	const char *nearest = NULL;

	if (strlen(word) > MAX_WORD)
		return NULL;
	for (; *names; names++) {
		unsigned distance = edit_distance(word, *names);

		if (distance < best) {
			best = distance;
			nearest = *names;
		}
	}
	return nearest;
}

/* "did you mean 'x'?", or all there is to choose from. */
static void suggest(char *hint, size_t size, const char *const *names,
		    const char *word)
{
	const char *nearest = opt_nearest(names, word);
	size_t len = 0;

	if (nearest) {
		snprintf(hint, size, "did you mean '%s'?", nearest);
		return;
	}
	for (unsigned i = 0; names[i] && len < size; i++)
		len += (size_t)snprintf(hint + len, size - len, "%s%s",
					i ? ", " : "one of: ", names[i]);
}

static int set_uint(const struct opt_desc *desc, const char *what,
		    const char *value, unsigned *out, struct err *err)
{
	bool is_any = !desc->min && !desc->max;
	uint64_t max = is_any ? UINT_MAX : MIN(desc->max, UINT_MAX);
	const char *end;
	uint64_t n;

	if (read_number(value, &n, &end) || *end)
		return err_set(err, EINVAL, desc->help,
			       "%s: %s=%s is not a number", what, desc->name,
			       value);
	if (n < desc->min || n > max)
		return err_set(err, EINVAL, desc->help,
			       "%s: %s=%s is not within %llu to %llu", what,
			       desc->name, value, (unsigned long long)desc->min,
			       (unsigned long long)max);
	*out = (unsigned)n;
	return 0;
}

/* (n) bytes with the largest suffix that divides it. */
static const char *size_text(uint64_t n, char *buf, size_t size)
{
	unsigned power = 0;

	while (power < 4 && n && n % 1024 == 0) {
		n /= 1024;
		power++;
	}
	snprintf(buf, size, "%llu%.1s", (unsigned long long)n,
		 &"\0KMGT"[power]);
	return buf;
}

static int set_size(const struct opt_desc *desc, const char *what,
		    const char *value, uint64_t *out, struct err *err)
{
	char min[32], max[32];
	uint64_t n;

	if (opt_size(value, desc->unit, &n))
		return err_set(err, EINVAL,
			       "a size is a number with K, M, G or T after it",
			       "%s: %s=%s is not a size", what, desc->name,
			       value);
	if ((desc->min || desc->max) && (n < desc->min || n > desc->max))
		return err_set(err, EINVAL, desc->help,
			       "%s: %s=%s is not within %s to %s", what,
			       desc->name, value,
			       size_text(desc->min, min, sizeof(min)),
			       size_text(desc->max, max, sizeof(max)));
	*out = n;
	return 0;
}

static int set_bool(const struct opt_desc *desc, const char *what,
		    const char *value, bool *out, struct err *err)
{
	static const char *const words[] = { "off",  "on", "false",
					     "true", "no", "yes" };

	for (unsigned i = 0; i < ARRAY_SIZE(words); i++) {
		if (!strcmp(value, words[i])) {
			*out = i % 2;
			return 0;
		}
	}
	return err_set(err, EINVAL, "use on or off",
		       "%s: %s=%s is not on or off", what, desc->name, value);
}

static int set_choice(const struct opt_desc *desc, const char *what,
		      const char *value, int *out, struct err *err)
{
	char hint[sizeof(err->hint)];

	for (int i = 0; desc->choices[i]; i++) {
		if (!strcmp(value, desc->choices[i])) {
			*out = i;
			return 0;
		}
	}
	suggest(hint, sizeof(hint), desc->choices, value);
	return err_set(err, EINVAL, hint, "%s: %s=%s is not a choice", what,
		       desc->name, value);
}

static int set_str(const char *value, char **out, struct err *err)
{
	char *copy = strdup(value);

	if (!copy)
		return err_set(err, ENOMEM, NULL, "cannot keep an option:");
	free(*out);
	*out = copy;
	return 0;
}

static void *member_of(const struct opt_desc *desc, void *out)
{
	return (char *)out + desc->offset;
}

int opt_set(const struct opt_desc *desc, const char *what, const char *value,
	    void *out, struct err *err)
{
	void *member = member_of(desc, out);

	switch (desc->type) {
	case OPT_STR:
		return set_str(value, member, err);
	case OPT_BOOL:
		return set_bool(desc, what, value, member, err);
	case OPT_UINT:
		return set_uint(desc, what, value, member, err);
	case OPT_SIZE:
		return set_size(desc, what, value, member, err);
	case OPT_CHOICE:
		return set_choice(desc, what, value, member, err);
	}
	return -EINVAL;
}

int opt_defaults(const struct opt_desc *descs, void *out, struct err *err)
{
	static const size_t sizes[] = {
		[OPT_STR] = sizeof(char *),    [OPT_BOOL] = sizeof(bool),
		[OPT_UINT] = sizeof(unsigned), [OPT_SIZE] = sizeof(uint64_t),
		[OPT_CHOICE] = sizeof(int),
	};
	const struct opt_desc *desc;

	for (desc = descs; desc->name; desc++)
		memset(member_of(desc, out), 0, sizes[desc->type]);
	for (desc = descs; desc->name; desc++) {
		int ret = 0;

		if (desc->def)
			ret = opt_set(desc, "default", desc->def, out, err);
		if (ret)
			return ret;
	}
	return 0;
}

static int unknown_key(const struct opt_desc *descs, const char *what,
		       const char *key, struct err *err)
{
	const char *names[MAX_KEYS + 1];
	char hint[sizeof(err->hint)] = "it takes no keys";
	unsigned n;

	for (n = 0; descs[n].name; n++)
		names[n] = descs[n].name;
	names[n] = NULL;
	if (n)
		suggest(hint, sizeof(hint), names, key);
	return err_set(err, EINVAL, hint, "%s: unknown key '%s'", what, key);
}

/* One "key=value" or "key". */
static int parse_item(const struct opt_desc *descs, const char *what,
		      char *item, uint64_t *seen, void *out, struct err *err)
{
	char *value = strchr(item, '=');
	unsigned i = 0;

	if (value)
		*value++ = 0;
	while (descs[i].name && strcmp(descs[i].name, item) != 0)
		i++;
	if (!descs[i].name)
		return unknown_key(descs, what, item, err);
	if (*seen & 1ULL << i)
		return err_set(err, EINVAL, NULL, "%s: %s is given twice", what,
			       item);
	*seen |= 1ULL << i;
	if (!value && descs[i].type != OPT_BOOL)
		return err_set(err, EINVAL, descs[i].help,
			       "%s: %s needs a value", what, item);
	return opt_set(&descs[i], what, value ? value : "on", out, err);
}

/* Cut the item at (text) off at its comma, with ",," made one comma of its
 * value, and return what follows or NULL. */
static char *cut_item(char *text)
{
	char *to = text;

	for (; *text; text++) {
		if (*text == ',' && *++text != ',') {
			*to = 0;
			return text;
		}
		*to++ = *text;
	}
	*to = 0;
	return NULL;
}

int opt_parse(const struct opt_desc *descs, const char *what, const char *text,
	      void *out, struct err *err)
{
	char *copy, *item, *next;
	uint64_t seen = 0;
	unsigned n = 0;
	int ret = 0;

	while (descs[n].name)
		n++;
	vm_assert(n <= MAX_KEYS);
	if (!text || !*text)
		return 0;
	copy = strdup(text);
	if (!copy)
		return err_set(err, ENOMEM, NULL, "%s:", what);
	for (item = copy; item && !ret; item = next) {
		next = cut_item(item);
		ret = parse_item(descs, what, item, &seen, out, err);
	}
	free(copy);
	return ret;
}

void opt_free(const struct opt_desc *descs, void *out)
{
	for (; descs->name; descs++) {
		if (descs->type == OPT_STR) {
			char **s = member_of(descs, out);

			free(*s);
			*s = NULL;
		}
	}
}
