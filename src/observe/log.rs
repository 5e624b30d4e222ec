//! The application log: what Gantry does and what goes wrong, through `tracing`.
//!
//! Lines go to a [`Sink`], so that neither a full disk nor a reader that stands still holds up a worker. Levels,
//! formats and the default level (ERROR) are Traefik's; the few lines about start and end ([`LIFECYCLE`]) are shown
//! unless the configuration names a level that hides them.

use std::cell::RefCell;
use std::fmt::{Debug, Write};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use super::clock::Clock;
use super::escape;
use super::sink::{Sender, Sink};

/// The target of the lines that an operator wants to see even at the default level: started, listening, drained.
/// `tracing::info!(target: LIFECYCLE, "listening")`.
pub const LIFECYCLE: &str = "gantry::lifecycle";

/// What `log` of the static configuration says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// `level`: TRACE, DEBUG, INFO, WARN, ERROR, FATAL or PANIC, without regard to case. Default: ERROR, and INFO for
    /// [`LIFECYCLE`].
    pub level: Option<String>,
    /// `format`. Default: common.
    pub format: Format,
    /// `filePath`; standard output where absent.
    pub file_path: Option<PathBuf>,
}

/// How lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `2006-01-02T15:04:05Z INF message key=value`
    #[default]
    Common,
    /// One JSON object a line.
    Json,
}

/// The log of the process. Dropping it writes what waits.
#[derive(Debug)]
pub struct Log {
    sink: Sink,
}

impl Log {
    /// Opens the file anew, as SIGUSR1 asks for.
    pub fn reopen(&self) {
        self.sink.reopen();
    }

    /// Waits until all lines are written, at most `limit`. Whether they are.
    pub fn flush(&self, limit: Duration) -> bool {
        self.sink.flush(limit)
    }
}

/// Sets the log of the whole process up.
///
/// # Errors
/// Where the file cannot be opened, or a log was set up before.
pub fn init(options: &LogOptions) -> io::Result<Log> {
    let sink = Sink::open("log", options.file_path.as_deref(), Arc::default())?;
    tracing::subscriber::set_global_default(subscriber(options, &sink)).map_err(io::Error::other)?;
    warn_of_level(options);
    Ok(Log { sink })
}

fn subscriber(options: &LogOptions, sink: &Sink) -> impl Subscriber + Send + Sync + use<> {
    let filter = match options.level.as_deref().and_then(level) {
        Some(level) => Targets::new().with_default(level),
        None => Targets::new()
            .with_default(Level::ERROR)
            .with_target(LIFECYCLE, Level::INFO),
    };
    let lines = Lines {
        format: options.format,
        sender: sink.sender(),
    };
    tracing_subscriber::registry().with(lines.with_filter(filter))
}

fn warn_of_level(options: &LogOptions) {
    if let Some(unknown) = options.level.as_deref().filter(|name| level(name).is_none()) {
        tracing::warn!(target: LIFECYCLE, level = unknown, "log.level is none of TRACE, DEBUG, INFO, WARN, ERROR, \
            FATAL and PANIC; ERROR is used");
    }
}

/// Traefik's names; FATAL and PANIC show what ends the process, which is an error here.
fn level(name: &str) -> Option<LevelFilter> {
    Some(match name.to_ascii_lowercase().as_str() {
        "trace" => LevelFilter::TRACE,
        "debug" => LevelFilter::DEBUG,
        "info" => LevelFilter::INFO,
        "warn" => LevelFilter::WARN,
        "error" | "fatal" | "panic" => LevelFilter::ERROR,
        _ => return None,
    })
}

/// Turns events into lines.
struct Lines {
    format: Format,
    sender: Sender,
}

thread_local! {
    static CLOCK: RefCell<Clock> = RefCell::default();
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields {
            format: self.format,
            message: String::new(),
            rest: Vec::new(),
            text: String::new(),
        };
        event.record(&mut fields);
        let mut time = Vec::with_capacity(24);
        CLOCK.with_borrow_mut(|clock| clock.rfc3339(&mut time, SystemTime::now()));
        self.sender
            .send(line(self.format, *event.metadata().level(), &time, &fields));
    }
}

fn line(format: Format, level: Level, time: &[u8], fields: &Fields) -> Vec<u8> {
    let (short, long) = match level {
        Level::ERROR => ("ERR", "error"),
        Level::WARN => ("WRN", "warn"),
        Level::INFO => ("INF", "info"),
        Level::DEBUG => ("DBG", "debug"),
        Level::TRACE => ("TRC", "trace"),
    };
    let mut out = Vec::with_capacity(256);
    match format {
        Format::Common => {
            out.extend_from_slice(time);
            out.push(b' ');
            out.extend_from_slice(short.as_bytes());
            // A diagnostic with its snippet has several lines. All but the first are set in, so that none of them can
            // pass for a line of its own.
            for (index, part) in fields.message.lines().enumerate() {
                out.extend_from_slice(if index == 0 { b" " } else { b"\n    " });
                escape::prose(&mut out, part.as_bytes());
            }
            out.extend_from_slice(&fields.rest);
        }
        Format::Json => {
            out.extend_from_slice(b"{\"level\":\"");
            out.extend_from_slice(long.as_bytes());
            out.push(b'"');
            out.extend_from_slice(&fields.rest);
            out.extend_from_slice(b",\"time\":\"");
            out.extend_from_slice(time);
            out.extend_from_slice(b"\",\"message\":\"");
            escape::json(&mut out, fields.message.as_bytes());
            out.extend_from_slice(b"\"}");
        }
    }
    out.push(b'\n');
    out
}

/// The fields of an event, the message apart, the rest as it will be written.
struct Fields {
    format: Format,
    message: String,
    rest: Vec<u8>,
    text: String,
}

impl Fields {
    fn name(&mut self, field: &Field) {
        match self.format {
            Format::Common => {
                self.rest.push(b' ');
                self.rest.extend_from_slice(field.name().as_bytes());
                self.rest.push(b'=');
            }
            Format::Json => {
                self.rest.extend_from_slice(b",\"");
                self.rest.extend_from_slice(field.name().as_bytes());
                self.rest.extend_from_slice(b"\":");
            }
        }
    }

    /// A value that needs no quotes in either format.
    fn bare(&mut self, field: &Field, value: &str) {
        self.name(field);
        self.rest.extend_from_slice(value.as_bytes());
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push_str(value);
            return;
        }
        self.name(field);
        let simple = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\' | b'=');
        if self.format == Format::Common && !value.is_empty() && value.bytes().all(simple) {
            self.rest.extend_from_slice(value.as_bytes());
            return;
        }
        self.rest.push(b'"');
        match self.format {
            Format::Common => escape::quoted(&mut self.rest, value.as_bytes()),
            Format::Json => escape::json(&mut self.rest, value.as_bytes()),
        }
        self.rest.push(b'"');
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let mut text = std::mem::take(&mut self.text);
        text.clear();
        // Writing to a string cannot fail; a Debug that does is shown as far as it came.
        let _ = write!(text, "{value:?}");
        self.record_str(field, &text);
        self.text = text;
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.bare(field, if value { "true" } else { "false" });
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.bare(field, itoa::Buffer::new().format(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.bare(field, itoa::Buffer::new().format(value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if value.is_finite() {
            self.bare(field, &value.to_string());
        } else {
            self.record_str(field, &value.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logged(options: &LogOptions, f: impl FnOnce()) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gantry.log");
        let sink = Sink::open("test", Some(&path), Arc::default()).unwrap();
        tracing::subscriber::with_default(subscriber(options, &sink), f);
        drop(sink);
        std::fs::read_to_string(path).unwrap()
    }

    fn options(level: Option<&str>, format: Format) -> LogOptions {
        LogOptions {
            level: level.map(str::to_owned),
            format,
            file_path: None,
        }
    }

    /// Lines without their times.
    fn untimed(text: &str) -> Vec<&str> {
        text.lines()
            .map(|line| line.split_once("Z ").map_or(line, |(_, rest)| rest))
            .collect()
    }

    #[test]
    fn errors_and_the_lifecycle_are_shown_by_default() {
        let all = || {
            tracing::info!("hidden");
            tracing::info!(target: LIFECYCLE, address = %"127.0.0.1:80", "listening");
            tracing::debug!(target: LIFECYCLE, "hidden");
            tracing::error!(count = 3, error = "no such file", "cannot \"read\"");
        };
        let text = logged(&options(None, Format::Common), all);
        assert_eq!(
            untimed(&text),
            [
                "INF listening address=127.0.0.1:80",
                "ERR cannot \"read\" count=3 error=\"no such file\""
            ]
        );
        assert_eq!(untimed(&logged(&options(Some("fatal"), Format::Common), all)).len(), 1);
        assert_eq!(untimed(&logged(&options(Some("Info"), Format::Common), all)).len(), 3);
    }

    #[test]
    fn an_unknown_level_falls_back_with_a_warning() {
        let options = options(Some("loud"), Format::Common);
        let text = logged(&options, || {
            warn_of_level(&options);
            tracing::info!("hidden");
        });
        assert!(
            untimed(&text)[0].starts_with("WRN log.level is none of TRACE"),
            "{text}"
        );
        assert_eq!(text.lines().count(), 1);
    }

    #[test]
    fn no_value_forges_a_line() {
        let write = || tracing::error!(path = %"/x\n2006-01-02T15:04:05Z INF forged", "one\n2006 two\u{1b}[2J");
        let text = logged(&options(None, Format::Common), write);
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].ends_with("ERR one"), "{text}");
        assert_eq!(
            lines[1],
            r#"    2006 two\x1b[2J path="/x\x0a2006-01-02T15:04:05Z INF forged""#
        );
        assert_eq!(lines.len(), 2);
        let text = logged(&options(None, Format::Json), write);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["message"], "one\n2006 two\u{1b}[2J");
        assert_eq!(value["path"], "/x\n2006-01-02T15:04:05Z INF forged");
        assert_eq!(value["level"], "error");
    }

    #[test]
    fn json_keeps_types() {
        let text = logged(&options(Some("TRACE"), Format::Json), || {
            tracing::trace!(a = 1, b = true, c = 0.5, d = f64::NAN, e = ?"x\"", "m");
        });
        let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
        value.as_object_mut().unwrap().remove("time");
        let expected = serde_json::json!({
            "level": "trace", "a": 1, "b": true, "c": 0.5, "d": "NaN", "e": "\"x\\\"\"", "message": "m",
        });
        assert_eq!(value, expected);
    }
}
