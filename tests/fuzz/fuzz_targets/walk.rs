// SPDX-License-Identifier: GPL-2.0

//! The guest's page walk over arbitrary memory.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::walk::run(data));
