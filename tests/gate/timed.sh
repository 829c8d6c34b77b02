#!/usr/bin/env bash
# Runs a test binary so that it says how long each test took; cargo calls it as its runner. libtest lets
# that option pass only where unstable ones are allowed.
exec env RUSTC_BOOTSTRAP=1 "$@" -Z unstable-options --report-time
