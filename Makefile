# A face: meson, ninja and prove do the work. The first run of any target
# installs the Debian packages that are missing (as root, or through sudo).
BUILD ?= build
NINJA := ninja -C $(BUILD)

.PHONY: all demo check soak bench lint format docs clean
all: $(BUILD)/build.ninja
	@$(NINJA) --quiet
	@echo "built $(BUILD)/ringer"

$(BUILD)/build.ninja:
	@tools/install-packages build
	meson setup $(BUILD) $(MESON_ARGS)

# Boot a real Debian guest to a prompt.
demo:
	@tools/install-packages build demo
	@$(MAKE) --no-print-directory all
	@tools/demo $(BUILD)/ringer

# Every everyday test, then one closing line.
check:
	@tools/install-packages build check
	@$(MAKE) --no-print-directory all
	@tools/run-tests $(BUILD) check

# What takes long: the same tests with more cases, and whole systems.
soak:
	@tools/install-packages build check
	@$(MAKE) --no-print-directory all
	@tools/run-tests $(BUILD) soak

# How fast, against QEMU's software CPU on this host.
bench:
	@tools/install-packages build check
	@$(MAKE) --no-print-directory all
	@tools/bench $(BUILD)/ringer

lint:
	@tools/install-packages build lint
	@$(MAKE) --no-print-directory $(BUILD)/build.ninja
	@$(NINJA) --quiet ringer
	@tools/lint $(BUILD)

format:
	@find src tests docs -name '*.[ch]' | xargs clang-format -i

docs:
	@tools/install-packages build lint
	@$(MAKE) --no-print-directory all
	@DOXYGEN_OUTPUT=$(BUILD) doxygen docs/Doxyfile
	@tools/gen-control-docs $(BUILD)/ringer >docs/control-api.md

clean:
	rm -rf $(BUILD)
