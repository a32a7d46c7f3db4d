//! libFuzzer's way into [`berth_fuzz::passwd`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| berth_fuzz::passwd(data));
