//! A file, or standard output, that lines are written to by a thread of its own.
//!
//! Who logs never waits: batches go through a bounded queue, and where the queue is full (a slow disk, a reader that
//! stands still) or the disk is, lines are dropped and counted. A sink opens its file anew when asked to, so that log
//! rotation works by rename and signal.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::thread;
use std::time::{Duration, Instant};

use super::metrics::Counter;

/// Batches that wait for the thread at most.
const QUEUE: usize = 256;
/// How long a sink that is dropped waits for a disk or a reader that stands still.
const CLOSE_WAIT: Duration = Duration::from_secs(1);

enum Message {
    Batch(Vec<u8>),
    /// Wakes the thread, so that it sees the reopen flag.
    Wake,
    /// Answers once all before it is written.
    Flush(SyncSender<()>),
}

/// Where a sink writes, and the thread that does it. Dropping it writes what waits.
#[derive(Debug)]
pub struct Sink {
    sender: Sender,
}

/// Hands batches of whole lines to a sink.
#[derive(Clone, Debug)]
pub struct Sender {
    queue: SyncSender<Message>,
    reopen: Arc<AtomicBool>,
    dropped: Arc<Counter>,
}

impl Sink {
    /// Opens `path` (standard output where there is none) and starts the thread. Missing folders are made; the file is
    /// appended to, and readable by owner and group only.
    ///
    /// # Errors
    /// Where the file cannot be opened or the thread not started.
    pub fn open(name: &str, path: Option<&Path>, dropped: Arc<Counter>) -> io::Result<Self> {
        let target = match path {
            Some(path) => open(path)?,
            // Not through the standard library's own buffer: it would keep what could not be written.
            None => File::from(io::stdout().as_fd().try_clone_to_owned()?),
        };
        Self::start(name, Box::new(target), path, dropped)
    }

    fn start(name: &str, target: Target, path: Option<&Path>, dropped: Arc<Counter>) -> io::Result<Self> {
        let (queue, messages) = mpsc::sync_channel(QUEUE);
        let reopen = Arc::new(AtomicBool::new(false));
        let writer = Writer {
            target,
            path: path.map(Path::to_owned),
            reopen: Arc::clone(&reopen),
            dropped: Arc::clone(&dropped),
            torn: false,
            failing: false,
        };
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || writer.run(&messages))?;
        Ok(Self {
            sender: Sender { queue, reopen, dropped },
        })
    }

    /// A handle for one who writes.
    pub fn sender(&self) -> Sender {
        self.sender.clone()
    }

    /// Opens the file anew before the next write: the old one was renamed. Where that fails, the old one stays.
    pub fn reopen(&self) {
        self.sender.reopen.store(true, Ordering::Relaxed);
        // A full queue wakes the thread by itself.
        let _ = self.sender.queue.try_send(Message::Wake);
    }

    /// Waits until all that was sent before is written, or `limit` is over. Whether it is written.
    pub fn flush(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let (done, written) = mpsc::sync_channel(1);
        let mut message = Message::Flush(done);
        while let Err(TrySendError::Full(back)) = self.sender.queue.try_send(message) {
            if Instant::now() >= deadline {
                return false;
            }
            message = back;
            thread::sleep(Duration::from_millis(1));
        }
        written
            .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            .is_ok()
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.flush(CLOSE_WAIT);
    }
}

impl Sender {
    /// Hands a batch over; drops it, counted by its line ends, where the queue is full. Whether it was taken.
    pub fn send(&self, batch: Vec<u8>) -> bool {
        if batch.is_empty() {
            return true;
        }
        match self.queue.try_send(Message::Batch(batch)) {
            Ok(()) => true,
            Err(TrySendError::Full(message) | TrySendError::Disconnected(message)) => {
                if let Message::Batch(batch) = message {
                    self.dropped.add(lines(&batch));
                }
                false
            }
        }
    }
}

fn lines(batch: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', batch).count() as u64
}

type Target = Box<dyn Write + Send>;

struct Writer {
    target: Target,
    /// What to open anew; nothing for standard output.
    path: Option<PathBuf>,
    reopen: Arc<AtomicBool>,
    dropped: Arc<Counter>,
    /// A write ended within a line.
    torn: bool,
    /// The last write failed; said once.
    failing: bool,
}

impl Writer {
    fn run(mut self, messages: &Receiver<Message>) {
        while let Ok(message) = messages.recv() {
            if self.reopen.swap(false, Ordering::Relaxed) {
                self.reopen_file();
            }
            match message {
                Message::Batch(batch) => self.write(&batch),
                Message::Wake => {}
                Message::Flush(done) => {
                    // Whoever asked may have stopped waiting.
                    let _ = done.try_send(());
                }
            }
        }
    }

    fn reopen_file(&mut self) {
        if let Some(path) = &self.path {
            match open(path) {
                Ok(file) => {
                    self.target = Box::new(file);
                    self.torn = false;
                }
                Err(error) => tracing::error!(path = %path.display(), %error, "cannot open the log file anew"),
            }
        }
    }

    fn write(&mut self, batch: &[u8]) {
        if self.torn {
            match self.write_bytes(b"\n") {
                Ok(()) => self.torn = false,
                Err(_) => return self.dropped.add(lines(batch)),
            }
        }
        match self.write_bytes(batch) {
            Ok(()) => self.failing = false,
            Err((written, error)) => {
                self.torn = written > 0 && batch[written - 1] != b'\n';
                self.dropped.add(lines(&batch[written..]));
                // Not through a log that may be this very sink more often than once.
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::error!(%error, "cannot write the log; lines are dropped");
                }
            }
        }
    }

    /// Like `write_all`, but tells how far it came.
    fn write_bytes(&mut self, bytes: &[u8]) -> Result<(), (usize, io::Error)> {
        let mut written = 0;
        while written < bytes.len() {
            match self.target.write(&bytes[written..]) {
                Ok(0) => return Err((written, ErrorKind::WriteZero.into())),
                Ok(more) => written += more,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err((written, error)),
            }
        }
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    let with_path = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(with_path)?;
    }
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
        .map_err(with_path)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc::Sender as Release;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    fn read(path: &Path) -> String {
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn lines_arrive_in_order_and_a_renamed_file_is_let_go() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/access.log");
        let sink = Sink::open("test", Some(&path), Arc::default()).unwrap();
        let sender = sink.sender();
        assert!(sender.send(b"one\ntwo\n".to_vec()));
        assert!(sink.flush(LONG));
        let old = folder.path().join("old.log");
        std::fs::rename(&path, &old).unwrap();
        sink.reopen();
        sender.send(b"three\n".to_vec());
        drop(sink);
        assert_eq!((read(&old).as_str(), read(&path).as_str()), ("one\ntwo\n", "three\n"));
    }

    #[test]
    fn a_file_that_cannot_be_opened_anew_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dir/a.log");
        let sink = Sink::open("test", Some(&path), Arc::default()).unwrap();
        let old = folder.path().join("old.log");
        std::fs::rename(&path, &old).unwrap();
        std::fs::create_dir(&path).unwrap();
        sink.reopen();
        sink.sender().send(b"kept\n".to_vec());
        assert!(sink.flush(LONG));
        assert_eq!(read(&old), "kept\n");
        assert!(
            Sink::open("test", Some(&path), Arc::default())
                .unwrap_err()
                .to_string()
                .contains("a.log")
        );
    }

    #[test]
    fn a_full_disk_drops_and_counts() {
        let dropped = Arc::<Counter>::default();
        let sink = Sink::open("test", Some(Path::new("/dev/full")), Arc::clone(&dropped)).unwrap();
        sink.sender().send(b"one\ntwo\n".to_vec());
        sink.sender().send(b"three\n".to_vec());
        assert!(sink.flush(LONG));
        assert_eq!(dropped.get(), 3);
    }

    /// Takes some bytes, then none, then all.
    struct Tearing(Vec<usize>, Arc<Mutex<Vec<u8>>>);

    impl Write for Tearing {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let length = self.0.pop().unwrap_or(bytes.len()).min(bytes.len());
            if length == 0 {
                return Err(io::Error::from(ErrorKind::StorageFull));
            }
            self.1.lock().unwrap().extend_from_slice(&bytes[..length]);
            Ok(length)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_torn_line_is_ended_before_the_next() {
        let (dropped, out) = (Arc::<Counter>::default(), Arc::<Mutex<Vec<u8>>>::default());
        let target = Tearing(vec![0, 6], Arc::clone(&out));
        let sink = Sink::start("test", Box::new(target), None, Arc::clone(&dropped)).unwrap();
        sink.sender().send(b"one\ntwo\nthree\n".to_vec());
        sink.sender().send(b"four\n".to_vec());
        assert!(sink.flush(LONG));
        assert_eq!(String::from_utf8_lossy(&out.lock().unwrap()), "one\ntw\nfour\n");
        assert_eq!(dropped.get(), 2);
    }

    /// Stands still until it is released.
    struct Stuck(Receiver<()>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // An error means: released for good.
            let _ = self.0.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_stands_still_costs_lines_but_no_time() {
        let dropped = Arc::<Counter>::default();
        let (release, wait): (Release<()>, _) = mpsc::channel();
        let sink = Sink::start("test", Box::new(Stuck(wait)), None, Arc::clone(&dropped)).unwrap();
        let sender = sink.sender();
        let taken = (0..QUEUE + 10).filter(|_| sender.send(b"a\nb\n".to_vec())).count();
        // The thread may hold one batch besides those in the queue.
        assert!((QUEUE..=QUEUE + 1).contains(&taken), "{taken}");
        assert_eq!(dropped.get(), 2 * (QUEUE + 10 - taken) as u64);
        assert!(!sink.flush(Duration::ZERO));
        drop(release);
        assert!(sink.flush(LONG));
    }
}
