//! Runs [`fuzz::nbd`] by libFuzzer, or, in an ordinary build, on the named files.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::nbd(data));

#[cfg(not(fuzzing))]
fn main() {
    fuzz::on_files(fuzz::nbd);
}
