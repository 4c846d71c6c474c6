//! Every target behind one binary: `CMD_FUZZ_TARGET` names it, so that the crate is built and linked once.

#![no_main]

use std::sync::OnceLock;

static TARGET: OnceLock<fn(&[u8])> = OnceLock::new();

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    TARGET.get_or_init(|| {
        let name = std::env::var("CMD_FUZZ_TARGET").unwrap_or_default();
        let found = cmd_native_fuzz::TARGETS.iter().find(|target| target.name == name);
        match found {
            Some(target) => target.run,
            None => {
                eprintln!("no target {name:?}: CMD_FUZZ_TARGET names one");
                std::process::exit(2);
            }
        }
    })(data);
});
