// SPDX-License-Identifier: GPL-2.0

//! The decoder over arbitrary bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::decode::run(data));
