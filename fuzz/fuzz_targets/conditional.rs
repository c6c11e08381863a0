//! See the law of this name in `src/laws.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ticketgate::laws::conditional(bytes));
