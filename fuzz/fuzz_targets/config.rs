//! libFuzzer's way into [`berth_fuzz::config`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| berth_fuzz::config(data));
