// SPDX-License-Identifier: GPL-2.0

//! The executor with memory that fails, changes and denies.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::execute::run(data));
