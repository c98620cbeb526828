//! Writes log lines to standard output from a thread of its own: a stalled reader blocks no work.
//!
//! `tracing-appender` does the same, but for the end: its guard prints to standard output when its queue is full, and
//! so waits for the very reader that has stalled.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::time::Duration;

use contract::Timestamp;
use tokio::sync::oneshot;

use crate::metrics::meter;

/// Lines that may wait; the next one is dropped. At about 400 bytes each it is under 2 MB.
const MAX_WAITING: usize = 4096;
/// Lines are written together up to this size.
const BATCH: usize = 64 * 1024;
/// Between two attempts where output that takes nothing at the moment says so instead of waiting.
const RETRY: Duration = Duration::from_millis(10);
/// How long the thread rests after it has written: waking it for each line costs more than the line.
const REST: Duration = Duration::from_millis(5);
/// How long the last lines may take.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Where log lines go. Cloning shares it.
#[derive(Debug, Clone)]
pub(super) struct Output {
    queue: SyncSender<Message>,
    dropped: Arc<Dropped>,
}

/// Lines that are lost.
#[derive(Debug, Default)]
struct Dropped {
    /// Since the process began.
    total: AtomicU64,
    /// Since the log last said so.
    unsaid: AtomicU64,
}

impl Dropped {
    fn count(&self, lines: u64) {
        self.total.fetch_add(lines, Ordering::Relaxed);
        self.unsaid.fetch_add(lines, Ordering::Relaxed);
    }
}

#[derive(Debug)]
enum Message {
    Line(String),
    /// Everything before it is written once this is dropped.
    Flush(oneshot::Sender<()>),
}

impl Output {
    /// Standard output.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub(super) fn start() -> io::Result<Self> {
        // Without the buffer of `Stdout`, which does not report how much was written.
        Self::to(File::from(io::stdout().as_fd().try_clone_to_owned()?))
    }

    pub(super) fn to(writer: impl Write + Send + 'static) -> io::Result<Self> {
        let (queue, waiting) = sync_channel(MAX_WAITING);
        let dropped = Arc::<Dropped>::default();
        let seen = Arc::clone(&dropped);
        // Ends with the process, or when every clone of the sender is gone. It is waited for no longer than
        // the flush does.
        std::thread::Builder::new()
            .name("log lines".to_owned())
            .spawn(move || write(&waiting, writer, &seen))?;
        Ok(Self { queue, dropped })
    }

    /// Hands a line over, or drops it when too many wait. Never blocks.
    pub(super) fn line(&self, line: String) {
        if let Err(TrySendError::Full(_)) = self.queue.try_send(Message::Line(line)) {
            self.dropped.count(1);
        }
    }

    /// Waits until what was handed over is written, for a second at most.
    pub(super) async fn flush(&self) {
        let flushed = async {
            let (done, is_done) = oneshot::channel();
            let mut flush = Message::Flush(done);
            while let Err(TrySendError::Full(back)) = self.queue.try_send(flush) {
                flush = back;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            // Fails when it is done.
            let _ = is_done.await;
        };
        let _ = tokio::time::timeout(FLUSH_TIMEOUT, flushed).await;
    }

    /// Has what is dropped counted with all other figures.
    pub(super) fn observe(&self) {
        let dropped = Arc::clone(&self.dropped);
        meter()
            .u64_observable_counter("eventboard.log.dropped")
            .with_unit("{line}")
            .with_description("Log lines that were dropped because standard output was not read")
            .with_callback(move |observer| observer.observe(dropped.total.load(Ordering::Relaxed), &[]))
            .build();
    }
}

/// Writes what comes until no more can come.
fn write(waiting: &Receiver<Message>, mut writer: impl Write, dropped: &Dropped) {
    let mut batch = String::with_capacity(BATCH);
    let mut flushed = Vec::new();
    while let Ok(first) = waiting.recv() {
        let mut next = Ok(first);
        loop {
            match next {
                Ok(Message::Line(line)) => batch.push_str(&line),
                Ok(Message::Flush(done)) => flushed.push(done),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
            if batch.len() >= BATCH {
                break;
            }
            next = waiting.try_recv();
        }
        let is_behind = batch.len() >= BATCH;
        dropped.count(write_lines(&mut writer, &batch));
        batch.clear();
        let lines = dropped.unsaid.swap(0, Ordering::Relaxed);
        if lines > 0 {
            let time = Timestamp::now();
            let notice = format!(
                "{{\"time\":\"{time}\",\"level\":\"WARN\",\"message\":\"log lines were dropped because standard \
                 output was not read\",\"target\":\"{}\",\"dropped\":{lines}}}\n",
                module_path!()
            );
            if write_lines(&mut writer, &notice) > 0 {
                dropped.unsaid.fetch_add(lines, Ordering::Relaxed);
            }
        }
        flushed.clear();
        if !is_behind {
            rest(REST);
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "on a thread of its own")]
fn rest(duration: Duration) {
    std::thread::sleep(duration);
}

/// Writes the lines, and returns how many of them are lost: the reader may be gone.
fn write_lines(writer: &mut impl Write, lines: &str) -> u64 {
    let mut left = lines.as_bytes();
    while !left.is_empty() {
        match writer.write(left) {
            Ok(0) => break,
            Ok(written) => left = &left[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Another process that shares the pipe may have set it so.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => rest(RETRY),
            Err(_) => break,
        }
    }
    left.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Condvar, Mutex};

    /// An output whose reader has stalled until it is released.
    #[derive(Clone, Default)]
    struct Stalled(Arc<(Mutex<Reader>, Condvar)>);

    #[derive(Default)]
    struct Reader {
        reads: bool,
        read: Vec<u8>,
    }

    impl Stalled {
        fn go_on(&self) {
            self.0.0.lock().unwrap().reads = true;
            self.0.1.notify_all();
        }

        fn text(&self) -> String {
            String::from_utf8(self.0.0.lock().unwrap().read.clone()).unwrap()
        }
    }

    impl Write for Stalled {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let (state, goes_on) = &*self.0;
            let mut state = goes_on.wait_while(state.lock().unwrap(), |state| !state.reads).unwrap();
            state.read.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// An output of which every second attempt takes ten bytes, and the others none, until it breaks.
    #[derive(Clone, Default)]
    struct Moody(Arc<Mutex<(bool, Vec<u8>)>>);

    impl Write for Moody {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let (takes, read) = &mut *self.0.lock().unwrap();
            *takes = !*takes;
            if read.len() >= 40 {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            if !*takes {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let taken = bytes.len().min(10);
            read.extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn output_that_takes_nothing_for_a_moment_loses_nothing_and_what_is_lost_is_counted() {
        let moody = Moody::default();
        assert_eq!(write_lines(&mut moody.clone(), "one line of text\nanother\n"), 0);
        assert_eq!(moody.0.lock().unwrap().1, b"one line of text\nanother\n");
        assert_eq!(write_lines(&mut moody.clone(), "twenty bytes of it.\ncut off\nthird\n"), 2);
    }

    #[tokio::test]
    async fn a_stalled_reader_stops_nobody_and_is_told_what_it_missed() {
        let stalled = Stalled::default();
        let output = Output::to(stalled.clone()).unwrap();
        for number in 0..MAX_WAITING * 2 {
            output.line(format!("{number}\n"));
        }
        let begun = std::time::Instant::now();
        output.flush().await;
        assert!(begun.elapsed() < FLUSH_TIMEOUT * 2, "the end waits for a reader");
        let dropped = output.dropped.total.load(Ordering::Relaxed);
        assert!(dropped > 0);
        stalled.go_on();
        // Until then there is no room for another line.
        output.flush().await;
        output.line("after\n".to_owned());
        output.flush().await;
        let text = stalled.text();
        assert!(text.starts_with("0\n1\n2\n") && text.contains("after\n"), "{text}");
        let said: Vec<&str> = text.lines().filter(|line| line.contains("were dropped")).collect();
        assert_eq!(said.len(), 1, "{said:?}");
        let said: serde_json::Value = serde_json::from_str(said[0]).unwrap();
        assert_eq!(said["dropped"], dropped);
        assert_eq!(text.lines().count() as u64, MAX_WAITING as u64 * 2 + 2 - dropped);
    }
}
