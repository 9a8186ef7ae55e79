# What a newcomer types. Debian 12 (or newer) with apt-get; elsewhere install the packages below by hand and use the
# presets in CMakePresets.json.
PACKAGES := g++ cmake ninja-build make pkg-config libabsl-dev libyaml-cpp-dev nlohmann-json3-dev libpcre2-dev \
            libhwy-dev libgtest-dev libgmock-dev libbenchmark-dev
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
JOBS ?= $(shell nproc)

.PHONY: demo build test asan tsan format packages clean

# Generates text with the demo pair, then measures it against its target alone.
demo: build
	build/tandem run configs/demo.yaml
	build/tandem bench configs/demo.yaml

build: packages
	cmake --preset release
	cmake --build build -j $(JOBS) --target tandem

test: packages
	cmake --preset release
	cmake --build build -j $(JOBS)
	ctest --test-dir build -j $(JOBS) --output-on-failure

# The whole suite under AddressSanitizer and UBSan; the tests that run threads against each other under ThreadSanitizer.
asan tsan: packages
	cmake --preset $@
	cmake --build build-$@ -j $(JOBS)
	ctest --preset $@ -j $(JOBS)

format:
	git ls-files '*.h' '*.cc' '*.cu' '*.cuh' | xargs clang-format -i

# Installs what is missing, and nothing if nothing is.
packages:
	@if command -v dpkg-query >/dev/null; then \
	  missing=""; \
	  for p in $(PACKAGES); do \
	    dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$p"; \
	  done; \
	  if [ -n "$$missing" ]; then \
	    echo "installing:$$missing"; \
	    $(SUDO) apt-get update -qq && DEBIAN_FRONTEND=noninteractive $(SUDO) apt-get install -y -qq $$missing; \
	  fi; \
	else \
	  echo "no dpkg here: make sure that you have $(PACKAGES) or their like"; \
	fi

clean:
	rm -rf build build-debug build-asan build-tsan build-cuda
