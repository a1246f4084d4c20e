#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    bodies::send_queue::run(bytes);
});
