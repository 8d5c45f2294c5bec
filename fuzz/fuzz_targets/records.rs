#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| relatch_fuzz::run("records", input));
