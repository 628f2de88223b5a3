//! [`fuzz::start`], for libFuzzer; in an ordinary build, on the files that are named.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::start(data));

#[cfg(not(fuzzing))]
fn main() {
    fuzz::on_files(fuzz::start);
}
