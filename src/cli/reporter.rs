//! Lines of progress on stdout, from a thread of their own: a terminal that stands still (`^S`), or a pipe that nobody
//! reads, must not keep whoever reports from the nodes that it watches.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use parking_lot::Mutex;

/// Lines that may wait to be written; further ones are left out, and how many is told.
const MAX_WAITING_LINES: usize = 256;

/// How long whoever reports waits in the end for what is not written yet.
const LAST_LINES: Duration = Duration::from_secs(1);

/// See the module. What was said is written when this is dropped, as far as anybody takes it.
pub(super) struct Reporter {
    /// `None` only while it is dropped.
    lines: Option<SyncSender<String>>,
    left_out: Arc<AtomicUsize>,
    /// Closed once everything is written. Locked only because a receiver cannot be shared.
    ended: Mutex<Receiver<()>>,
}

impl Reporter {
    pub(super) fn start() -> io::Result<Self> {
        Self::to(io::stdout())
    }

    fn to(mut out: impl io::Write + Send + 'static) -> io::Result<Self> {
        let (lines, waiting) = sync_channel::<String>(MAX_WAITING_LINES);
        let (end, ended) = sync_channel(0);
        let left_out = Arc::<AtomicUsize>::default();
        let counted = left_out.clone();
        thread::Builder::new().name("report".into()).spawn(move || {
            let _end = end;
            for line in waiting {
                // Progress that nobody reads is no reason to stop.
                let _ = writeln!(out, "{line}");
                let left_out = counted.swap(0, Ordering::Relaxed);
                if left_out > 0 {
                    let _ = writeln!(out, "({left_out} lines were left out, as nobody read on)");
                }
            }
            let _ = out.flush();
        })?;
        Ok(Self { lines: Some(lines), left_out, ended: Mutex::new(ended) })
    }

    /// Never waits.
    pub(super) fn say(&self, line: &str) {
        let said = self.lines.as_ref().map(|lines| lines.try_send(line.to_owned()));
        if let Some(Err(_)) = said {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.lines = None;
        let _ = self.ended.get_mut().recv_timeout(LAST_LINES);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn what_is_not_read_is_left_out_and_counted() {
        let (mut reader, writer) = io::pipe().unwrap();
        let reporter = Reporter::to(writer).unwrap();
        let long = "x".repeat(1 << 20);
        // The first blocks the thread, as no pipe holds it.
        for _ in 0..MAX_WAITING_LINES + 10 {
            reporter.say(&long);
        }
        let reading = thread::spawn(move || {
            let mut said = String::new();
            reader.read_to_string(&mut said).unwrap();
            said
        });
        drop(reporter);
        let said = reading.join().unwrap();
        let told: Vec<_> = said.lines().filter(|line| line.starts_with('(')).collect();
        let left_out: usize =
            told.iter().filter_map(|line| line[1..].split(' ').next()?.parse::<usize>().ok()).sum();
        assert!((9..=10).contains(&left_out), "{told:?}");
        let written = said.lines().filter(|line| line.len() == long.len()).count();
        assert_eq!(written + left_out, MAX_WAITING_LINES + 10);
    }

    #[test]
    fn everything_is_written_in_order() {
        let (mut reader, writer) = io::pipe().unwrap();
        let reporter = Reporter::to(writer).unwrap();
        (0..100).for_each(|number| reporter.say(&number.to_string()));
        drop(reporter);
        let mut said = String::new();
        reader.read_to_string(&mut said).unwrap();
        assert!(said.lines().map(str::to_owned).eq((0..100).map(|number| number.to_string())), "{said}");
    }
}
