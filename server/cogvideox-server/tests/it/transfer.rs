//! What someone sees who waits for a download.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use cogvideox_server::transfer::Transfer;
use indicatif::{InMemoryTerm, ProgressDrawTarget};
use outbound::hub::Progress;

#[derive(Clone, Default)]
struct Page(Arc<Mutex<Vec<u8>>>);

impl Write for Page {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

const MIB: u64 = 1 << 20;

fn planned() -> Progress<'static> {
    Progress::Planned { files: 2, total_bytes: 2000 * MIB, present_bytes: 200 * MIB }
}

fn file(path: &str, mib: u64) -> Progress<'_> {
    Progress::File { path, present_bytes: mib * MIB, total_bytes: 1000 * MIB }
}

#[test]
fn lines_tell_each_tenth_with_speed_and_time_left() {
    let (page, tick, start) = (Page::default(), Arc::new(Mutex::new(Duration::ZERO)), Instant::now());
    let clock = tick.clone();
    let transfer = Transfer::lines(Box::new(page.clone()), Box::new(move || start + *clock.lock().unwrap()));
    transfer.hear(planned());
    // What is here from an earlier attempt is no progress of this one.
    transfer.hear(file("a", 200));
    transfer.hear(file("b", 0));
    *tick.lock().unwrap() = Duration::from_secs(10);
    transfer.hear(file("a", 300));
    transfer.hear(file("b", 100));
    transfer.hear(file("b", 150));
    transfer.hear(file("b", 300));
    let error = outbound::Error::Busy { path: "a".to_owned() };
    transfer.hear(Progress::Retry { error: &error, delay: Duration::from_millis(500) });
    // One that starts over is not told again at each tenth.
    transfer.hear(file("b", 0));
    transfer.hear(file("b", 300));
    let expected = "download 2 files, 2.0 GiB\n\
                    download 20 %  0.4 of 2.0 GiB  20.0 MiB/s, eta 1:20\n\
                    download 30 %  0.6 of 2.0 GiB  40.0 MiB/s, eta 0:35\n\
                    warning: a: another process is fetching it; wait for that one, or end it; trying again in 1 s\n";
    assert_eq!(String::from_utf8(page.0.lock().unwrap().clone()).unwrap(), expected);
}

#[test]
fn a_terminal_shows_each_file_and_all_together() {
    let terminal = InMemoryTerm::new(10, 80);
    let transfer = Transfer::bars(ProgressDrawTarget::term_like(Box::new(terminal.clone())));
    transfer.hear(planned());
    transfer.hear(file("transformer/a.safetensors", 500));
    transfer.hear(file("vae/b.safetensors", 250));
    let shown = terminal.contents();
    for words in ["transformer/a.safetensors", "500.00 MiB/1000.00 MiB", "250.00 MiB", "download", "/s eta"] {
        assert!(shown.contains(words), "{shown}");
    }
    drop(transfer);
    assert_eq!(terminal.contents(), "");
}
