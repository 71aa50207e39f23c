/* Which accelerator runs a machine. */
#include <errno.h>

#include "machine/vm.h"

/* "81 M", "340 K": people compare orders of magnitude. */
static const char *speed_text(int64_t per_second, char *buf, size_t size)
{
	static const char units[] = " KMG";
	unsigned unit = 0;

	for (; per_second >= 10000 && units[unit + 1]; unit++)
		per_second /= 1000;
	if (per_second >= 1000 && units[unit + 1])
		snprintf(buf, size, "%lld.%lld %c instructions/s",
			 (long long)(per_second / 1000),
			 (long long)(per_second / 100 % 10), units[unit + 1]);
	else
		snprintf(buf, size, "%lld %c instructions/s",
			 (long long)per_second, units[unit]);
	return buf;
}

/* Append why (ops) was not taken, without saying its name twice. */
static void add_other(char *reason, size_t size, const struct accel_ops *ops,
		      int64_t speed, const struct err *err)
{
	size_t len = strlen(reason), name = strlen(ops->name);
	const char *why = err->what;
	char text[40];

	if (speed > 0)
		why = speed_text(speed, text, sizeof(text));
	else if (!strncmp(why, ops->name, name) && why[name] == ':')
		why += name + 1 + (why[name + 1] == ' ');
	snprintf(reason + len, size - len, "%s%s: %s", len ? "; " : "",
		 ops->name, why);
}

static int choose_fastest(const struct accel_ops **ops,
			  const struct accel_ops *const *all, char *reason,
			  size_t reason_size, struct err *err)
{
	char others[400] = "", text[40];
	const struct accel_ops *best = NULL;
	int64_t best_speed = 0;
	struct err best_err = { .what = "" };

	for (; *all; all++) {
		struct err why = { .what = "" };
		int64_t speed;

		if (*all == &accel_kvm_user) /* only where asked for */
			continue;
		speed = (*all)->probe(&why);
		if (speed > best_speed) {
			if (best)
				add_other(others, sizeof(others), best,
					  best_speed, &best_err);
			best = *all;
			best_speed = speed;
		} else {
			add_other(others, sizeof(others), *all, speed, &why);
		}
	}
	if (!best)
		return err_set(err, ENODEV, NULL, "no accelerator works: %s",
			       others);
	*ops = best;
	snprintf(reason, reason_size, "%s, %s%s%s%s", best->name,
		 speed_text(best_speed, text, sizeof(text)),
		 others[0] ? " (" : "", others, others[0] ? ")" : "");
	return 0;
}

int accel_choose(const struct accel_ops **ops, const char *name,
		 const struct accel_ops *const *all, char *reason,
		 size_t reason_size, struct err *err)
{
	struct err why = { .what = "" };
	int64_t speed;

	reason[0] = 0;
	if (!name || !strcmp(name, "auto"))
		return choose_fastest(ops, all, reason, reason_size, err);
	for (; *all; all++)
		if (!strcmp((*all)->name, name))
			break;
	if (!*all)
		return err_set(err, EINVAL, "use auto, kvm, bt or interp",
			       "there is no accelerator '%s'", name);
	speed = (*all)->probe(&why);
	if (speed < 0)
		return err_set(err, (int)-speed,
			       why.hint[0] ? why.hint
					   : "use --accel auto or interp",
			       "%s", why.what[0] ? why.what : name);
	*ops = *all;
	return 0;
}
