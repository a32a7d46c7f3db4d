//! libFuzzer's way into [`berth_fuzz::resources`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| berth_fuzz::resources(data));
