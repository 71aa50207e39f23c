/* ringer: the verbs of the command line. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include "base/opt.h"
#include "cli/args.h"

static const struct cli_verb *const verbs[] = { &cli_run, &cli_list_verb,
						&cli_ctl };

static void print_help(void)
{
	printf("Usage: ringer VERB [options]\n\n"
	       "Runs virtual machines, with or without hardware support.\n\n"
	       "Examples:\n"
	       "  ringer run -k vmlinuz -i initrd -a console=ttyS0\n"
	       "  ringer run -k vmlinuz -i initrd -d root.img -m 2G -c 2 \\\n"
	       "             -a \"console=ttyS0 root=/dev/vda\"\n"
	       "  ringer ctl vm1 status\n\nVerbs:\n");
	for (size_t i = 0; i < ARRAY_SIZE(verbs); i++)
		printf("  %-10s %s\n", verbs[i]->name, verbs[i]->help);
	printf("  %-10s %s\n", "version", "print the version");
	printf("\nringer VERB --help tells more. Exit codes:\n"
	       "  0    the guest powered off\n"
	       "  2    usage error\n"
	       "  110  the guest's kernel crashed   111  triple fault\n"
	       "  125  ringer itself failed         128+N  ended by signal N\n"
	       "  (V*2)+1  the guest wrote V to isa-debug-exit\n");
}

static int usage_error(const struct err *err)
{
	err_print(err);
	return CLI_USAGE;
}

static int unknown_verb(const char *name)
{
	const char *names[ARRAY_SIZE(verbs) + 1] = { NULL }, *near;
	struct err err = { "", "" };
	char hint[80];

	for (size_t i = 0; i < ARRAY_SIZE(verbs); i++)
		names[i] = verbs[i]->name;
	near = opt_nearest(names, name);
	if (near)
		snprintf(hint, sizeof(hint), "did you mean ringer %s?", near);
	else
		snprintf(hint, sizeof(hint), "ringer --help lists them");
	err_set(&err, EINVAL, hint, "there is no verb '%.60s'", name);
	return usage_error(&err);
}

static int run_verb(const struct cli_verb *verb, int argc, char **argv)
{
	struct err err = { "", "" };
	bool wants_help;
	void *args = calloc(1, verb->args_size);
	int code;

	if (!args)
		return CLI_FAILED;
	if (cli_parse(verb, argc, argv, args, &wants_help, &err)) {
		code = usage_error(&err);
	} else if (wants_help) {
		cli_help(verb);
		code = 0;
	} else {
		code = verb->run(args);
	}
	free(args);
	return code;
}

/* What a process may be started with must not change what ringer does: a
 * missing stdin, stdout or stderr, whose number a disk image would get, and a
 * limit on the size of files, which is an error of the write instead. */
static void settle_process(void)
{
	int fd;

	do
		fd = open("/dev/null", O_RDWR);
	while (fd >= 0 && fd <= STDERR_FILENO);
	if (fd >= 0)
		close(fd);
	signal(SIGXFSZ, SIG_IGN);
}

int main(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : "--help";

	settle_process();
	if (!strcmp(name, "--help") || !strcmp(name, "-h") ||
	    !strcmp(name, "help")) {
		print_help();
		return argc > 1 ? 0 : CLI_USAGE;
	}
	if (!strcmp(name, "version") || !strcmp(name, "--version")) {
		printf("ringer %s\n", RINGER_VERSION);
		return 0;
	}
	for (size_t i = 0; i < ARRAY_SIZE(verbs); i++)
		if (!strcmp(name, verbs[i]->name))
			return run_verb(verbs[i], argc - 2, argv + 2);
	return unknown_verb(name);
}
